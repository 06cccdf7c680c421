"""One photograph inside an archive: where it lies, and its content from the bytes there.

An archive's word is never trusted with memory: nothing inflates beyond the declared size.
"""

import re
import struct
import zlib
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serengeti_etl.errors import CatalogError, ImageError

LOCATION_SCHEMA = pa.schema(
    [
        pa.field("archive", pa.string()),  # its name in the store
        pa.field("offset", pa.int64()),  # zip: of the local header; tar: of the data
        # To request from ``offset`` on. Zip: the local header, whose length only it tells, too.
        pa.field("num_stored_bytes", pa.int64()),
        pa.field("num_bytes", pa.int64()),  # of the content, as declared
        pa.field("crc32", pa.int64()),  # of the content, as declared; null in a tar
        pa.field("method", pa.string()),  # as in ``Location``
    ]
)
"""Where a member lies: the columns of ``Location``; all are null where there is no member."""

MEMBER_SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False), *LOCATION_SCHEMA])
"""A member by its name: a row of ``list_members``."""

REASONS = ("checksum", "corrupt", "unsupported_format", "too_large")
"""Every reason that ``check_member`` and ``member_bytes`` give for refusing a member."""

MAX_NUM_BYTES = 1 << 28
"""Size of the content, in bytes, beyond which a member is no photograph."""

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
LOCAL_HEADER_SIGNATURE = b"PK\x03\x04"
"""Of a zip's member, before its name, an extra field and the data."""

MAX_LOCAL_HEADER = LOCAL_HEADER.size + 2 * 0xFFFF
"""Bytes of the longest one, with its name and extra field."""

_JUNK = re.compile(r"(^|/)(__MACOSX/|\._[^/]*$|\.DS_Store$|Thumbs\.db$|desktop\.ini$)")
_READABLE = ("stored", "deflated", "tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where the content of one member lies: a row of ``LOCATION_SCHEMA``.

    Attributes:
        archive: name of the archive in the store.
        offset: first byte to request: of a zip, the member's local header; of a tar, its data.
        num_stored_bytes: bytes to request from there.
        num_bytes: size of the content in bytes, as the archive declares it.
        crc32: of the content, as the archive declares it; a tar declares none.
        method: "stored", "deflated" or "tar"; any other cannot be read: "encrypted",
            "method 12" (of the zip format's list), "link" or "sparse" (of a tar).
    """

    archive: str
    offset: int
    num_stored_bytes: int
    num_bytes: int
    crc32: int | None
    method: str

    @property
    def end(self) -> int:
        """The byte of the archive after the last one to request."""
        return self.offset + self.num_stored_bytes


def check_member(location: Location, max_num_bytes: int = MAX_NUM_BYTES) -> None:
    """Nothing, if the member is worth a request; ``member_bytes`` asks again.

    Raises:
        ImageError: it is not, with a reason of ``REASONS``.
    """
    if location.method not in _READABLE:
        raise ImageError(
            "unsupported_format", f"the member of {location.archive} is {location.method}"
        )
    # Data that does not compress grows by less than a header's room: what is stored can be too
    # large only where the declared size lies.
    num_bytes = max(location.num_bytes, location.num_stored_bytes - 2 * MAX_LOCAL_HEADER)
    if num_bytes > max_num_bytes:
        raise ImageError("too_large", f"{num_bytes} bytes, of at most {max_num_bytes}")


def member_bytes(
    raw: bytes | memoryview, location: Location, max_num_bytes: int = MAX_NUM_BYTES
) -> bytes:
    """The content of a member, checked against the size and CRC that its archive declares.

    Args:
        raw: the bytes of the archive from ``location.offset`` to ``location.end``.
        location: where they are from.
        max_num_bytes: largest content in bytes.

    Raises:
        ImageError: the member cannot be used; ``reason`` is one of ``REASONS``.
    """
    check_member(location, max_num_bytes)
    if len(raw) < location.num_stored_bytes:
        raise ImageError(
            "checksum", f"{len(raw)} bytes came, of {location.num_stored_bytes} asked for"
        )
    stored = memoryview(raw)[: location.num_stored_bytes]
    if location.method == "tar":
        content = bytes(stored)
    elif location.method == "stored":
        content = bytes(_after_header(stored)[: location.num_bytes])
    else:
        content = _inflate(_after_header(stored), location.num_bytes)
    _check_content(content, location)
    return content


def _after_header(stored: memoryview) -> memoryview:
    """What follows a zip's local header: the data, and a little more."""
    if len(stored) < LOCAL_HEADER.size or stored[:4] != LOCAL_HEADER_SIGNATURE:
        raise ImageError("corrupt", "there is no header of a zip's member where one should be")
    # Its sizes and CRC are zeros where a descriptor follows the data: the directory has them.
    *_, num_name_bytes, num_extra_bytes = LOCAL_HEADER.unpack_from(stored)
    return stored[LOCAL_HEADER.size + num_name_bytes + num_extra_bytes :]


def _inflate(data: memoryview, num_bytes: int) -> bytes:
    """The content, or one byte more than declared: a bomb goes off no further than that."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise ImageError("corrupt", f"the compressed data is damaged: {error}") from error
    if not stream.eof and len(content) <= num_bytes:
        raise ImageError("corrupt", "the compressed data has no end")
    return content


def _check_content(content: bytes, location: Location) -> None:
    if len(content) > location.num_bytes:
        raise ImageError("checksum", f"declared {location.num_bytes} bytes, found more")
    if len(content) < location.num_bytes:
        raise ImageError("checksum", f"declared {location.num_bytes} bytes, found {len(content)}")
    found = zlib.crc32(content)
    if location.crc32 is not None and found != location.crc32:
        raise ImageError("checksum", f"declared CRC {location.crc32:08x}, found {found:08x}")


class Members:
    """The members of one archive, gathered column by column."""

    def __init__(self, archive: str) -> None:
        self.archive = archive
        self.names: list[str] = []
        self.methods: list[str] = []
        self.numbers = array("q")  # offset, stored size, declared size and CRC of each in turn

    def add(self, name: str, numbers: tuple[int, int, int, int], method: str) -> None:
        """One file, unless by its name it is none."""
        name = name.removeprefix("./")
        if name and not name.endswith("/") and not _JUNK.search(name):
            self.names.append(name)
            self.methods.append(method)
            self.numbers.extend(numbers)

    def columns(self) -> npt.NDArray[np.int64]:
        """The numbers of all: four rows, one column per member."""
        return np.array(self.numbers, np.int64).reshape(-1, 4).T

    def table(self, num_stored_bytes: object, crc32: object) -> pa.Table:
        """The members, with these for their stored sizes and CRCs."""
        offsets, _, sizes, _ = self.columns()
        archive = pa.repeat(pa.scalar(self.archive, pa.string()), len(self.names))
        names = pa.array(self.names, pa.string())
        methods = pa.array(self.methods, pa.string())
        return pa.table(
            [names, archive, offsets, num_stored_bytes, sizes, crc32, methods],
            schema=MEMBER_SCHEMA,
        )


def damaged(name: str, what: object) -> CatalogError:
    """The error to raise for an archive of that name, and what is wrong with it."""
    return CatalogError(f"{name} is damaged or incomplete ({what}): download it again")
