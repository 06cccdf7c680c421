"""Pixels at the size needed."""

import io

import numpy as np
import pytest
from PIL import Image

from serengeti_etl.load.decode import (
    MIN_CROP_AREA,
    View,
    decode_image,
    decode_into,
    training_views,
    uniform_bits,
)


def photograph(height: int = 96, width: int = 128) -> bytes:
    """A smooth JPEG: red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 // width, rows * 255 // height, rows * 0 + 128], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(96, 128), (48, 64), (40, 56), (24, 32), (120, 160)])
def test_whole_photographs_equal_pillows_resize(size: tuple[int, int]) -> None:
    """Any size, also through a scaled decode, stays close to Pillow's antialiased resize."""
    jpeg = photograph()
    expected = Image.open(io.BytesIO(jpeg)).resize(size[::-1], Image.Resampling.BILINEAR)
    difference = np.abs(decode_image(jpeg, size).astype(int) - np.asarray(expected))
    assert difference.mean() < 1.5
    assert decode_image(jpeg).shape == (96, 128, 3)


def test_a_crop_shows_the_part_it_names() -> None:
    """The lower right half of the photograph, mirrored, has its bright end at the left."""
    out_HWC = np.empty((24, 32, 3), dtype=np.uint8)
    decode_into(photograph(), View(top=0.5, left=0.5, side=0.5, flip=True), out_HWC)
    assert abs(int(out_HWC[12, 0, 0]) - 253) < 8
    assert abs(int(out_HWC[12, 31, 0]) - 128) < 8
    assert abs(int(out_HWC[0, 16, 1]) - 128) < 8
    assert abs(int(out_HWC[23, 16, 1]) - 253) < 8


def test_broken_bytes_raise() -> None:
    """A truncated JPEG is an error, never a half-grey image."""
    jpeg = photograph()
    for broken in (b"", jpeg[:200], jpeg[: len(jpeg) // 2]):
        with pytest.raises(ValueError, match=r"\w+"):
            decode_image(broken, (24, 32))


def test_training_views_are_light_and_repeatable() -> None:
    """Crops keep at least 65 % of the area inside the frame; flips are even; keys decide."""
    places = np.arange(4000)
    views = training_views((3, 1), places)
    sides = np.array([view.side for view in views])
    assert sides.min() >= MIN_CROP_AREA**0.5
    assert sides.max() <= 1
    assert all(0 <= v.top <= 1 - v.side and 0 <= v.left <= 1 - v.side for v in views)
    assert 0.47 < np.mean([view.flip for view in views]) < 0.53
    assert training_views((3, 1), places[100:110]) == views[100:110]
    assert training_views((3, 2), places) != views
    assert training_views((4, 1), places) != views


def test_hashed_numbers_are_uniform_and_independent() -> None:
    """Columns and neighbouring places are uncorrelated, and the values fill [0, 1) evenly."""
    draws = uniform_bits((0, 0), np.arange(20000), 3)
    assert np.abs(np.histogram(draws, bins=10, range=(0, 1))[0] / draws.size - 0.1).max() < 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
