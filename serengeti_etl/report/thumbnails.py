"""Photographs made small and put into the page itself, as many as it has room for."""

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from serengeti_etl.ahead import in_order
from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.resize import ResizedImage, preview_jpeg, resize_jpeg
from serengeti_etl.errors import ImageError
from serengeti_etl.report.samples import Photograph
from serengeti_etl.storage import Store

_MAX_PIXELS = 64_000_000
"""Of a photograph that is shown: a report must not take the memory of a worker."""

SMALL = ResizeSettings(size="208", quality=64, min_side=1, max_pixels=_MAX_PIXELS)
LARGE = ResizeSettings(size="352", quality=66, min_side=1, max_pixels=_MAX_PIXELS)

_MARKUP_NUM_BYTES = 300
"""Around a picture in the page."""

MAX_FAILURES = 3
"""Faults of the store after which no more of it is read: it may be away."""

_LONGEST_CAPTION = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A picture in the page.

    Attributes:
        uri: ``data:`` and its bytes.
        width: in px.
        height: in px.
        alt: what it is, for who cannot see it.
        caption: below it.
    """

    uri: str
    width: int
    height: int
    alt: str
    caption: str

    @property
    def num_bytes(self) -> int:
        """What it takes of the page."""
        words = html.escape(self.alt + self.caption).encode()
        return len(self.uri) + len(words) + _MARKUP_NUM_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """Photographs that are to be shown together.

    Attributes:
        name: of what they have in common.
        note: beside the name.
        photographs: in their order.
        caption: of each.
    """

    name: str
    note: str
    photographs: Sequence[Photograph]
    caption: Callable[[Photograph], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownSheet:
    """Photographs that are shown together.

    Attributes:
        name: of what they have in common.
        note: beside the name.
        thumbs: in their order.
    """

    name: str
    note: str
    thumbs: tuple[Thumbnail, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Album:
    """All sheets of a page.

    Attributes:
        sheets: in their order; those of which nothing could be shown have no thumbs.
        num_left_out: photographs for which there was no room.
        problems: what could not be read, and why.
    """

    sheets: tuple[ShownSheet, ...]
    num_left_out: int
    problems: tuple[str, ...]


def thumbnail(image: ResizedImage, alt: str, caption: str) -> Thumbnail:
    """A picture for the page."""
    return Thumbnail(
        uri=f"data:image/jpeg;base64,{base64.b64encode(image.jpeg).decode()}",
        width=image.width,
        height=image.height,
        alt=_cut(alt),
        caption=_cut(caption),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_CAPTION else f"{text[: _LONGEST_CAPTION - 1]}…"


def fill_album(
    store: Store, sheets: Sequence[Sheet], room: int, settings: ResizeSettings = SMALL
) -> Album:
    """The first photograph of each sheet, then the second of each, while there is room.

    Args:
        store: of the dataset.
        sheets: what is wanted, the most important first.
        room: bytes that the page has left.
        settings: how small they become.
    """
    filling = _Filling(sheets, room)
    wanted = list(_in_turns(sheets))
    read = partial(_read, store, settings)
    num_done = 0
    for (number, one), found in zip(
        wanted, in_order(read, [one for _, one in wanted]), strict=True
    ):
        if not filling.add(number, one, found):
            break
        num_done += 1
    return filling.album(num_left_out=len(wanted) - num_done)


class _Filling:
    """An album that is being filled."""

    def __init__(self, sheets: Sequence[Sheet], room: int) -> None:
        self._sheets, self._room = sheets, room
        self._thumbs: list[list[Thumbnail]] = [[] for _ in sheets]
        self._problems: list[str] = []
        self._num_failures = 0

    def add(self, number: int, one: Photograph, found: ResizedImage | OSError | ImageError) -> bool:
        """Put a photograph into a sheet; False where there is no room, or no use in going on."""
        if isinstance(found, ResizedImage):
            shown = thumbnail(found, describe(one), self._sheets[number].caption(one))
            if shown.num_bytes > self._room:
                return False
            self._room -= shown.num_bytes
            self._thumbs[number].append(shown)
            return True
        self._problems.append(f"{one.image_id} in {one.tar} cannot be shown: {found}")
        self._num_failures += isinstance(found, OSError)
        if self._num_failures < MAX_FAILURES:
            return True
        said = "no more photographs were read, as the store failed again and again"
        self._problems.append(said)
        return False

    def album(self, *, num_left_out: int) -> Album:
        """What is in it by now."""
        shown = (
            ShownSheet(name=sheet.name, note=sheet.note, thumbs=tuple(some))
            for sheet, some in zip(self._sheets, self._thumbs, strict=True)
        )
        problems = tuple(self._problems)
        return Album(sheets=tuple(shown), num_left_out=num_left_out, problems=problems)


def _in_turns(sheets: Sequence[Sheet]) -> Iterator[tuple[int, Photograph]]:
    """Each sheet's number with a photograph of it, the first ones first."""
    most = max((len(sheet.photographs) for sheet in sheets), default=0)
    for at in range(most):
        for number, sheet in enumerate(sheets):
            if at < len(sheet.photographs):
                yield number, sheet.photographs[at]


def describe(one: Photograph) -> str:
    """What a photograph shows, where and when, in one line."""
    shown = ", ".join(one.labels) or "no label"
    where = f" at site {one.site}" if one.site else ""
    when = f", {one.moment:%Y-%m-%d %H:%M}" if one.moment else ""
    return f"{shown}{where}{when}"


def _read(
    store: Store, settings: ResizeSettings, one: Photograph
) -> ResizedImage | OSError | ImageError:
    """The photograph made small, or why not: an error is no reason to give the others up."""
    try:
        jpeg = store.read_range(one.tar, one.offset, one.offset + one.num_bytes)
        return resize_jpeg(jpeg, settings)
    except (OSError, ImageError) as error:
        return error


def preview(photograph: bytes, alt: str, caption: str) -> Thumbnail | None:
    """A picture of what is left of a damaged photograph; None if that is nothing."""
    try:
        return thumbnail(preview_jpeg(photograph, SMALL), alt, caption)
    except ImageError:
        return None
