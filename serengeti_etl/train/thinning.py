"""Training on fewer blanks than there are, and putting right what the model then believes.

Most photographs of a camera trap show nothing. Seeing each of them less often makes a training
shorter, but a model that is trained so thinks blanks rarer than they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from serengeti_etl.label_config import EMPTY
from serengeti_etl.load.selection import Selection
from serengeti_etl.train.calibration import prior_shift, shifted_blanks
from serengeti_etl.train.metrics import Float64, class_means


def selection_of(empty_weight: float) -> Selection | None:
    """The training samples when each blank comes ``empty_weight`` as often as another image."""
    return None if empty_weight == 1 else Selection(weights={EMPTY: empty_weight})


def kept_share(priors: Mapping[str, Any]) -> float:
    """Share of the blanks of train that were left in a dataset when it was made; 1 for all.

    Args:
        priors: of ``dataset.json``: shares of sequences before and after.
    """
    return float(np.exp(-prior_shift(priors)))


def thinned_means(
    counts_C: np.ndarray[tuple[int], np.dtype[np.int64]],
    total: int,
    empty: int | None,
    empty_weight: float,
) -> Float64:
    """Class means of the images as training sees them, (C,).

    Args:
        counts_C: images that show each class.
        total: images in all.
        empty: position of the blanks' class; None if it is no class.
        empty_weight: how often a blank comes against another image.
    """
    if empty is None:
        return class_means(counts_C, total)
    seen_C = counts_C.astype(np.float64)
    num_left_out = (1 - empty_weight) * seen_C[empty]
    seen_C[empty] -= num_left_out
    return np.asarray((seen_C + 0.5) / (total - num_left_out + 1))


def restore_blanks(probabilities_NC: Float64, empty: int | None, empty_weight: float) -> Float64:
    """Probabilities where blanks are as common as they are, of a model that saw fewer, (N, C).

    Args:
        probabilities_NC: of images, as the model gives them.
        empty: position of the blanks' class; None if it is no class.
        empty_weight: how often a blank came against another image in training.
    """
    if empty is None:
        return probabilities_NC
    return shifted_blanks(probabilities_NC, empty, float(-np.log(empty_weight)))
