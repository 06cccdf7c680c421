"""Pictures for tests of decoding: drawn with both smooth and fine parts, and how alike two are."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

UInt8 = NDArray[np.uint8]


def picture(height: int = 96, width: int = 128, seed: int = 0) -> UInt8:
    """Red grows to the right, green downwards, with grass of a few px; (height, width, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = np.stack([columns * 255 // width, rows * 255 // height, rows * 0 + 128], axis=-1)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    grass = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))
    pixels: UInt8 = np.clip(slopes * 0.8 + np.asarray(grass) - 102, 0, 255).astype(np.uint8)
    return pixels


def jpeg_of(pixels: UInt8, mode: str = "RGB", **options: Any) -> bytes:
    """The pixels as a JPEG of high quality."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def pillow(jpeg: bytes) -> UInt8:
    """What Pillow makes of a JPEG."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def pillow_view(pixels_HWC: UInt8, box: tuple[int, int, int, int], size: tuple[int, int]) -> UInt8:
    """What Pillow makes of a crop (top, left, rows, columns) at (height, width)."""
    top, left, num_rows, num_columns = box
    crop = Image.fromarray(pixels_HWC).crop((left, top, left + num_columns, top + num_rows))
    return np.asarray(crop.resize(size[::-1], Image.Resampling.BILINEAR))


def decibels(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal to noise ratio of two pictures from 0 to 255; 99 if they are equal."""
    assert a.shape == b.shape
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))
