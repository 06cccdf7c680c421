"""Brightness, contrast and saturation as torchvision defines them, in this order, of a batch.

One function for both roads, so that a photograph looks the same whether the CPU or the device
prepared it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
_WHITE = 255.0


def jitter_in_place(images_BCHW: Tensor, factors_B3: NDArray[np.float32]) -> None:
    """Change brightness, then contrast, then saturation of each image.

    Each is a blend: with black, with the image's mean grey, and with its own grey picture.
    Values stay within 0 and 255. What no image of the batch asks for is not computed.

    Args:
        images_BCHW: float RGB, 0 to 255, on any device.
        factors_B3: of brightness, contrast and saturation; 1 changes nothing. On the host.
    """
    wanted = (factors_B3 != 1).any(axis=0)
    if not wanted.any():
        return
    on_device = torch.from_numpy(np.ascontiguousarray(factors_B3)).to(images_BCHW.device)
    brightness, contrast, saturation = on_device.to(images_BCHW.dtype)[
        ..., None, None, None
    ].unbind(1)
    if wanted[0]:
        images_BCHW.mul_(brightness).clamp_(0, _WHITE)
    if wanted[1]:
        # The mean of the grey picture is the grey of the mean colour.
        mean_B111 = _grey(images_BCHW.mean(dim=(2, 3), keepdim=True))
        images_BCHW.mul_(contrast).add_((1 - contrast) * mean_B111).clamp_(0, _WHITE)
    if wanted[2]:
        grey_B1HW = _grey(images_BCHW)
        images_BCHW.mul_(saturation).add_((1 - saturation) * grey_B1HW).clamp_(0, _WHITE)


def _grey(images_BCHW: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    red, green, blue = images_BCHW.unbind(1)
    grey_BHW = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return grey_BHW[:, None]
