"""The model as a plain folder: read back by safetensors, torch.export and ``predict``."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from serengeti_etl.config import ResizeSettings
from serengeti_etl.errors import ConfigError, OutputHeld
from serengeti_etl.lease import Lease, hold
from serengeti_etl.predict.read_model import read_model
from serengeti_etl.storage import Store
from serengeti_etl.submit.model_folder import write_model_folder
from serengeti_etl.train.model import Classifier
from tests.model_factory import write_model
from tests.train import tiny

CLASSES = ("empty", "giraffe", "zebra")
CPU = torch.device("cpu")
SCORES = {"split": "val", "num_sequences": 30, "score": 0.1879, "class_means_score": 0.4068}


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An evaluated run with a random tiny model. Read only."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        url = write_model(folder, CLASSES, ResizeSettings(size="96", quality=71))
    Store(url=url).write_json("evaluation.json", SCORES)
    return url


@pytest.fixture(scope="module")
def folder(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written of it. Read only."""
    path = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        assert write_model_folder(run, str(path))[-1] == "config.json"
    return path


def random_images(number: int) -> torch.Tensor:
    """uint8 images of the model's size."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, 3, 48, 64), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_the_exported_program_gives_the_same_logits(run: str, folder: Path, number: int) -> None:
    """``model.pt2`` takes uint8 images in batches of any size, without this package's network."""
    network = torch.export.load(folder / "model.pt2").module()
    images_BCHW = random_images(number)
    with torch.inference_mode():
        expected_BC = read_model(run, CPU).network(images_BCHW)
        assert torch.allclose(network(images_BCHW), expected_BC, atol=1e-6, rtol=0)


def test_safetensors_hold_the_same_weights(run: str, folder: Path) -> None:
    """Read by safetensors into a new network, the logits are equal to the bit."""
    model = Classifier("resnet18", len(CLASSES)).eval()
    model.network.load_state_dict(load_file(folder / "model.safetensors"))
    images_BCHW = random_images(3)
    with torch.inference_mode():
        assert torch.equal(model(images_BCHW), read_model(run, CPU).network(images_BCHW))


def test_a_folder_predicts_like_its_run(run: str, folder: Path) -> None:
    """``read_model`` takes either: the same config, the same probabilities."""
    of_run, of_folder = read_model(run, CPU), read_model(str(folder), CPU)
    assert of_run.config == of_folder.config
    images_BHWC = np.ascontiguousarray(random_images(3).permute(0, 2, 3, 1).numpy())
    expected = of_run.probabilities(images_BHWC)
    assert np.array_equal(of_folder.probabilities(images_BHWC), expected)
    assert expected.std(axis=0).min() > 0


def test_config_and_card_say_what_others_need(folder: Path) -> None:
    """Classes, sizes, resize and normalisation; data, score, use and limits."""
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == list(CLASSES)
    assert config["image_size"] == [48, 64]
    assert (config["resize"]["size"], config["resize"]["quality"]) == ("96", 71)
    assert config["normalisation"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert "libvips" in config["versions"]["encoder"]
    assert json.loads((folder / "metrics.json").read_text()) == SCORES
    card = (folder / "README.md").read_text()
    for words in ("JPEG of quality 71", "0.1879", "0.4068", "CC0-1.0", "## Limits", "`zebra`"):
        assert words in card


def test_a_model_without_evaluation_says_so(run: str, tmp_path: Path) -> None:
    """metrics.json is empty, and the card names the command."""
    store = Store(url=str(tmp_path / "run"))
    store.write("model.pt", Store(url=run).read("model.pt"))
    write_model_folder(store.url, str(tmp_path / "model"))
    assert json.loads((tmp_path / "model" / "metrics.json").read_text()) == {}
    assert "Not evaluated" in (tmp_path / "model" / "README.md").read_text()


def test_two_exports_are_kept_apart(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second is refused while the first works; one that was taken over writes nothing."""
    with hold(Store(url=str(tmp_path))), pytest.raises(OutputHeld, match="is being written"):
        write_model_folder(run, str(tmp_path))

    def lost(_: Lease) -> None:
        raise OutputHeld("another's")

    monkeypatch.setattr(Lease, "check", lost)
    with pytest.raises(OutputHeld, match="another's"):
        write_model_folder(run, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Cut weights, a foreign config, and a config that lacks something are told apart."""
    store = Store(url=str(tmp_path))
    for path in folder.iterdir():
        store.write(path.name, path.read_bytes())
    weights = store.read("model.safetensors")
    store.write("model.safetensors", weights[:-10])
    with pytest.raises(ConfigError, match=r"model\.safetensors in .* cannot be read"):
        read_model(str(tmp_path), CPU)
    config = store.read_json("config.json")
    store.write_json("config.json", {name: config[name] for name in ("format", "resize")})
    with pytest.raises(ConfigError, match=r"config\.json in .* is damaged: KeyError"):
        read_model(str(tmp_path), CPU)
    store.write_json("config.json", config | {"horizon": 0.3})
    with pytest.raises(ConfigError, match=r"config\.json in .* by a newer .* has horizon, which"):
        read_model(str(tmp_path), CPU)
    store.write_json("config.json", {"architectures": ["ResNet"]})
    with pytest.raises(ConfigError, match=r"is no config\.json of format serengeti-model/1"):
        read_model(str(tmp_path), CPU)


def test_onnx_needs_its_extra(run: str, tmp_path: Path) -> None:
    """With the extra, ``model.onnx`` gives the same logits; without it, one line names it."""
    if not all(find_spec(name) for name in ("onnx", "onnxscript")):
        with pytest.raises(ConfigError, match=r"serengeti-etl\[onnx\]"):
            write_model_folder(run, str(tmp_path), with_onnx=True)
        assert list(tmp_path.iterdir()) == []
        return
    write_model_folder(run, str(tmp_path), with_onnx=True)
    from onnx.reference import ReferenceEvaluator

    images_BCHW = random_images(3)
    evaluator = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (found_BC,) = evaluator.run(None, {evaluator.input_names[0]: images_BCHW.numpy()})
    with torch.inference_mode():
        expected_BC = read_model(run, CPU).network(images_BCHW).numpy()
    assert np.abs(found_BC - expected_BC).max() < 1e-4
