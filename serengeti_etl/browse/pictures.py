"""Photographs out of the shards, each by a range of bytes; and pictures that say why there is none.

What is read comes from the index alone: a request names a row, never a file.
"""

import hashlib
import html
import textwrap

from serengeti_etl.browse.images import Images
from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.resize import resize_jpeg
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ShardError

_TILE = ResizeSettings(size="400", quality=80, min_side=1)
_SMALL_NUM_BYTES = 32 * 1024
"""As large as a tile may become: sent as it is."""

_LARGEST_NUM_BYTES = 64 * 1024 * 1024
_START = b"\xff\xd8\xff"
_NUM_LETTERS, _NUM_LINES = 30, 7


class Pictures:
    """The photographs of a dataset by row.

    Args:
        dataset: that has them.
        images: its rows.
    """

    def __init__(self, dataset: Dataset, images: Images) -> None:
        self._store, self._images = dataset.store, images

    def version(self, row: int) -> str:
        """Names these bytes, and no others ever."""
        shard, images = self._images.shard(row), self._images
        text = f"{shard.sha256} {images.offset_N[row]} {images.num_bytes_N[row]}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def jpeg(self, row: int) -> bytes:
        """The photograph as it lies in its shard.

        Raises:
            ShardError: there is something else.
            OSError: the store fails, or has no such shard.
        """
        offset, num_bytes = int(self._images.offset_N[row]), int(self._images.num_bytes_N[row])
        content = self.bytes(row, offset, offset + num_bytes)
        if len(content) != num_bytes or not content.startswith(_START):
            raise self._damaged(row, f"there is no JPEG of {num_bytes} bytes at {offset}")
        return content

    def tile(self, row: int) -> bytes:
        """The photograph, small.

        Raises:
            ImageError: it is damaged.
            ShardError: there is something else.
            OSError: as ``jpeg``.
        """
        content = self.jpeg(row)
        if len(content) <= _SMALL_NUM_BYTES:
            return content
        return resize_jpeg(content, _TILE).jpeg

    def bytes(self, row: int, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an image's shard. Raises as ``jpeg``."""
        shard = self._images.shard(row)
        if not 0 <= start < end <= min(shard.num_bytes, start + _LARGEST_NUM_BYTES):
            raise self._damaged(row, f"it has no bytes {start} to {end}")
        try:
            return self._store.read_range(shard.tar_name, start, end)
        except FileNotFoundError as error:
            raise self._damaged(row, "it is not there") from error

    def _damaged(self, row: int, what: str) -> ShardError:
        name = self._images.shard(row).tar_name
        return ShardError(f"{name} is damaged: {what}; run `serengeti-etl verify`")


def picture_of_text(text: str) -> bytes:
    """An SVG that says ``text``, in the place of a photograph."""
    lines = textwrap.wrap(text, _NUM_LETTERS, max_lines=_NUM_LINES, placeholder=" …")
    spans = "".join(
        f'<tspan x="20" dy="33">{html.escape(_printable(line))}</tspan>' for line in lines
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 300" width="400" height="300">'
        '<rect width="400" height="300" fill="#5b2020"/>'
        '<text x="20" y="22" font-family="sans-serif" font-size="24" fill="#ffe9e4">'
        f"{spans}</text></svg>"
    ).encode()


def _printable(line: str) -> str:
    """Without what XML does not allow."""
    return "".join(one if one.isprintable() else "�" for one in line)
