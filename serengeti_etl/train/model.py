"""torchvision's ResNets with one sigmoid per category."""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from serengeti_etl.errors import ConfigError
from serengeti_etl.train.metrics import Float64, Predictions

if TYPE_CHECKING:
    from serengeti_etl.load.batch import Batch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

HEAD = "fc."
"""Prefix of the last layer's names in torchvision's ResNets."""


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
        name: one of ``recipe.MODELS``.
        num_classes: categories.
    """

    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.network: nn.Module = getattr(_torchvision_models(), name)(weights=None)
        num_features = cast("nn.Linear", self.network.fc).in_features
        self.network.fc = _Float32Linear(num_features, num_classes)
        for name_of_buffer, values in (("mean_1C11", IMAGENET_MEAN), ("std_1C11", IMAGENET_STD)):
            value = torch.tensor(values).reshape(1, 3, 1, 1) * 255
            self.register_buffer(name_of_buffer, value, persistent=False)

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return cast("nn.Linear", self.network.fc)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of each category, (B, num_classes) float32, of uint8 RGB images."""
        normalised_BCHW = (images_BCHW.float() - self.mean_1C11) / self.std_1C11
        return cast("Tensor", self.network(normalised_BCHW))


def build_classifier(name: str, class_means_C: Float64, weights: str | None) -> Classifier:
    """A network that at first predicts the class means, from random or given weights.

    Starting at the class means saves the network from learning first that animals are rare.

    Args:
        name: one of ``recipe.MODELS``.
        class_means_C: share of images that show each category, strictly between 0 and 1.
        weights: path or fsspec url of a ``.pth`` with torchvision's names; None for random.

    Raises:
        ConfigError: the weights are missing, or of another network.
    """
    model = Classifier(name, len(class_means_C))
    if weights is not None:
        load_backbone(model, read_weights(weights), weights)
    logits_C = np.log(class_means_C) - np.log1p(-class_means_C)
    with torch.no_grad():
        # Small, not zero: the layers below need a gradient from the first step on.
        model.head.weight.mul_(0.01)
        model.head.bias.copy_(torch.from_numpy(logits_C))
    return model


def read_weights(url: str) -> dict[str, Tensor]:
    """The state dict at a path or fsspec url; nothing in the file is executed.

    Raises:
        ConfigError: there is no such file, or it is no state dict.
    """
    # Here, for a submission takes this module along, and no storage.
    from serengeti_etl.storage import Store
    from serengeti_etl.train.checkpoint import read_tensors

    folder, _, name = url.rpartition("/")
    try:
        content = Store(url=folder or ("/" if url.startswith("/") else ".")).read(name)
    except FileNotFoundError:
        raise ConfigError(
            f"weights is {url!r}, but there is no such file; give a path or url of a .pth with "
            "torchvision's names, or None to start from random weights"
        ) from None
    try:
        value = read_tensors(content)
    except ValueError as error:
        raise ConfigError(f"weights is {url!r}, but it is no .pth of tensors: {error}") from error
    state = value.get("state_dict", value) if isinstance(value, dict) else value
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"weights is {url!r}, but it holds no state dict of tensors")
    return state


def load_backbone(model: Classifier, state: Mapping[str, Tensor], source: str) -> None:
    """Put all layers but the last from a state dict with torchvision's names into the model.

    Raises:
        ConfigError: names or shapes are not those of the model.
    """
    own = model.network.state_dict()
    wanted = {key: value.shape for key, value in own.items() if not key.startswith(HEAD)}
    got = {key: value.shape for key, value in state.items() if not key.startswith(HEAD)}
    wrong = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
    if wrong:
        raise ConfigError(
            f"weights is {source!r}, but it does not fit the model: {len(wrong)} tensors are "
            f"missing, unknown or of another shape, such as {wrong[0]}"
        )
    kept = {key: value for key, value in own.items() if key.startswith(HEAD)}
    model.network.load_state_dict({key: state[key] for key in wanted} | kept)


def set_trainable(model: Classifier, trainable: str) -> None:
    """Freeze all layers but the last (``"head"``), or none (``"all"``), and set their modes.

    Frozen layers are in eval mode: BatchNorm then uses and keeps its running statistics, so that
    the features stay what they were.
    """
    model.train()
    model.network.requires_grad_(trainable == "all")
    model.head.requires_grad_(True)  # noqa: FBT003 - torch's signature
    if trainable == "head":
        model.network.eval()


def parameter_groups(
    model: Classifier, weight_decay: float, backbone_rate: float
) -> list[dict[str, Any]]:
    """Groups for AdamW, each with ``rate``: its share of the head's learning rate.

    Args:
        model: parameters that are frozen at this moment are left out.
        weight_decay: for weights; biases and BatchNorm get none.
        backbone_rate: rate of all layers but the last as a share of the last's.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            kind = (name.startswith(HEAD), parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "rate": 1.0 if is_head else backbone_rate,
            "weight_decay": weight_decay if is_weight else 0.0,
        }
        for (is_head, is_weight), parameters in groups.items()
    ]


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
            with mixed_precision(device):
                logits_BC = model(images_BCHW)
                if with_mirror:
                    logits_BC = (logits_BC + model(images_BCHW.flip(3))) / 2
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
