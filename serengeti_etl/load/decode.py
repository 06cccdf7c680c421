"""JPEG bytes to uint8 pixels at the size needed, and the random crops and flips of training.

Randomness comes from a counter-based hash of (seed, epoch, place in the global order): no state,
so a resumed run sees the same pixels, on any number of ranks and threads.
"""

from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]

MIN_CROP_AREA = 0.65
"""Smallest share of a photograph's area that a training crop keeps: animals stand at the edge."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What of a photograph is looked at.

    Attributes:
        top: upper edge of the crop as a share of the height, 0 to 1.
        left: left edge of the crop as a share of the width, 0 to 1.
        side: length of the crop as a share of height and of width, so that aspect is kept, 0 to 1.
        flip: mirrored left to right.
    """

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    flip: bool = False


WHOLE = View()
"""The whole photograph, as evaluation sees it."""


def uniform_bits(
    key: tuple[int, int], positions_B: NDArray[np.int64], draws: int
) -> NDArray[np.float64]:
    """Numbers in [0, 1), (B, draws), each decided by its key, place and column alone.

    Args:
        key: seed and epoch.
        positions_B: places in the global order of the epoch.
        draws: numbers per place.
    """
    seed, epoch = key
    # uint64 arithmetic wraps around, which is what the hash wants.
    with np.errstate(over="ignore"):
        base = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(epoch) * _GOLDEN))
        per_place = _mix(base + positions_B.astype(np.uint64)[:, None] * _GOLDEN)
        bits = _mix(per_place + np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit changes half of the output bits."""
    bits = np.asarray(bits)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def training_views(key: tuple[int, int], positions_B: NDArray[np.int64]) -> list[View]:
    """A light crop and a flip for each place: area from 0.65 to 1, aspect kept, never upside down.

    Args:
        key: seed and epoch.
        positions_B: places in the global order of the epoch.
    """
    draws = uniform_bits(key, positions_B, 4)
    side = np.sqrt(MIN_CROP_AREA + (1 - MIN_CROP_AREA) * draws[:, 0])
    top, left = draws[:, 1] * (1 - side), draws[:, 2] * (1 - side)
    flip = draws[:, 3] < 0.5  # noqa: PLR2004 - an even chance
    columns = zip(top.tolist(), left.tolist(), side.tolist(), flip.tolist(), strict=True)
    return [View(top=t, left=x, side=s, flip=f) for t, x, s, f in columns]


def decode_into(jpeg: bytes, view: View, out_HWC: UInt8) -> None:
    """Fill ``out_HWC`` with the view of the photograph, stretched to its height and width.

    Args:
        jpeg: whole JPEG file.
        view: crop and flip.
        out_HWC: (height, width, 3) uint8, RGB, written in place.

    Raises:
        ValueError: the bytes are no whole JPEG.
    """
    height, width = out_HWC.shape[:2]
    pixels = _decode_at_least(jpeg, round(height / view.side), round(width / view.side))
    cropped = _cropped(pixels, view)
    if cropped.shape != out_HWC.shape:
        cropped = _resized(cropped, height, width)
    np.copyto(out_HWC, cropped[:, ::-1] if view.flip else cropped)


def decode_image(jpeg: bytes, image_size: tuple[int, int] | None = None) -> UInt8:
    """The whole photograph as (height, width, 3) uint8, RGB.

    Args:
        jpeg: whole JPEG file.
        image_size: height and width in px to stretch it to; None keeps its own.

    Raises:
        ValueError: the bytes are no whole JPEG.
    """
    if image_size is None:
        return np.asarray(simplejpeg.decode_jpeg(jpeg, "RGB"))
    out_HWC = np.empty((*image_size, 3), dtype=np.uint8)
    decode_into(jpeg, WHOLE, out_HWC)
    return out_HWC


def _decode_at_least(jpeg: bytes, height: int, width: int) -> UInt8:
    """Pixels at full size, or at 1/2, 1/4 or 1/8 when that is still at least height x width."""
    # Scales between 1/2 and 1 cost more than a full decode: min_factor=2 leaves them out.
    return np.asarray(
        simplejpeg.decode_jpeg(jpeg, "RGB", min_height=height, min_width=width, min_factor=2)
    )


def _cropped(pixels_HWC: UInt8, view: View) -> UInt8:
    height, width = pixels_HWC.shape[:2]
    num_rows, num_columns = max(1, round(height * view.side)), max(1, round(width * view.side))
    top = min(round(height * view.top), height - num_rows)
    left = min(round(width * view.left), width - num_columns)
    return pixels_HWC[top : top + num_rows, left : left + num_columns]


def _resized(pixels_HWC: UInt8, height: int, width: int) -> UInt8:
    # Torch's uint8 kernel is fast on this view only: channels last in memory, CHW in shape.
    pixels_1CHW = torch.from_numpy(np.ascontiguousarray(pixels_HWC)).permute(2, 0, 1)[None]
    resized_1CHW = torch.nn.functional.interpolate(
        pixels_1CHW, size=(height, width), mode="bilinear", antialias=True
    )
    return np.asarray(resized_1CHW[0].permute(1, 2, 0).numpy())
