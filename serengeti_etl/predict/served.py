"""A trained network together with how its photographs are prepared. Taken along by submissions."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.errors import ConfigError, refuse_newer, require
from serengeti_etl.label_config import EMPTY
from serengeti_etl.load.augment import check_crop_bottom
from serengeti_etl.load.decode import UInt8
from serengeti_etl.train.calibration import with_prior_shift
from serengeti_etl.train.model import Classifier, logits_of, to_device
from serengeti_etl.train.predictions import Float64, Predictions
from serengeti_etl.train.serving import PLAIN, Serving

CONFIG_FILE = "config.json"
FORMAT = "serengeti-model/1"

_FOR_OTHERS = {"format", "normalisation"}
"""In ``config.json`` beside the fields of ``ModelConfig``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """All of a trained model but its weights; the contents of ``config.json``.

    Attributes:
        model: one of ``recipe.MODELS``.
        classes: categories in the order of the outputs.
        image_size: height and width in px of what the network gets.
        resize: how a photograph becomes the JPEG that is decoded to that size.
        sequence_means: share of the training sequences that show each category, before blanks were
            thinned; () if unknown.
        empty_shift: to be added to the log odds of ``empty``, which was thinned in train; 0 if not.
        crop_bottom: share of the height that is cut off the bottom of what is decoded.
        versions: libraries that made the JPEGs that it was trained on.
        data: name, licence and citation of what it was trained on.
        plan_hash: of that dataset.
        step: steps that it was trained for.
        serving: what is made of the network's outputs.
        tuned: what its evaluation found to be better, for those who ask for it; None if unknown.
    """

    model: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    resize: ResizeSettings
    sequence_means: tuple[float, ...] = ()
    empty_shift: float = 0.0
    crop_bottom: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    plan_hash: str = ""
    step: int = 0
    serving: Serving = PLAIN
    tuned: Serving | None = None

    def __post_init__(self) -> None:
        check_crop_bottom(self.crop_bottom)
        for one in (self.serving, self.tuned or PLAIN):
            num, num_classes = len(one.temperatures), len(self.classes)
            require(num in (0, num_classes), "number of temperatures", num, f"0 or {num_classes}")

    @property
    def empty(self) -> int | None:
        """Position of ``empty`` among the classes; None if it is no class."""
        return self.classes.index(EMPTY) if EMPTY in self.classes else None

    def restored(self, probabilities_NC: Float64) -> Float64:
        """The probabilities where blanks are as common as they are, not as they were thinned."""
        if self.empty is None:
            return probabilities_NC
        names = ("",) * len(probabilities_NC)
        images = Predictions(
            names=names,
            seq_ids=names,
            targets_NC=np.zeros_like(probabilities_NC),
            probabilities_NC=probabilities_NC,
        )
        return with_prior_shift(images, self.empty, self.empty_shift).probabilities_NC

    @property
    def encoder_warning(self) -> str:
        """What is wrong if this machine's libraries are not those of training; "" if they are."""
        trained, here = self.versions.get("encoder"), encoder_version()
        if trained in (None, here):
            return ""
        return (
            f"photographs were prepared by {trained} for training, and are by {here} here: pixels, "
            "and so probabilities, differ a little; install the same versions"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them back."""
        return dataclasses.asdict(self) | {"resize": self.resize.deciding(), "format": FORMAT}

    @staticmethod
    def from_json(value: Any, where: str) -> "ModelConfig":
        """The config of ``to_json``'s value.

        Args:
            value: parsed JSON.
            where: it was found, for messages.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ConfigError(f"{where} is no {CONFIG_FILE} of format {FORMAT}")
        names = {one.name for one in dataclasses.fields(ModelConfig)}
        refuse_newer(value.keys() - names - _FOR_OTHERS, where)
        known = {name: value[name] for name in names & value.keys()}
        try:
            for name in ("serving", "tuned"):
                if known.get(name) is not None:
                    known[name] = Serving.from_json(known[name])
            for name in ("classes", "image_size", "sequence_means"):
                known[name] = tuple(known[name])
            return ModelConfig(**known | {"resize": resize_settings(known["resize"], where)})
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where} is damaged: {type(error).__name__}: {error}") from error


def resize_settings(value: Mapping[str, Any], where: str) -> ResizeSettings:
    """The settings whose ``deciding()`` is ``value``.

    Args:
        value: as a dataset has them in dataset.json.
        where: it was found, for messages.

    Raises:
        ConfigError: there are none, or others than this version knows.
    """
    if not value:
        raise ConfigError(
            f"{where} does not say how its photographs were resized, so new ones cannot be "
            "prepared alike: it is older than that, or its dataset does not say; train it again"
        )
    try:
        return ResizeSettings(**{**value, "decode_sizes": tuple(value.get("decode_sizes", ()))})
    except TypeError as error:
        raise ConfigError(f"{where} has unknown settings of the resize: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A network that is ready to predict.

    Attributes:
        config: all but the weights.
        network: in eval mode, on its device.
    """

    config: ModelConfig
    network: Classifier

    @staticmethod
    def build(
        config: ModelConfig, weights: Mapping[str, Tensor], device: torch.device
    ) -> "ServedModel":
        """The network with its weights.

        Raises:
            ConfigError: the weights are not those of such a network.
        """
        network = Classifier(config.model, len(config.classes))
        try:
            network.network.load_state_dict(dict(weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"the weights are not those of {config.model}: {reason}") from error
        return ServedModel(config=config, network=network.to(device).eval())

    def normalisation(self) -> dict[str, list[float]]:
        """Mean and standard deviation of red, green and blue, on a scale of 0 to 255.

        For those who load the weights by themselves: the network subtracts and divides.
        """
        both = {"mean": self.network.mean_1C11, "std": self.network.std_1C11}
        return {name: value.flatten().tolist() for name, value in both.items()}

    def probabilities(self, images_BHWC: UInt8) -> Float64:
        """Probability of each category for each image, (B, num_classes) float64.

        Args:
            images_BHWC: (B, *image_size, 3) uint8, RGB.
        """
        # Channels last in memory, as the loader's batches are.
        images_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)
        device = self.network.mean_1C11.device
        with torch.inference_mode():
            logits_BC = logits_of(
                self.network,
                to_device(images_BCHW, device),
                with_mirror=self.config.serving.with_mirror,
            )
            probabilities_BC = torch.sigmoid(logits_BC.double()).cpu().numpy()
        return self.config.restored(probabilities_BC)
