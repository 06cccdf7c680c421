"""One photograph: bytes to smaller bytes, resampled by libvips. Its only home.

The whole of what may happen to a photograph is here, so inference prepares a new photograph
exactly as the shards were made. A plain JPEG is decoded scaled by libjpeg-turbo, reduced by
libvips and encoded by libjpeg-turbo: what that choice is worth stands in benchmarks/RESULTS.md.
All others are libvips' from the first byte, behind three guards: only loaders of photographs, a
limit on declared pixels before anything is decoded, and ``fail_on``, without which a truncated
JPEG comes back half grey as a success.
"""

import contextlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyvips

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.gate import Gate
from serengeti_etl.convert.plain_jpeg import (
    Pixels,
    PlainJpeg,
    codec_version,
    decode_scaled,
    encode_jpeg,
    plain_jpeg,
)
from serengeti_etl.errors import ImageError
from serengeti_etl.stages import Stages

REASONS = (
    "empty_file",
    "not_an_image",
    "unsupported_format",
    "too_many_pixels",
    "too_small",
    "truncated",
    "corrupt",
)
"""Every reason that ``resize_jpeg`` gives for refusing a photograph."""

# Beyond a factor of eight, which only the smallest of several sizes comes to, libvips' sums over so
# many pixels lose up to two of 255: a box first reduces all but the gap.
_FAR, _GAP = 8.0, 4.0

_LOADERS = ("Jpeg", "Png", "Webp", "Tiff", "Nsgif")
_ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe"
_CMYK_BANDS = 4
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

# Junk between the header's segments, before the tables or a frame or scan header: the picture
# itself is whole. Before a restart marker (d0–d7) or inside the scan it would not be.
_JUNK_IN_HEADER = re.compile(r"extraneous bytes before marker 0x(c[0-9a-f]|d[abd]|e[0-9a-f]|fe)")

# Pictures of kinds that no camera trap writes: told apart from what is no picture at all.
_OTHER_FORMATS = re.compile(rb"BM|....ftyp(avif|heic|heix|mif1)", re.DOTALL)

# libvips keeps one buffer of messages for all threads, which also clear it for each other: what a
# photograph died of is only known when it is tried again alone.
_GATE = Gate()
_PREPARING = threading.Lock()

_MESSAGES = (
    ("Maximum supported image dimension", "too_many_pixels"),
    ("Unsupported JPEG data precision", "unsupported_format"),
    ("premature end of JPEG image", "truncated"),
    ("libpng read error", "truncated"),
    ("JPEG datastream contains no image", "not_an_image"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizedImage:
    """One photograph as it goes into a shard.

    Attributes:
        jpeg: baseline JPEG in sRGB, three channels, upright, without metadata.
        width: of ``jpeg`` in px.
        height: of ``jpeg`` in px.
        source_width: of the photograph as stored, before its orientation is applied, in px.
        source_height: likewise, in px.
    """

    jpeg: bytes
    width: int
    height: int
    source_width: int
    source_height: int


def encoder_version() -> str:
    """Such as ``libvips 8.18.7, simplejpeg 1.9.0``; other builds give other pixels."""
    libvips = ".".join(str(pyvips.version(part)) for part in range(3))
    return f"libvips {libvips}, {codec_version()}"


def resize_jpeg(photograph: bytes, settings: ResizeSettings) -> ResizedImage:
    """The photograph as a smaller JPEG; the same bytes on any machine with the same libraries.

    Args:
        photograph: content of the file; its name does not matter.
        settings: size, quality and limits.

    Raises:
        ImageError: the photograph cannot be used; ``reason`` is one of ``REASONS``.
    """
    return resize_photograph(photograph, settings, Stages())


def resize_photograph(photograph: bytes, settings: ResizeSettings, stages: Stages) -> ResizedImage:
    """As ``resize_jpeg``, and tells where the time went.

    Args:
        photograph: content of the file.
        settings: size, quality and limits.
        stages: gets the time of ``decode``, ``reduce`` and ``encode``; of what is not a plain
            JPEG libvips decodes and reduces in one go, which counts as ``decode``.

    Raises:
        ImageError: the photograph cannot be used; ``reason`` is one of ``REASONS``.
    """
    return _Photograph(photograph, stages).resized(settings)


def resize_to_each(
    photograph: bytes, wanted: Sequence[ResizeSettings], stages: Stages
) -> tuple[ResizedImage | ImageError, ...]:
    """What ``resize_photograph`` gives or raises for each of ``wanted``, byte for byte.

    Args:
        photograph: content of the file.
        wanted: settings; a plain JPEG is decoded once for all that have the same
            ``decode_sizes`` with their own size among them, others once for each.
        stages: gets the times, as of ``resize_photograph``.
    """
    source = _Photograph(photograph, stages)
    outcomes: list[ResizedImage | ImageError] = []
    for settings in wanted:
        try:
            outcomes.append(source.resized(settings))
        except ImageError as error:
            # A new one: a kept traceback would hold images of libvips in a cycle, and Python's
            # collector, which may come while libvips logs, must not be what frees them.
            outcomes.append(ImageError(error.reason, error.message))
    return tuple(outcomes)


def preview_jpeg(photograph: bytes, settings: ResizeSettings) -> ResizedImage:
    """What can be seen of a photograph, however damaged: for people, never for a shard.

    Args:
        photograph: content of the file.
        settings: size, quality and limits.

    Raises:
        ImageError: nothing of it can be decoded, or its limits forbid to try.
    """
    with contextlib.suppress(ImageError):
        return resize_jpeg(photograph, settings)
    try:
        with _GATE.alone():
            return _resize(photograph, settings, Stages(), fail_on="none")
    except pyvips.Error as error:
        raise _image_error(error) from error


class _Photograph:
    """A photograph and what was decoded of it."""

    def __init__(self, content: bytes, stages: Stages) -> None:
        _prepare_libvips()
        self.content = content
        self.stages = stages
        self.plain = plain_jpeg(content)
        self._decoded: dict[tuple[int, int], Pixels | None] = {}

    def resized(self, settings: ResizeSettings) -> ResizedImage:
        """As ``resize_photograph``."""
        if not self.content:
            raise ImageError("empty_file", "the file has 0 bytes")
        if self.plain is None:
            return _resize_any(self.content, settings, self.stages)
        size = self.plain.width, self.plain.height
        _check_size(*size, settings)
        decoded_HWC = self._decode(self.plain, _decode_target(*size, settings))
        if decoded_HWC is None:  # something is wrong with it, and libvips tells what
            return _resize_any(self.content, settings, self.stages)
        with self.stages.time("reduce"):
            pixels_HWC = _reduced(decoded_HWC, _target_of(*size, settings))
        return _encoded(pixels_HWC, settings, size, self.stages)

    def _decode(self, plain: PlainJpeg, target: tuple[int, int]) -> Pixels | None:
        """The pixels of a scaled decode that suits ``target``; None if the decoder complained."""
        if target not in self._decoded:
            try:
                with self.stages.time("decode"):
                    self._decoded[target] = decode_scaled(plain, *target)
            except ValueError:
                self._decoded[target] = None
        return self._decoded[target]


def _reduced(pixels_HWC: Pixels, target: tuple[int, int]) -> Pixels:
    """The pixels at ``target`` width and height in px, by libvips' Lanczos3."""
    height, width, bands = pixels_HWC.shape
    if (width, height) == target:
        return pixels_HWC
    with _GATE.together():
        image = pyvips.Image.new_from_memory(pixels_HWC.data, width, height, bands, "uchar")
        factors = width / target[0], height / target[1]
        gap = {"gap": _GAP} if max(factors) > _FAR else {}
        return _pixels(image.reduce(*factors, kernel="lanczos3", **gap))


def _pixels(image: Any) -> Pixels:
    values: Pixels = np.frombuffer(image.write_to_memory(), np.uint8)
    return values.reshape(image.height, image.width, image.bands)


def _encoded(
    pixels_HWC: Pixels, settings: ResizeSettings, source: tuple[int, int], stages: Stages
) -> ResizedImage:
    with stages.time("encode"):
        jpeg = encode_jpeg(pixels_HWC, settings.quality, settings.subsampling)
    return ResizedImage(
        jpeg=jpeg,
        width=pixels_HWC.shape[1],
        height=pixels_HWC.shape[0],
        source_width=source[0],
        source_height=source[1],
    )


def _resize_any(photograph: bytes, settings: ResizeSettings, stages: Stages) -> ResizedImage:
    """The photograph of whatever kind, by libvips alone."""
    if _OTHER_FORMATS.match(photograph):
        raise ImageError("unsupported_format", "BMP, AVIF and HEIC are not read")
    try:
        with _GATE.together():
            return _resize(photograph, settings, stages, fail_on="warning")
    except pyvips.Error:
        with _GATE.alone():
            return _resize_alone(photograph, settings, stages)


def _resize_alone(photograph: bytes, settings: ResizeSettings, stages: Stages) -> ResizedImage:
    """The photograph, if all that is wrong with it is junk in its header; else the reason."""
    pyvips.Error("")  # takes with it what others have left in the buffer of messages
    try:
        return _resize(photograph, settings, stages, fail_on="warning")
    except pyvips.Error as error:
        if not _JUNK_IN_HEADER.search(str(error)):
            raise _image_error(error) from error
    try:
        return _resize(photograph, settings, stages, fail_on="truncated")
    except pyvips.Error as error:
        raise _image_error(error) from error


def _prepare_libvips() -> None:
    """Set libvips up once per process, however many threads come first."""
    with _PREPARING:
        _set_up_libvips()


@cache
def _set_up_libvips() -> None:
    """No operation cache, loaders of photographs only: for a moment no loader at all."""
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)  # tasks run beside each other; threads inside one only get in the way
    pyvips.operation_block_set("VipsForeignLoad", state=True)
    for loader in _LOADERS:
        pyvips.operation_block_set(f"VipsForeignLoad{loader}", state=False)


def _resize(
    photograph: bytes, settings: ResizeSettings, stages: Stages, *, fail_on: str
) -> ResizedImage:
    with stages.time("decode"):
        header = pyvips.Image.new_from_buffer(photograph, "", access="sequential", fail_on=fail_on)
        _check_header(header, photograph, settings)
        image = _thumbnail(photograph, header, settings, f"[fail_on={fail_on}]")
        if image.hasalpha():
            image = image.flatten()
        if image.interpretation != "srgb":
            image = image.colourspace("srgb")
        pixels_HWC = _pixels(image.cast("uchar"))
    return _encoded(pixels_HWC, settings, (header.width, header.height), stages)


def _check_header(header: Any, photograph: bytes, settings: ResizeSettings) -> None:
    """Refuse what the header alone shows to be unusable, before a pixel is decoded."""
    _check_size(header.width, header.height, settings)
    if header.bands == _CMYK_BANDS and header.interpretation == "cmyk":
        # Without Adobe's marker libvips takes the values for inverted: the result is a negative.
        is_jpeg = header.get("vips-loader").startswith("jpeg")
        if is_jpeg and _ADOBE_MARKER not in photograph:
            raise ImageError("unsupported_format", "CMYK without an Adobe marker is ambiguous")


def _check_size(width: int, height: int, settings: ResizeSettings) -> None:
    """Refuse a photograph that declares more pixels than allowed, or too few."""
    if width * height > settings.max_pixels:
        raise ImageError(
            "too_many_pixels", f"declares {width}x{height} px, above {settings.max_pixels:,}"
        )
    if min(width, height) < settings.min_side:
        raise ImageError("too_small", f"{width}x{height} px, a side is below {settings.min_side}")


def _thumbnail(photograph: bytes, header: Any, settings: ResizeSettings, options: str) -> Any:
    """The image upright at its final size, by libvips' shrink-on-load and Lanczos3."""
    orientation = header.get("orientation") if header.get_typeof("orientation") else 1
    upright = (header.width, header.height)
    if orientation in _SIDEWAYS:
        upright = upright[::-1]
    width, height = _target_of(*upright, settings)
    kwargs: dict[str, Any] = {"height": height, "size": "force", "option_string": options}
    if header.get_typeof("icc-profile-data"):
        # Only where there is a profile to leave: asked for always, it triples the time.
        kwargs["output_profile"] = "srgb"
    return pyvips.Image.thumbnail_buffer(photograph, width, **kwargs)


def _target_of(width: int, height: int, settings: ResizeSettings) -> tuple[int, int]:
    """Width and height in px of the result for an upright photograph; never more than it has."""
    if settings.box is not None:
        return min(settings.box[0], width), min(settings.box[1], height)
    side = min(width, height) if settings.is_shortest_side else max(width, height)
    scale = min(1.0, settings.side / side)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _decode_target(width: int, height: int, settings: ResizeSettings) -> tuple[int, int]:
    """Width and height in px that a decode must suit: those of the largest of the results."""
    targets = [_target_of(width, height, settings)]
    targets += [_target_of(width, height, _at_size(size)) for size in settings.decode_sizes]
    widths, heights = zip(*targets, strict=True)
    return max(widths), max(heights)


@cache
def _at_size(size: str) -> ResizeSettings:
    return ResizeSettings(size=size)


def _image_error(error: pyvips.Error) -> ImageError:
    """The error with its reason; libvips tells them apart only in its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = "; ".join(dict.fromkeys(lines[1:])) or lines[0]
    text = str(error)
    if "is not in a known format" in text:
        return ImageError("not_an_image", "not a format that photographs come in")
    if "operation is blocked" in text:
        return ImageError("unsupported_format", detail)
    reason = next((reason for part, reason in _MESSAGES if part in text), "corrupt")
    return ImageError(reason, detail)
