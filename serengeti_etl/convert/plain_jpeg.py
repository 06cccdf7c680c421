"""Plain JPEGs, which nearly all photographs are: scaled decode and encode by libjpeg-turbo.

Plain is what needs no thought: baseline, 8 bits, YCbCr in three components, upright, no colour
profile, no second picture behind the first. Everything else is libvips' business from the start,
and so is a plain one that gives the decoder cause for a warning.

Formats: ITU-T T.81 Annex B for markers, Exif 2.32 for the orientation.
"""

import struct
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]
"""``pixels_HWC``: RGB, uint8."""

SCALES = ((1, 2.0), (2, 2.0), (3, 1.5), (4, 1.5), (8, 1.0))
"""Scales of a decode in eighths, and how many times the target its sides must be at least.

Less costs sharpness, more costs time. Of the similarity that a full decode keeps after coding,
3/8 at 1.5 keeps 0.995, 1/4 at 1.5 keeps 0.989, 1/4 at 1 keeps 0.974 (``benchmarks/resize.py`` on
Serengeti originals). 5/8 to 7/8 have no vector code: a full decode is as fast.
"""

_START_OF_IMAGE = b"\xff\xd8"
_BASELINE = 0xC0
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables and reserved are none
_EXIF, _APP2, _ADOBE, _SCAN = 0xE1, 0xE2, 0xEE, 0xDA
_MAX_SEGMENTS = 64
_ADOBE_YCBCR = 1
_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1
_NUM_COMPONENTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainJpeg:
    """A JPEG that libjpeg-turbo may decode scaled.

    Attributes:
        content: the whole file.
        width: in px, as declared.
        height: likewise.
    """

    content: bytes
    width: int
    height: int


def plain_jpeg(content: bytes) -> PlainJpeg | None:
    """``content`` with its size, or None if it is not a plain JPEG."""
    if content[:2] != _START_OF_IMAGE:
        return None
    found = None
    try:
        for marker, segment in _segments(content):
            if marker in _FRAMES:
                found = _frame(marker, segment, content)
            if not _is_harmless(marker, segment):
                return None
    except (struct.error, IndexError):
        return None  # cut short or damaged: let libvips say how
    return found


def decode_scaled(photograph: PlainJpeg, width: int, height: int) -> Pixels:
    """The photograph decoded at the least of ``SCALES`` that suits ``width`` by ``height`` px.

    Raises:
        ValueError: the decoder warned of or failed at something.
    """
    decoded_width, decoded_height = photograph.width, photograph.height
    for eighths, margin in SCALES:
        sides = _scaled(photograph, eighths)
        if sides[0] >= margin * width and sides[1] >= margin * height:
            decoded_width, decoded_height = sides
            break
    pixels_HWC: Pixels = simplejpeg.decode_jpeg(
        photograph.content, min_width=decoded_width, min_height=decoded_height, min_factor=1
    )
    return pixels_HWC


def encode_jpeg(pixels_HWC: Pixels, quality: int, subsampling: Literal["4:2:0", "4:4:4"]) -> bytes:
    """A baseline JPEG without metadata.

    Args:
        pixels_HWC: RGB, uint8.
        quality: 1–100.
        subsampling: of the chroma.
    """
    return bytes(
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels_HWC),
            quality=quality,
            colorsubsampling=subsampling.replace(":", ""),
        )
    )


def codec_version() -> str:
    """Such as ``simplejpeg 1.9.0``, which carries a libjpeg-turbo of its own."""
    return f"simplejpeg {version('simplejpeg')}"


def _scaled(photograph: PlainJpeg, eighths: int) -> tuple[int, int]:
    return -(-photograph.width * eighths // 8), -(-photograph.height * eighths // 8)


def _segments(content: bytes) -> "list[tuple[int, memoryview]]":
    """Marker and payload of each segment up to the first scan."""
    view = memoryview(content)
    segments: list[tuple[int, memoryview]] = []
    at = len(_START_OF_IMAGE)
    while not segments or segments[-1][0] != _SCAN:
        if view[at] != 0xFF or len(segments) > _MAX_SEGMENTS:  # noqa: PLR2004 - begins a marker
            raise IndexError("junk between segments")
        while view[at] == 0xFF:  # noqa: PLR2004 - any number of them may stand before a marker
            at += 1
        (num_bytes,) = struct.unpack_from(">H", view, at + 1)
        segments.append((view[at], view[at + 3 : at + 1 + num_bytes]))
        at += 1 + num_bytes
    return segments


def _frame(marker: int, segment: memoryview, content: bytes) -> PlainJpeg | None:
    precision, height, width, num_components = struct.unpack_from(">BHHB", segment)
    names = bytes(segment[6::3])[:num_components]
    is_plain = marker == _BASELINE and precision == 8 and num_components == _NUM_COMPONENTS  # noqa: PLR2004 - bits
    if not is_plain or names == b"RGB" or not width or not height:
        return None
    return PlainJpeg(content=content, width=width, height=height)


def _is_harmless(marker: int, segment: memoryview) -> bool:
    """Whether this segment leaves the plain way of decoding right."""
    if marker == _EXIF:
        # XMP of an HDR photograph names its gain map so.
        return _orientation(segment) == _UPRIGHT and b"hdrgm" not in bytes(segment)
    if marker == _APP2:
        # A colour profile, or the directory of several pictures in one file.
        return not bytes(segment[:12]).startswith((b"ICC_PROFILE", b"MPF"))
    if marker == _ADOBE and bytes(segment[:5]) == b"Adobe":
        return segment[11] == _ADOBE_YCBCR
    return True


def _orientation(segment: memoryview) -> int:
    """The orientation of an Exif segment; 1 if it says none."""
    if bytes(segment[:6]) != b"Exif\0\0":
        return _UPRIGHT
    tiff = segment[6:]
    order = "<" if bytes(tiff[:2]) == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (num_entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(num_entries):
        at = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
        if tag == _ORIENTATION_TAG:
            is_short = kind == 3  # noqa: PLR2004 - Exif's SHORT; any other kind is nonsense
            return int(struct.unpack_from(f"{order}H", tiff, at + 8)[0]) if is_short else 0
    return _UPRIGHT
