"""A model with random weights, as a run leaves it: enough to test all but what it has learnt."""

from pathlib import Path

import torch

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.model import Classifier


def write_model(
    run: Path,
    classes: tuple[str, ...],
    resize: ResizeSettings,
    empty_shift: float = 0.0,
    crop_bottom: float = 0.0,
) -> str:
    """Address of a run whose ``model.pt`` is a ResNet18 that tells photographs apart."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Classifier("resnet18", len(classes))
        with torch.no_grad():
            model.head.weight.mul_(3)
    ModelFile(
        model="resnet18",
        classes=classes,
        image_size=(48, 64),
        state_dict=model.network.state_dict(),
        plan_hash="0" * 64,
        step=5,
        resize=resize.deciding(),
        sequence_means=tuple(0.01 * (at + 1) for at in range(len(classes))),
        empty_shift=empty_shift,
        crop_bottom=crop_bottom,
        versions={"encoder": encoder_version()},
        data={"name": "drawn", "licence": "CC0-1.0", "citation": ""},
    ).write(Store(url=str(run)))
    return str(run)
