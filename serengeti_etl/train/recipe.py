"""What a training run does: a network, where its weights come from, and stages one after another.

A recipe file (``pipelines/train_*.py``) says ``recipe = Recipe(...)``; never where it runs.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from serengeti_etl.errors import require

MODELS = ("resnet18", "resnet34", "resnet50")
"""Networks of torchvision that can be trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Some epochs under the same settings, with one cycle of the learning rate.

    Attributes:
        name: such as ``head``; shown in metrics and messages.
        epochs: passes over the training split.
        image_size: height and width of the images in px; photographs are stretched to it.
        batch_size: images per step.
        learning_rate: highest rate of the head, per step of AdamW.
        trainable: ``"head"`` tunes the last layer on frozen features; BatchNorm then stays in eval
            mode, so that its running statistics are frozen too. ``"all"`` tunes every layer.
        backbone_rate: rate of all other layers as a share of the head's, above 0, at most 1.
        augment: light random crops and flips.
    """

    name: str
    epochs: int
    image_size: tuple[int, int] = (288, 384)
    batch_size: int = 256
    learning_rate: float = 1e-3
    trainable: Literal["head", "all"] = "all"
    backbone_rate: float = 0.1
    augment: bool = True

    def __post_init__(self) -> None:
        where = f"of stage {self.name!r}"
        require(self.epochs > 0, f"epochs {where}", self.epochs, "positive")
        size = self.image_size
        large = len(size) == 2 and min(size) >= 32  # noqa: PLR2004 - a ResNet shrinks by 32
        require(large, f"image_size {where}", size, "(height, width), 32 px or more")
        require(self.batch_size > 1, f"batch_size {where}", self.batch_size, "2 or more")
        rate, share = self.learning_rate, self.backbone_rate
        require(rate > 0, f"learning_rate {where}", rate, "positive")
        known = ("head", "all")
        require(self.trainable in known, f"trainable {where}", self.trainable, f"one of {known}")
        require(0 < share <= 1, f"backbone_rate {where}", share, "above 0, at most 1")


FINE_TUNING = (
    Stage(name="head", epochs=1, trainable="head", learning_rate=2e-3),
    Stage(name="all", epochs=3, trainable="all", learning_rate=1e-3),
)
"""Freeze, then unfreeze: the last layer on fixed features, then all layers at lower rates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a model, together with the dataset.

    Attributes:
        model: one of ``MODELS``.
        weights: folder path or any fsspec url of a ``.pth`` state dict with torchvision's names,
            such as ``resnet50-11ad3fa6.pth`` from torchvision; None starts from random weights.
        stages: in order. From random weights, stages that tune only the head are left out: frozen
            random features give it nothing to learn from.
        seed: of the initial weights, the order of samples and the crops.
        weight_decay: of AdamW, on all weights but biases and BatchNorm.
        window: shards whose samples are mixed with each other.
    """

    model: Literal["resnet18", "resnet34", "resnet50"] = "resnet50"
    weights: str | None = None
    stages: tuple[Stage, ...] = FINE_TUNING
    seed: int = 0
    weight_decay: float = 0.01
    window: int = 4

    def __post_init__(self) -> None:
        require(self.model in MODELS, "model", self.model, f"one of {MODELS}")
        require(bool(self.active_stages), "stages", self.stages, "one or more that tune all layers")
        require(self.seed >= 0, "seed", self.seed, "zero or positive")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or positive")
        require(self.window > 0, "window", self.window, "positive")

    @property
    def active_stages(self) -> tuple[Stage, ...]:
        """The stages that are run: all of them, or those that make sense from random weights."""
        if self.weights is not None:
            return self.stages
        return tuple(stage for stage in self.stages if stage.trainable == "all")

    @property
    def num_epochs(self) -> int:
        """Epochs of all stages that are run."""
        return sum(stage.epochs for stage in self.active_stages)

    def settings(self) -> dict[str, Any]:
        """Everything as plain JSON values, as ``run.json`` keeps it."""
        value = dataclasses.asdict(self)
        for stage in value["stages"]:
            stage["image_size"] = list(stage["image_size"])
        return value | {"stages": list(value["stages"])}


def one_cycle(progress: float) -> float:
    """Share of the highest learning rate at a point of a stage: up for a quarter, then down.

    A function of the place alone, so that a resumed run needs no scheduler's state.

    Args:
        progress: share of the stage's steps that are done, 0 to 1.
    """
    if progress < WARM_UP:
        return _cosine(START_SHARE, 1.0, progress / WARM_UP)
    return _cosine(1.0, END_SHARE, min(1.0, (progress - WARM_UP) / (1 - WARM_UP)))


WARM_UP = 0.25
"""Share of a stage in which the rate rises."""
START_SHARE = 1 / 25
"""Rate at the start of a stage as a share of the highest."""
END_SHARE = 1e-4
"""Rate at the end of a stage as a share of the highest."""


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
