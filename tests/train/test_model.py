"""The networks: torchvision's, their weights and their first predictions."""

import sys
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save

from serengeti_etl.errors import ConfigError
from serengeti_etl.train import model as model_room
from serengeti_etl.train.layers import parameter_groups, set_trainable
from serengeti_etl.train.model import Classifier, build_classifier

MEANS = np.array([0.7, 0.01, 0.2])


@pytest.fixture(scope="module")
def resnet18() -> Classifier:
    """A real ResNet18 from random weights."""
    torch.manual_seed(0)
    return build_classifier("resnet18", MEANS, None)


def test_a_fresh_model_predicts_the_class_means(resnet18: Classifier) -> None:
    """The head's bias is the logit of the class means, so training starts at their score."""
    images_BCHW = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        logits_BC = resnet18.eval()(images_BCHW)
    assert logits_BC.dtype == torch.float32
    assert np.abs(torch.sigmoid(logits_BC).numpy() - MEANS).max() < 0.1


def test_weights_with_torchvisions_names_are_taken(tmp_path: Path, resnet18: Classifier) -> None:
    """A .pth of 1,000 classes gives all layers but the last; another network's is refused."""
    from torchvision.models import resnet18 as reference  # importable once a model was built

    torch.manual_seed(1)
    state = reference(weights=None).state_dict()
    url = str(tmp_path / "resnet18.pth")
    torch.save(state, url)
    model = build_classifier("resnet18", MEANS, url)
    own = model.network.state_dict()
    assert own.keys() == state.keys() == resnet18.network.state_dict().keys()
    assert all(torch.equal(own[k], v) for k, v in state.items() if not k.startswith("fc."))
    assert own["fc.weight"].shape == (3, 512)
    with pytest.raises(ConfigError, match="does not fit the model"):
        build_classifier("resnet50", MEANS, url)


def test_useless_weights_are_refused(tmp_path: Path) -> None:
    """A missing file and a file of something else are named, with the ways out."""
    with pytest.raises(ConfigError, match="there is no such file"):
        build_classifier("resnet18", MEANS, str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ConfigError, match="holds no tensors"):
        build_classifier("resnet18", MEANS, str(tmp_path / "text.pth"))


def test_freezing_reaches_batch_norm(resnet18: Classifier) -> None:
    """In the head stage only the last layer has gradients, and BatchNorm is in eval mode."""
    set_trainable(resnet18, "head")
    trained = [name for name, p in resnet18.network.named_parameters() if p.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]
    norms = [m for m in resnet18.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    set_trainable(resnet18, "all")
    assert all(norm.training for norm in norms)
    assert all(p.requires_grad for p in resnet18.network.parameters())


def test_groups_hold_every_weight_once(resnet18: Classifier) -> None:
    """Rates rise evenly from the stem to the head; no decay for biases and BatchNorm."""
    set_trainable(resnet18, "all")
    groups = parameter_groups(resnet18, 0.01, 0.01)
    assert sum(len(group["params"]) for group in groups) == len(list(resnet18.parameters()))
    names = {id(p): name for name, p in resnet18.network.named_parameters()}
    rates: dict[str, float] = {}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
        rates |= {names[id(p)].partition(".")[0]: group["rate"] for p in group["params"]}
    assert rates["conv1"] == rates["bn1"] == pytest.approx(0.01)
    assert rates["fc"] == 1
    layers = [rates[name] for name in ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")]
    assert [b / a for a, b in pairwise(layers)] == pytest.approx([100**0.2] * 5)


def test_the_last_block_can_be_tuned_with_the_head(resnet18: Classifier) -> None:
    """Of layer4 and the head weights move and BatchNorm counts; all below is frozen."""
    set_trainable(resnet18, "layer4")
    trained = {
        n.partition(".")[0] for n, p in resnet18.network.named_parameters() if p.requires_grad
    }
    assert trained == {"layer4", "fc"}
    modes = {n: m.training for n, m in resnet18.network.named_modules() if n.endswith("bn1")}
    assert {name: mode for name, mode in modes.items() if name.startswith("layer4")} == {
        "layer4.0.bn1": True,
        "layer4.1.bn1": True,
    }
    assert not any(mode for name, mode in modes.items() if not name.startswith("layer4"))


def test_weights_come_as_safetensors_too(tmp_path: Path, resnet18: Classifier) -> None:
    """A .safetensors gives what the .pth gives; a cut one is refused."""
    state = {k: v.contiguous() for k, v in resnet18.network.state_dict().items()}
    url = tmp_path / "w.safetensors"
    url.write_bytes(save(state))
    model = build_classifier("resnet18", MEANS, str(url))
    assert torch.equal(model.network.state_dict()["conv1.weight"], state["conv1.weight"])
    url.write_bytes(url.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="holds no tensors"):
        build_classifier("resnet18", MEANS, str(url))


def test_weights_by_name_tell_both_ways_out_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network torchvision's name is refused with what helps; an unknown one lists all."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    models = model_room._torchvision_models()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    for name in ("IMAGENET1K_V1", "pretrained"):
        with pytest.raises(ConfigError, match=r"Two ways out: download the file .* or None"):
            build_classifier("resnet18", MEANS, name)
    with pytest.raises(ConfigError, match="one of pretrained, IMAGENET1K_V1"):
        build_classifier("resnet18", MEANS, "IMAGENET22K")


def test_timm_s_networks_are_trained_as_any(tmp_path: Path) -> None:
    """A network of timm's starts at the class means, and has blocks, rates and a head."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_classifier("timm:convnext_atto", MEANS, None)
    images_BCHW = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    probabilities_BC = torch.sigmoid(model.eval()(images_BCHW)).detach().numpy()
    assert np.abs(probabilities_BC - MEANS).max() < 0.1
    set_trainable(model, "layer4")
    trained = {n for n, p in model.network.named_parameters() if p.requires_grad}
    assert {name[:8] for name in trained} == {"stages.3", "head.nor", "head.fc."}
    set_trainable(model, "all")
    rates = {group["rate"] for group in parameter_groups(model, 0.01, 0.01)}
    assert (min(rates), max(rates)) == (pytest.approx(0.01), 1.0)
    file = tmp_path / "w.pth"
    torch.save(model.network.state_dict(), file)
    build_classifier("timm:convnext_atto", MEANS, str(file))
    with pytest.raises(ConfigError, match="timm has no such network; it has convnext_"):
        build_classifier("timm:convnext_tini", MEANS, None)


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without timm its networks are refused with the name of the extra."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"serengeti-etl\[timm\]"):
        build_classifier("timm:convnext_atto", MEANS, None)
