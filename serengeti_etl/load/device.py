"""Crop, resize, flip, jitter and normalise a whole batch at once, on the device where it is.

With it the CPU only decodes (``decode.decode_onto``). A resize is two products of matrices: one
holds the weights of the rows, the other those of the columns, and crop and flip are only other
weights. They are the triangle that Pillow and torchvision use for bilinear with antialias, so that
both roads, this one and ``decode.decode_into``, give the same pictures.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serengeti_etl.errors import require
from serengeti_etl.load.augment import Int64, Views
from serengeti_etl.load.jitter import jitter_in_place

IMAGES_AT_ONCE = 64
"""Bound on memory: so many canvases are held as float32 at a time, 150 MB of 512x384 px."""

_DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.float16)
_NUM_CHANNELS = 3
_WHITE = 255.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What the network is to get.

    Attributes:
        image_size: height and width in px; views are stretched to it.
        dtype: uint8 for a network that normalises by itself, as the project's own do, or a float.
        mean: of red, green and blue on a scale of 0 to 1, subtracted from floats; None to leave
            values as they are, 0 to 255.
        std: what is left is divided by it; None if ``mean`` is.
    """

    image_size: tuple[int, int]
    dtype: torch.dtype = torch.uint8
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        size = self.image_size
        positive = len(size) == 2 and all(side > 0 for side in size)  # noqa: PLR2004
        require(positive, "image_size", size, "(height, width) in px")
        require(self.dtype in _DTYPES, "dtype", self.dtype, f"one of {_DTYPES}")
        both = (self.mean is None) == (self.std is None)
        require(both, "std", self.std, "given if mean is, and only then")
        require(self.std is None or min(self.std) > 0, "std", self.std, "positive")
        fits = self.mean is None or self.dtype != torch.uint8
        require(fits, "dtype", self.dtype, "a float if mean and std are given")


def prepare(images_BCHW: Tensor, sizes_B2: Int64, views: Views, output: Output) -> Tensor:
    """(B, 3, height, width) for the network, channels last in memory, where the images are.

    Equal inputs give equal outputs on the same device, and an image's does not depend on the
    batch it is in beyond rounding. A place without a photograph, of size 0, comes out black.

    Args:
        images_BCHW: uint8 RGB canvases; each photograph lies in the top left corner of its own.
        sizes_B2: height and width of each photograph in px, on the host.
        views: of each photograph.
        output: what to make.
    """
    device, size = images_BCHW.device, output.image_size
    result = torch.empty(
        (len(images_BCHW), _NUM_CHANNELS, *size),
        dtype=output.dtype,
        device=device,
        memory_format=torch.channels_last,
    )
    # A caller's autocast would round pixels and weights to eight bits.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for first in range(0, len(images_BCHW), IMAGES_AT_ONCE):
            part = slice(first, first + IMAGES_AT_ONCE)
            resized_BCHW = _resized(images_BCHW[part], sizes_B2[part], views[part], size)
            jitter_in_place(resized_BCHW, views.jitter_B3[part])
            result[part] = _finished(resized_BCHW, output)
    return result


def _resized(images_BCHW: Tensor, sizes_B2: Int64, views: Views, size: tuple[int, int]) -> Tensor:
    """float32, 0 to 255."""
    batch, _, canvas_height, canvas_width = images_BCHW.shape
    columns = [views.boxes(sizes_B2), views.flips_B[:, None]]
    # All that the device must know, in one copy; whole numbers stay exact below 2^24.
    boxes = torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32))
    top, left, num_rows, num_columns, flip = boxes.to(images_BCHW.device).unbind(1)
    rows_BhH = _weights(top, num_rows, size[0], canvas_height)
    columns_BwW = _weights(left, num_columns, size[1], canvas_width)
    columns_BwW = torch.where(flip[:, None, None] > 0, columns_BwW.flip(1), columns_BwW)
    # Canvases are channels last: a row of pixels is one row of this matrix, and nothing moves.
    pixels_BHX = images_BCHW.permute(0, 2, 3, 1).reshape(batch, canvas_height, -1).float()
    lower_BhWC = (rows_BhH @ pixels_BHX).reshape(batch, size[0], canvas_width, _NUM_CHANNELS)
    lower_BYW = lower_BhWC.permute(0, 3, 1, 2).reshape(batch, -1, canvas_width)
    return (lower_BYW @ columns_BwW.mT).reshape(batch, _NUM_CHANNELS, *size)


def _weights(start_B: Tensor, length_B: Tensor, num_out: int, num_in: int) -> Tensor:
    """Share of each input pixel in each output pixel along one axis, (B, num_out, num_in)."""
    places_out = torch.arange(num_out, dtype=torch.float32, device=start_B.device) + 0.5
    places_in = torch.arange(num_in, dtype=torch.float32, device=start_B.device) + 0.5
    scale_B11 = (length_B / num_out)[:, None, None]
    centres_Bo1 = start_B[:, None, None] + places_out[:, None] * scale_B11
    # The triangle reaches one output pixel far, but at least one input pixel.
    far = (places_in - centres_Bo1).abs() / scale_B11.clamp(min=1)
    weights = (1 - far).clamp(min=0)
    start_B11, end_B11 = start_B[:, None, None], (start_B + length_B)[:, None, None]
    weights = weights * ((places_in > start_B11) & (places_in < end_B11))
    return weights / weights.sum(dim=2, keepdim=True)


def _finished(images_BCHW: Tensor, output: Output) -> Tensor:
    if output.mean is not None and output.std is not None:
        mean, std = (
            torch.tensor(values, device=images_BCHW.device)[:, None, None] * _WHITE
            for values in (output.mean, output.std)
        )
        return (images_BCHW - mean) / std
    return images_BCHW.round() if output.dtype == torch.uint8 else images_BCHW
