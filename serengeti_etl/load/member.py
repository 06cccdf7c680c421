"""One sample out of a tar: its photograph and what is said of it, each held to the other.

The layout is that of ``convert.tar_file``: plain ustar, ``<image_id>.jpg`` directly before
``<image_id>.json``. POSIX.1-1988; the fields' places are in ``tar(5)``.
"""

import json
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

SizeT = TypeVar("SizeT", int, NDArray[np.int64])

BLOCK_NUM_BYTES = 512
"""Of a tar: every file in it starts at a multiple of this."""

_JSON_NUM_BYTES = 1024
"""Read with the photograph for its JSON, which is nearly always smaller."""

_NAME, _SIZE, _MAGIC, _PREFIX = slice(0, 100), slice(124, 136), slice(257, 262), slice(345, 500)


class DamagedSampleError(ValueError):
    """The bytes at the place of a sample are not that sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One sample as it lies in the tar.

    Attributes:
        jpeg: the photograph, a whole JPEG file.
        said: contents of its JSON: ``image_id``, ``seq_id``, ``labels`` and more.
    """

    jpeg: memoryview
    said: dict[str, Any]


def num_bytes_around(num_bytes: SizeT) -> SizeT:
    """Bytes to read, from a block before the photograph on, that hold its JSON too."""
    return 2 * BLOCK_NUM_BYTES + padded(num_bytes) + _JSON_NUM_BYTES


def padded(num_bytes: SizeT) -> SizeT:
    """Size of a file of so many bytes in a tar, without its header."""
    return -(-num_bytes // BLOCK_NUM_BYTES) * BLOCK_NUM_BYTES


def json_end(content: bytes | memoryview, num_bytes: int) -> int:
    """Where the JSON ends in the bytes from a block before the photograph on.

    Raises:
        DamagedSampleError: there is no header of a JSON.
    """
    header = BLOCK_NUM_BYTES + padded(num_bytes)
    return header + BLOCK_NUM_BYTES + _header(memoryview(content)[header:], ".json")[1]


def parse_member(content: bytes | memoryview, num_bytes: int) -> Member:
    """The sample in the bytes from a block before its photograph up to the end of its JSON.

    Args:
        content: of the tar.
        num_bytes: size of the photograph in bytes, as the index has it.

    Raises:
        DamagedSampleError: they are not a photograph of that size and what is said of it.
    """
    view = memoryview(content)
    key, size = _header(view, ".jpg")
    end = BLOCK_NUM_BYTES + padded(num_bytes)
    json_key, json_size = _header(view[end:], ".json")
    if size != num_bytes or json_key != key:
        raise DamagedSampleError(f"there is {key!r} of {size} bytes, followed by {json_key!r}")
    start = end + BLOCK_NUM_BYTES
    try:
        said = json.loads(bytes(view[start : start + json_size]))
    except ValueError as error:
        raise DamagedSampleError(f"what is said of {key!r} is no JSON: {error}") from error
    if not isinstance(said, dict) or said.get("image_id") != key:
        raise DamagedSampleError(f"what is said of {key!r} is of another image")
    return Member(jpeg=view[BLOCK_NUM_BYTES : BLOCK_NUM_BYTES + num_bytes], said=said)


def _header(content: memoryview, ending: str) -> tuple[str, int]:
    """Name without its ending, and size in bytes, of the file that starts here."""
    header = bytes(content[:BLOCK_NUM_BYTES])
    if header[_MAGIC] != b"ustar":
        raise DamagedSampleError(f"no file of a tar begins where a {ending} should")
    try:
        name = _text(header[_NAME])
        prefix = _text(header[_PREFIX])
        size = int(header[_SIZE].rstrip(b"\0 "), 8)
    except ValueError as error:
        raise DamagedSampleError(f"the header of a {ending} is damaged: {error}") from error
    path = f"{prefix}/{name}" if prefix else name
    if not path.endswith(ending):
        raise DamagedSampleError(f"there is {path!r} where a {ending} should be")
    return path.removesuffix(ending), size


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()
