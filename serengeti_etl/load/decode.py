"""JPEG bytes to uint8 pixels: at the size needed, or as they are onto a canvas for the device.

What the choices rest on, in CPU time per Serengeti photograph of 512x384 px and 60 KB on one core:

- decoded by the libjpeg-turbo in simplejpeg, exactly: 0.70 ms. Its fast upsampling takes 1.01 and
  its fast DCT 1.02 of that, both together 0.98, for 37 and 45 dB at worst: not worth it.
- ``decode_onto`` a canvas: 1.01 to 1.04 of the bare decode; a copy out of a buffer would add 0.10.
- ``decode_into`` 224x224 px: 1.05 ms, of which torch's antialiased uint8 resize is 0.25. Pillow's
  takes 0.85, OpenCV's area 0.7; OpenCV's linear, 0.1, is not antialiased.
- decoded at 1/2: 0.84 of the whole, at 1/4: 0.77, and less is left to resize.
- no library with wheels decodes a part of a JPEG: what PyTurboJPEG calls a crop is a JPEG again.
"""

from threading import Thread

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from serengeti_etl.load.augment import WHOLE, View, kept_heights
from serengeti_etl.load.jitter import jitter_in_place

UInt8 = NDArray[np.uint8]
Jpeg = bytes | memoryview

_PLAIN = (1.0, 1.0, 1.0)

_MARGIN = 1.5
"""How many times the size that is wanted the crop of a scaled decode must have at least.

With 1.5 it has 39 dB and more to the resize of a full decode, with 1.2 it has 36, with 1 only 30.
"""


def decode_into(jpeg: Jpeg, view: View, out_HWC: UInt8) -> None:
    """Fill ``out_HWC`` with the view of the photograph, stretched to its height and width.

    Args:
        jpeg: whole JPEG file.
        view: crop, flip and jitter.
        out_HWC: (height, width, 3) uint8, RGB, written in place.

    Raises:
        ValueError: the bytes are no whole JPEG.
    """
    height, width = out_HWC.shape[:2]
    if view == WHOLE and out_HWC.flags.c_contiguous and _size_of(jpeg) == (height, width):
        _decode_exactly(jpeg, out_HWC)
        return
    crop_HWC = _decode_crop(jpeg, view, (height, width))
    # Copied by numpy: torch would wake a team of threads for it, see ``use_one_core``.
    images_1CHW = _resized(_as_tensor(np.ascontiguousarray(crop_HWC)), (height, width))
    if view.jitter != _PLAIN:
        images_1CHW = _jittered(images_1CHW, view)
    _as_tensor(out_HWC).copy_(images_1CHW.flip(-1) if view.flip else images_1CHW)


def decode_onto(jpeg: Jpeg, canvas_HWC: UInt8) -> tuple[int, int]:
    """Height and width in px of the photograph, now in the top left corner of the canvas.

    The rest of the canvas becomes zero. A photograph that is larger than the canvas is reduced
    until it fits, its aspect kept.

    Args:
        jpeg: whole JPEG file.
        canvas_HWC: (height, width, 3) uint8, RGB, contiguous, written in place.

    Raises:
        ValueError: the bytes are no whole JPEG.
    """
    num_rows, num_columns = canvas_HWC.shape[:2]
    height, width = _size_of(jpeg)
    if height > num_rows or width > num_columns:
        share = min(num_rows / height, num_columns / width)
        height, width = max(1, round(height * share)), max(1, round(width * share))
        decode_into(jpeg, WHOLE, canvas_HWC[:height, :width])
    elif width == num_columns:
        # Whole rows lie in one piece of memory, which is all that the decoder can write to.
        _decode_exactly(jpeg, canvas_HWC[:height])
    else:
        canvas_HWC[:height, :width] = simplejpeg.decode_jpeg(jpeg, "RGB")
    canvas_HWC[height:] = 0
    canvas_HWC[:height, width:] = 0
    return height, width


def decode_image(jpeg: Jpeg, image_size: tuple[int, int] | None = None) -> UInt8:
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


def use_one_core() -> None:
    """Nothing; from now on torch's operations in the calling thread use that thread alone.

    For the threads that decode: each has a core already. Torch would give each of them a team of
    threads of its own, which wait for each other in busy loops: on a machine with other work that
    made a flip or a jitter cost ten times as much. Other threads keep what they have.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # It also changes what threads get that have not begun yet: put that back, from such a thread.
    restore = Thread(target=torch.set_num_threads, args=(num_threads,))
    restore.start()
    restore.join()


def _size_of(jpeg: Jpeg) -> tuple[int, int]:
    """Declared height and width in px; the header costs a thousandth of the decode."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    return int(height), int(width)


def _decode_exactly(jpeg: Jpeg, out_HWC: UInt8) -> None:
    """Decode into memory of the photograph's own size, without a copy."""
    simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out_HWC)


def _decode_crop(jpeg: Jpeg, view: View, size: tuple[int, int]) -> UInt8:
    """The crop, decoded at the smallest scale that suits ``size``."""
    height, width = _size_of(jpeg)
    factor = _factor(height, width, view, size)
    pixels_HWC = np.asarray(
        simplejpeg.decode_jpeg(jpeg, "RGB", min_height=height // factor, min_width=width // factor)
    )
    top, left, num_rows, num_columns = (edge // factor for edge in view.box(height, width))
    return pixels_HWC[top : top + num_rows, left : left + num_columns]


def _factor(height: int, width: int, view: View, size: tuple[int, int]) -> int:
    """How many px of the photograph become one while it is decoded."""
    kept, is_whole = int(kept_heights(np.array(height), view.crop_bottom)), view.side == 1
    # Scales between 1/2 and 1 cost more than a full decode.
    for factor in (8, 4, 2):
        is_exact = height % factor == 0 and width % factor == 0
        # Crops lie on even px, which only full and half size can cut out exactly.
        is_exact = is_exact and ((is_whole and kept % factor == 0) or factor == 2)  # noqa: PLR2004
        share = view.side / factor / _MARGIN
        if is_exact and kept * share >= size[0] and width * share >= size[1]:
            return factor
    return 1


def _as_tensor(pixels_HWC: UInt8) -> Tensor:
    """A view of the pixels as (1, 3, H, W), channels last in memory.

    Torch's vector code for uint8 wants just that: with the first dimension added after the
    permutation its result is laid out otherwise, and resizing takes 2.5 times as long.
    """
    return torch.from_numpy(pixels_HWC)[None].permute(0, 3, 1, 2)


def _resized(images_1CHW: Tensor, size: tuple[int, int]) -> Tensor:
    if images_1CHW.shape[2:] == size:
        return images_1CHW
    return torch.nn.functional.interpolate(images_1CHW, size=size, mode="bilinear", antialias=True)


def _jittered(images_1CHW: Tensor, view: View) -> Tensor:
    # Each colour in one piece of memory: sums over them are faster so.
    changed_1CHW = images_1CHW.to(torch.float32, memory_format=torch.contiguous_format)
    jitter_in_place(changed_1CHW, np.array([view.jitter], dtype=np.float32))
    return changed_1CHW.round_().to(torch.uint8)
