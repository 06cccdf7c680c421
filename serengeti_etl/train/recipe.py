"""What a training run does: a network, where its weights come from, and stages one after another.

A recipe file (``pipelines/train_*.py``) says ``recipe = Recipe(...)``; never where it runs.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from serengeti_etl.errors import require
from serengeti_etl.load.augment import Augment, check_crop_bottom

MODELS = ("resnet18", "resnet34", "resnet50")
"""Networks of torchvision that can be trained."""

TIMM = "timm:"
"""Marks the names of timm's networks, such as ``timm:convnext_tiny.in12k``."""

TRAINABLE = ("head", "layer4", "all")
LOSS_NAMES = ("bce", "focal", "asl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Some epochs under the same settings, with one cycle of the learning rate.

    Attributes:
        name: such as ``head``; shown in metrics and messages.
        epochs: passes over the training split.
        num_samples: images after which the stage ends instead, be it in the middle of an epoch;
            of millions of images a head needs few. None for whole epochs.
        image_size: height and width of the images in px; photographs are stretched to it.
        batch_size: images per step, over all ranks together.
        learning_rate: highest rate of the head, per step of AdamW.
        trainable: ``head`` tunes the last layer on frozen features, ``layer4`` the last block of
            the network too, ``all`` every layer. BatchNorm of frozen layers stays in eval mode, so
            that its running statistics are frozen too.
        backbone_rate: rate of the first layers as a share of the head's, above 0, at most 1; it
            rises evenly in between. What is learned early in a network holds for other pictures.
        augment: crops, flips and light drawn for each image; None for whole photographs.
        mixup: strength of blending pairs of images, Beta(mixup, mixup); 0 for none.
    """

    name: str
    epochs: int = 1
    num_samples: int | None = None
    image_size: tuple[int, int] = (288, 384)
    batch_size: int = 256
    learning_rate: float = 1e-3
    trainable: Literal["head", "layer4", "all"] = "all"
    backbone_rate: float = 0.01
    augment: Augment | None = field(default_factory=Augment)
    mixup: float = 0.0

    def __post_init__(self) -> None:
        where = f"of stage {self.name!r}"
        require(self.epochs > 0, f"epochs {where}", self.epochs, "positive")
        enough = self.num_samples is None or self.num_samples >= self.batch_size
        require(enough, f"num_samples {where}", self.num_samples, "None, or at least batch_size")
        size = self.image_size
        large = len(size) == 2 and min(size) >= 32  # noqa: PLR2004 - a ResNet shrinks by 32
        require(large, f"image_size {where}", size, "(height, width), 32 px or more")
        require(self.batch_size > 1, f"batch_size {where}", self.batch_size, "2 or more")
        rate, share = self.learning_rate, self.backbone_rate
        require(rate > 0, f"learning_rate {where}", rate, "positive")
        trained = self.trainable
        require(trained in TRAINABLE, f"trainable {where}", trained, f"one of {TRAINABLE}")
        require(0 < share <= 1, f"backbone_rate {where}", share, "above 0, at most 1")
        require(self.mixup >= 0, f"mixup {where}", self.mixup, "zero or positive")

    def then(self, name: str, **changes: Any) -> "Stage":
        """The stage after this one: the same but for its name and what is given.

        Raises:
            ConfigError: a change is of no attribute, or impossible.
        """
        known = [one.name for one in dataclasses.fields(self)]
        for change in changes:
            require(change in known, f"what changes in stage {name!r}", change, f"one of {known}")
        return dataclasses.replace(self, name=name, **changes)

    def num_steps(self, num_images: int) -> int:
        """Steps of the whole stage.

        Args:
            num_images: of the training split.
        """
        if self.num_samples is not None:
            return self.num_samples // self.batch_size
        return self.epochs * (num_images // self.batch_size)

    def num_epochs(self, num_images: int) -> int:
        """Epochs that the stage begins; arguments as ``num_steps``."""
        return -(-self.num_steps(num_images) // (num_images // self.batch_size))


HEAD = Stage(
    name="head",
    num_samples=200_000,  # minutes on a GPU
    image_size=(216, 288),
    trainable="head",
    learning_rate=2e-3,
)
ALL = HEAD.then(
    "all",
    num_samples=None,
    epochs=3,
    image_size=(288, 384),
    batch_size=128,
    trainable="all",
    learning_rate=1e-3,
)
LARGE = ALL.then("large", epochs=1, image_size=(384, 512), batch_size=64, learning_rate=3e-4)

FINE_TUNING = (HEAD, ALL, LARGE)
"""Freeze, unfreeze, enlarge: the last layer on fixed features, then all layers, then more px."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a model, together with the dataset.

    Attributes:
        model: one of ``MODELS``, or ``timm:`` and a name that timm knows.
        weights: path or url of a ``.pth`` or ``.safetensors`` with the network's own names, such as
            torchvision's ``resnet50-11ad3fa6.pth``; or torchvision's name for its weights, such as
            ``IMAGENET1K_V2``, or ``pretrained`` for the best that torchvision or timm have, which
            are downloaded. None starts from random weights.
        stages: in order. From random weights, stages that freeze layers are left out: frozen
            random features give the others nothing to learn from.
        seed: of the initial weights, the order of samples and all that is drawn.
        crop_bottom: share of each photograph's height that is cut off the bottom, in training and
            wherever the model predicts: a banner there leaks time and site. 0 for nothing.
        weight_decay: of AdamW, on all weights but biases and norms.
        window: shards whose samples are mixed with each other.
        loss: ``bce``, binary cross-entropy, which is the competition's score; ``focal`` and ``asl``
            help rare categories, but give no calibrated probabilities.
        empty_weight: how often a blank is seen against another image, above 0, at most 1;
            predictions are put right for it. Epochs stay as long: blanks make room for animals.
        average: share of the moving average of the weights that each step keeps, such as 0.9998;
            the average is then what is scored and saved. None for the weights themselves.
        max_gradient_norm: longer gradients are shortened to this; None leaves them.
        sync_batch_norm: BatchNorm over all ranks' images, on GPUs only; otherwise each rank takes
            the statistics of its own part of a batch, and the first rank's running ones are kept.
    """

    model: str = "resnet50"
    weights: str | None = None
    stages: tuple[Stage, ...] = FINE_TUNING
    seed: int = 0
    crop_bottom: float = 0.0
    weight_decay: float = 0.01
    window: int = 4
    loss: Literal["bce", "focal", "asl"] = "bce"
    empty_weight: float = 1.0
    average: float | None = None
    max_gradient_norm: float | None = None
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        known = self.model in MODELS or (self.model.startswith(TIMM) and self.model != TIMM)
        require(known, "model", self.model, f"one of {MODELS}, or {TIMM!r} and timm's name")
        require(bool(self.active_stages), "stages", self.stages, "one or more that tune all layers")
        require(self.seed >= 0, "seed", self.seed, "zero or positive")
        check_crop_bottom(self.crop_bottom)
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or positive")
        require(self.window > 0, "window", self.window, "positive")
        require(self.loss in LOSS_NAMES, "loss", self.loss, f"one of {LOSS_NAMES}")
        weight, decay, norm = self.empty_weight, self.average, self.max_gradient_norm
        require(0 < weight <= 1, "empty_weight", weight, "above 0, at most 1")
        require(decay is None or 0 < decay < 1, "average", decay, "None, or between 0 and 1")
        require(norm is None or norm > 0, "max_gradient_norm", norm, "None, or positive")

    @property
    def active_stages(self) -> tuple[Stage, ...]:
        """The stages that are run: all of them, or those that make sense from random weights."""
        if self.weights is not None:
            return self.stages
        return tuple(stage for stage in self.stages if stage.trainable == "all")

    def check_fits(self, num_images: int, num_parts: int, device: str) -> None:
        """Nothing, if it can be trained there: the loader of a late stage would say so hours later.

        Args:
            num_images: of the training split.
            num_parts: that each batch is worked through in: ranks times ``accumulate``.
            device: kind of what the network is on, such as ``cuda``.

        Raises:
            ConfigError: a batch is larger than the split or cannot be divided, or the CPU cannot.
        """
        for stage in self.active_stages:
            what, size = f"batch_size of stage {stage.name!r}", stage.batch_size
            require(size <= num_images, what, size, f"at most {num_images}, the training images")
            allowed = f"a multiple of {num_parts}, the ranks times accumulate"
            require(size % num_parts == 0, what, size, allowed)
        synced = self.sync_batch_norm
        require(device == "cuda" or not synced, "sync_batch_norm", synced, "False on a CPU")

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
