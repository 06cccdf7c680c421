"""How alike two pictures are, as every benchmark here counts it."""

from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

Luma = npt.NDArray[np.float64]

_RADIUS = 5  # of the Gaussian's window of 11 by 11 px
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: Image.Image) -> Luma:
    """Y of an image, 0–255."""
    return np.asarray(image.convert("L"), np.float64)


def similarity(one: Luma, other: Luma) -> float:
    """Mean SSIM with Gaussian weights of sigma 1.5, without the edges (Wang et al. 2004)."""
    blur = partial(gaussian_filter, sigma=1.5, radius=_RADIUS)
    mean_1, mean_2 = blur(one), blur(other)
    var_1, var_2 = blur(one * one) - mean_1**2, blur(other * other) - mean_2**2
    both = blur(one * other) - mean_1 * mean_2
    above = (2 * mean_1 * mean_2 + _C1) * (2 * both + _C2)
    below = (mean_1**2 + mean_2**2 + _C1) * (var_1 + var_2 + _C2)
    return float((above / below)[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS].mean())
