"""Predicted splits for tests, as good as one likes, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serengeti_etl.evaluate.captures import Captures, PredictedSplit
from serengeti_etl.train.predictions import Float64, Predictions, sigmoid

CLASSES = ("empty", "gazellegrants", "gazellethomsons", "zebra")


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What is drawn.

    Attributes:
        seed: another seed draws other numbers.
        num_sites: sequences are dealt out to them in turn.
        num_sequences: of three frames each, every one showing one class.
        strength: of the evidence in each frame; 0 tells nothing.
        sharpness: factor of the log odds; 1 is calibrated as far as this simple world goes.
    """

    seed: int = 0
    num_sites: int = 8
    num_sequences: int = 240
    strength: float = 3.0
    sharpness: float = 1.0


def predicted_split(draw: Draw | None = None, split: str = "val") -> PredictedSplit:
    """A split whose frames tell their class with noise."""
    draw = draw or Draw()
    rng = np.random.default_rng(draw.seed)
    shown_S = rng.choice(len(CLASSES), size=draw.num_sequences, p=(0.5, 0.2, 0.15, 0.15))
    shown_N = np.repeat(shown_S, 3)
    targets_NC = np.eye(len(CLASSES))[shown_N]
    noise_NC = rng.normal(size=targets_NC.shape)
    z_NC = draw.strength * (targets_NC - 0.5) + 1.2 * noise_NC - 1
    sequence_N = np.repeat(np.arange(draw.num_sequences), 3)
    images = images_of(
        [f"s{number:04d}" for number in sequence_N], targets_NC, sigmoid(draw.sharpness * z_NC)
    )
    sites_N = np.array([f"site{one % draw.num_sites}" for one in sequence_N], dtype=np.object_)
    captures = Captures(
        sites_N=sites_N,
        seasons_N=np.full(len(sites_N), "S1", dtype=np.object_),
        hours_N=rng.integers(0, 24, draw.num_sequences)[sequence_N],
        train_sites=frozenset({"site0", "site1"}),
    )
    return PredictedSplit(split=split, images=images, captures=captures)


def images_of(seq_ids: Sequence[str], targets_NC: object, probabilities_NC: object) -> Predictions:
    """Predictions of images named ``i0``, ``i1`` and so on."""
    targets: Float64 = np.asarray(targets_NC, dtype=np.float64)
    return Predictions(
        names=tuple(f"i{number}" for number in range(len(seq_ids))),
        seq_ids=tuple(seq_ids),
        targets_NC=targets,
        probabilities_NC=np.asarray(probabilities_NC, dtype=np.float64),
    )
