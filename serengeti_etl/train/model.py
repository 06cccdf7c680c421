"""A network with one sigmoid per category: torchvision's ResNets, or any of timm's."""

import sys
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from serengeti_etl.errors import ConfigError
from serengeti_etl.train import timm_networks
from serengeti_etl.train.metrics import Float64, Predictions
from serengeti_etl.train.recipe import TIMM
from serengeti_etl.train.weights import (
    StateDict,
    downloaded,
    is_file,
    load_backbone,
    read_weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serengeti_etl.load.batch import Batch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

HEAD = "fc"
"""Name of the last layer in torchvision's ResNets."""

PRETRAINED = "pretrained"
"""As weights: those that torchvision or timm think best for the network."""


class _Float32Linear(nn.Linear):
    """A linear layer that always works in float32: a sigmoid of bf16 saturates at logit 12."""

    def forward(self, features_BF: Tensor) -> Tensor:
        with torch.autocast(features_BF.device.type, enabled=False):
            return super().forward(features_BF.float())


class Classifier(nn.Module):
    """uint8 images in, float32 logits out, one per category.

    Images are normalised here, on the device: uint8 is a quarter of the bytes to copy, and the
    division costs the CPU more than decoding the JPEG.

    Args:
        name: one of ``recipe.MODELS``, or ``timm:`` and a name that timm knows.
        num_classes: categories.

    Attributes:
        network: takes normalised images; its state dict is what is saved.
        head_name: of the last layer in the network.

    Raises:
        ConfigError: there is no such network, or no timm.
    """

    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.head_name, mean, std = HEAD, IMAGENET_MEAN, IMAGENET_STD
        if name.startswith(TIMM):
            self.network = timm_networks.timm_network(name.removeprefix(TIMM))
            details = timm_networks.details(self.network)
            self.head_name, mean, std = (details[key] for key in ("classifier", "mean", "std"))
        else:
            self.network = getattr(_torchvision_models(), name)(weights=None)
        self._replace_head(name, num_classes)
        for name_of_buffer, values in (("mean_1C11", mean), ("std_1C11", std)):
            value = torch.tensor(values).reshape(1, 3, 1, 1) * 255
            self.register_buffer(name_of_buffer, value, persistent=False)

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return cast("nn.Linear", self.network.get_submodule(self.head_name))

    def _replace_head(self, name: str, num_classes: int) -> None:
        head = self.network.get_submodule(self.head_name) if self.head_name else None
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"model is {name!r}, but its last layer is not linear; take another")
        parent, _, own_name = self.head_name.rpartition(".")
        linear = _Float32Linear(head.in_features, num_classes)
        setattr(self.network.get_submodule(parent), own_name, linear)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of each category, (B, num_classes) float32, of RGB images, 0 to 255."""
        normalised_BCHW = (images_BCHW.float() - self.mean_1C11) / self.std_1C11
        return cast("Tensor", self.network(normalised_BCHW))


def build_classifier(name: str, class_means_C: Float64, weights: str | None) -> Classifier:
    """A network that at first predicts the class means, from random or given weights.

    Starting at the class means saves the network from learning first that animals are rare.

    Args:
        name: one of ``recipe.MODELS``.
        class_means_C: share of images that show each category, strictly between 0 and 1.
        weights: as in ``Recipe``; None for random ones.

    Raises:
        ConfigError: the weights are missing, or of another network.
    """
    model = Classifier(name, len(class_means_C))
    if weights is not None:
        state = read_weights(weights) if is_file(weights) else _published_weights(name, weights)
        load_backbone(model.network, model.head_name, state, weights)
    logits_C = np.log(class_means_C) - np.log1p(-class_means_C)
    with torch.no_grad():
        # Small, not zero: the layers below need a gradient from the first step on.
        model.head.weight.mul_(0.01)
        model.head.bias.copy_(torch.from_numpy(logits_C))
    return model


def _published_weights(name: str, weights: str) -> StateDict:
    """Weights by the name that torchvision gives them, or timm's for a network."""
    if name.startswith(TIMM):
        if weights != PRETRAINED:
            raise ConfigError(
                f"weights is {weights!r}, but for {name} it is a file or {PRETRAINED!r}"
            )
        own_name = name.removeprefix(TIMM)
        return downloaded(
            weights, lambda: timm_networks.timm_network(own_name, pretrained=True).state_dict()
        )
    known = _torchvision_models().get_model_weights(name)
    names = [PRETRAINED, *known.__members__]
    if weights not in names:
        raise ConfigError(
            f"weights is {weights!r}, but for {name} it is a path or url of a file, or one of "
            f"{', '.join(names)}"
        )
    chosen = known.DEFAULT if weights == PRETRAINED else known[weights]
    return downloaded(weights, lambda: dict(chosen.get_state_dict(progress=False, check_hash=True)))


def predict(
    model: Classifier, batches: "Iterable[Batch]", *, with_mirror: bool = False
) -> Predictions:
    """Probabilities and targets of all images in the batches, in order, without the blanks.

    Args:
        model: on the device where it shall work; left in eval mode.
        batches: from a loader with ``for_evaluation()`` settings.
        with_mirror: take the mean of the logits of each photograph and of its mirror image.
    """
    device = model.mean_1C11.device
    names: list[str] = []
    seq_ids: list[str] = []
    targets, probabilities = [], []
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            images_BCHW = to_device(batch.images_BCHW, device)
            logits_BC = logits_of(model, images_BCHW, with_mirror=with_mirror)
            num_real = int(batch.mask_B.sum())
            names += batch.image_ids[:num_real]
            seq_ids += batch.seq_ids[:num_real]
            targets.append(batch.targets_BC[:num_real].numpy())
            probabilities.append(torch.sigmoid(logits_BC[:num_real].double()).cpu().numpy())
    num_classes = model.head.out_features
    return Predictions(
        names=tuple(names),
        seq_ids=tuple(seq_ids),
        targets_NC=np.concatenate([np.empty((0, num_classes)), *targets]).astype(np.float64),
        probabilities_NC=np.concatenate([np.empty((0, num_classes)), *probabilities]),
    )


def logits_of(model: Classifier, images_BCHW: Tensor, *, with_mirror: bool) -> Tensor:
    """Logits of each category, (B, num_classes) float32, as evaluation and prediction take them.

    Args:
        model: in eval mode.
        images_BCHW: uint8 RGB, where the model is.
        with_mirror: take the mean with the logits of the mirror images.
    """
    with mixed_precision(images_BCHW.device):
        logits_BC: Tensor = model(images_BCHW)
        if with_mirror:
            logits_BC = (logits_BC + model(images_BCHW.flip(3))) / 2
    return logits_BC


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 autocast on a GPU; on a CPU, where bf16 can be 20 times slower, nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def to_device(images_BCHW: Tensor, device: torch.device) -> Tensor:
    """The images on the device; the copy does not block when they are in pinned memory."""
    return images_BCHW.to(device, non_blocking=True)


def _torchvision_models() -> Any:
    """``torchvision.models``, also when torchvision's compiled part does not fit this torch.

    PyPI's torchvision is built for CUDA; beside a CPU build of torch its library of operators does
    not load, and ``import torchvision`` dies on declaring the shape of ``nms``. The networks need
    none of those operators: declaring two of them is enough.
    """
    try:
        from torchvision import models
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        # The failed import leaves half of the package behind.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("torchvision::nms", "torchvision::qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(name, schema)
        from torchvision import models
    return models
