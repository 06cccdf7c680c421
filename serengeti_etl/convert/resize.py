"""One photograph: bytes to smaller bytes, by libvips. Its only home.

The whole of what may happen to a photograph is here, so inference prepares a new photograph
exactly as the shards were made. libvips sits behind three guards: only loaders of photographs, a
limit on declared pixels before anything is decoded, and ``fail_on``, without which a truncated
JPEG comes back half grey as a success.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyvips

from serengeti_etl.config import ResizeSettings
from serengeti_etl.errors import ImageError

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

_LOADERS = ("Jpeg", "Png", "Webp", "Tiff", "Nsgif")
_ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe"
_CMYK_BANDS = 4
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

# Junk between the header's segments, before the tables or a frame or scan header: the picture
# itself is whole. Before a restart marker (d0–d7) or inside the scan it would not be.
_JUNK_IN_HEADER = re.compile(r"extraneous bytes before marker 0x(c[0-9a-f]|d[abd]|e[0-9a-f]|fe)")

# Pictures of kinds that no camera trap writes: told apart from what is no picture at all.
_OTHER_FORMATS = re.compile(rb"BM|....ftyp(avif|heic|heix|mif1)", re.DOTALL)

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


def libvips_version() -> str:
    """Such as ``libvips 8.18.7``; other builds give other pixels."""
    return "libvips " + ".".join(str(pyvips.version(part)) for part in range(3))


def resize_jpeg(photograph: bytes, settings: ResizeSettings) -> ResizedImage:
    """The photograph as a smaller JPEG; the same bytes on any machine with the same libvips.

    Args:
        photograph: content of the file; its name does not matter.
        settings: size, quality and limits.

    Raises:
        ImageError: the photograph cannot be used; ``reason`` is one of ``REASONS``.
    """
    _prepare_libvips()
    if not photograph:
        raise ImageError("empty_file", "the file has 0 bytes")
    if _OTHER_FORMATS.match(photograph):
        raise ImageError("unsupported_format", "BMP, AVIF and HEIC are not read")
    try:
        return _resize(photograph, settings, fail_on="warning")
    except pyvips.Error as error:
        if not _JUNK_IN_HEADER.search(str(error)):
            raise _image_error(error) from error
    try:
        return _resize(photograph, settings, fail_on="truncated")
    except pyvips.Error as error:
        raise _image_error(error) from error


@cache
def _prepare_libvips() -> None:
    """Set libvips up once per process: no operation cache, loaders of photographs only."""
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)  # tasks run beside each other; threads inside one only get in the way
    pyvips.operation_block_set("VipsForeignLoad", state=True)
    for loader in _LOADERS:
        pyvips.operation_block_set(f"VipsForeignLoad{loader}", state=False)


def _resize(photograph: bytes, settings: ResizeSettings, *, fail_on: str) -> ResizedImage:
    header = pyvips.Image.new_from_buffer(photograph, "", access="sequential", fail_on=fail_on)
    _check_header(header, photograph, settings)
    image = _thumbnail(photograph, header, settings, f"[fail_on={fail_on}]")
    if image.hasalpha():
        image = image.flatten()
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    jpeg = image.cast("uchar").jpegsave_buffer(
        Q=settings.quality,
        subsample_mode="on" if settings.subsampling == "4:2:0" else "off",
        optimize_coding=True,
        keep="none",
    )
    return ResizedImage(
        jpeg=jpeg,
        width=image.width,
        height=image.height,
        source_width=header.width,
        source_height=header.height,
    )


def _check_header(header: Any, photograph: bytes, settings: ResizeSettings) -> None:
    """Refuse what the header alone shows to be unusable, before a pixel is decoded."""
    width, height = header.width, header.height
    if width * height > settings.max_pixels:
        raise ImageError(
            "too_many_pixels", f"declares {width}x{height} px, above {settings.max_pixels:,}"
        )
    if min(width, height) < settings.min_side:
        raise ImageError("too_small", f"{width}x{height} px, a side is below {settings.min_side}")
    if header.bands == _CMYK_BANDS and header.interpretation == "cmyk":
        # Without Adobe's marker libvips takes the values for inverted: the result is a negative.
        is_jpeg = header.get("vips-loader").startswith("jpeg")
        if is_jpeg and _ADOBE_MARKER not in photograph:
            raise ImageError("unsupported_format", "CMYK without an Adobe marker is ambiguous")


def _thumbnail(photograph: bytes, header: Any, settings: ResizeSettings, options: str) -> Any:
    """The image upright at its final size, by libvips' shrink-on-load and Lanczos3."""
    width, height, size = _target(header, settings)
    kwargs: dict[str, Any] = {"height": height, "size": size, "option_string": options}
    if header.get_typeof("icc-profile-data"):
        # Only where there is a profile to leave: asked for always, it triples the time.
        kwargs["output_profile"] = "srgb"
    return pyvips.Image.thumbnail_buffer(photograph, width, **kwargs)


def _target(header: Any, settings: ResizeSettings) -> tuple[int, int, str]:
    """Width and height in px, and how libvips is to reach them; never more than the source has."""
    if settings.box is None:
        return settings.longest_side, settings.longest_side, "down"
    orientation = header.get("orientation") if header.get_typeof("orientation") else 1
    upright = (header.width, header.height)
    if orientation in _SIDEWAYS:
        upright = upright[::-1]
    width, height = (min(side, have) for side, have in zip(settings.box, upright, strict=True))
    return width, height, "force"


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
