"""The networks: torchvision's, their weights and their first predictions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from serengeti_etl.errors import ConfigError
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
    with pytest.raises(ConfigError, match=r"no \.pth of tensors"):
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
    """Head at the full rate, the rest below it; no decay for biases and BatchNorm."""
    set_trainable(resnet18, "all")
    groups = parameter_groups(resnet18, 0.01, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(resnet18.parameters()))
    for group in groups:
        is_head = any(p is resnet18.head.weight or p is resnet18.head.bias for p in group["params"])
        assert group["rate"] == (1.0 if is_head else 0.1)
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
