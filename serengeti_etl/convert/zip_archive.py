"""What lies in a zip, by its central directory: its end alone is read.

Format: PKWARE's APPNOTE, 6.3.10.
"""

import errno
import struct
import zipfile
from array import array
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serengeti_etl.convert.member import (
    LOCAL_HEADER,
    LOCAL_HEADER_SIGNATURE,
    MAX_LOCAL_HEADER,
    MEMBER_SCHEMA,
    Members,
    damaged,
)
from serengeti_etl.errors import CatalogError

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_IS_ENCRYPTED = 0x41  # by password, or strongly

_END_RECORD = struct.Struct("<4s4H2IH")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFF  # "the number stands in the zip64 record"
_PIECE_SIGNATURES = (b"PK\x07\x08", b"PK00")

# What zipfile and tarfile raise on damaged input; UnicodeDecodeError is a ValueError.
_ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)


def list_zip(file: BinaryIO, name: str) -> pa.Table:
    """Its files: ``MEMBER_SCHEMA``, in the order of the directory.

    Args:
        file: the zip, seekable.
        name: of it, for rows and messages.

    Raises:
        CatalogError: it is damaged, incomplete, or a piece of a split one.
    """
    num_declared, num_directory_bytes = _check_zip_end(file, name)
    if num_declared == num_directory_bytes == 0:
        return MEMBER_SCHEMA.empty_table()  # zipfile seeks too far back in one from a bucket
    infos, directory = _read_directory(file, name)
    # Writers that know no zip64 count to 65,535 and begin again.
    if num_declared not in (_IN_ZIP64, len(infos) & 0xFFFF):
        raise damaged(name, f"{num_declared} members declared, {len(infos)} found")
    members = Members(name)
    # All of them bound their neighbours, so also those that are no files.
    headers = np.unique(_offsets(infos, directory, name))
    try:
        for info in infos:
            numbers = (info.header_offset, info.compress_size, info.file_size, info.CRC)
            members.add(info.filename.replace("\\", "/"), numbers, _zip_method(info))
    except OverflowError as error:
        raise damaged(name, "a member of more than 2^63 bytes") from error
    offsets, compressed, _, crc32 = members.columns()
    return members.table(_range_sizes(offsets, compressed, np.append(headers, directory)), crc32)


def _read_directory(file: BinaryIO, name: str) -> tuple[list[zipfile.ZipInfo], int]:
    """The records of the central directory, and its offset in bytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist(), archive.start_dir
    except _ZIP_DAMAGE as error:
        cause = error.__context__
        if isinstance(cause, OSError) and cause.errno != errno.EINVAL:  # a place before the start
            raise cause from None  # zipfile calls an outage a bad zip
        raise damaged(name, error) from error


def _check_zip_end(file: BinaryIO, name: str) -> tuple[int, int]:
    """What the end of the zip declares: members, modulo 2^16, and bytes of their directory.

    Raises:
        CatalogError: it has no end, or is a piece of a split zip.
    """
    num_bytes = file.seek(0, 2)
    file.seek(0)
    start = file.read(len(LOCAL_HEADER_SIGNATURE))
    file.seek(max(0, num_bytes - _END_RECORD.size - _MAX_COMMENT))
    tail = file.read()
    last = max(0, len(tail) - _END_RECORD.size + len(_END_SIGNATURE))
    at = tail.rfind(_END_SIGNATURE, 0, last)
    if at < 0 and start.startswith(_PIECE_SIGNATURES):
        raise _split(name)
    if at < 0 and start != LOCAL_HEADER_SIGNATURE:
        raise CatalogError(f"{name} is no zip, whatever its name says: download it again")
    if at < 0:
        raise damaged(name, "its end is missing")
    _, disk, directory_disk, _, num_members, num_bytes, *_ = _END_RECORD.unpack_from(tail, at)
    if {disk, directory_disk} - {0, _IN_ZIP64}:
        raise _split(name)
    return num_members, num_bytes


def _split(name: str) -> CatalogError:
    return CatalogError(
        f"{name} is a piece of a split zip: get all pieces and join them, such as by "
        f"zip -s 0 split.zip --out whole.zip"
    )


def _zip_method(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _IS_ENCRYPTED:
        return "encrypted"
    return _METHODS.get(info.compress_type, f"method {info.compress_type}")


def _offsets(infos: Sequence[zipfile.ZipInfo], directory: int, name: str) -> npt.NDArray[np.int64]:
    offsets = array("q")
    for info in infos:
        # Also where bytes are missing before the directory, which zipfile finds all the same.
        if not 0 <= info.header_offset < directory:
            raise damaged(name, f"{info.filename} is said to begin at {info.header_offset}")
        offsets.append(info.header_offset)
    return np.array(offsets, np.int64)


def _range_sizes(
    offsets: npt.NDArray[np.int64],
    compressed: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Bytes from each local header up to where something else begins.

    Args:
        offsets: of the local headers, in bytes.
        compressed: sizes of the data in bytes.
        bounds: sorted offsets of all local headers and of the central directory.
    """
    room = bounds[np.searchsorted(bounds, offsets, side="right")] - offsets
    rest: npt.NDArray[np.int64] = bounds[-1] - offsets
    most = np.minimum(compressed, rest) + MAX_LOCAL_HEADER
    # Data that reaches into the next member's header is a forgery's or a bomb's: bounded by what
    # it declares, as is what lies behind a gap.
    is_overlapping = room - LOCAL_HEADER.size < compressed
    sizes: npt.NDArray[np.int64] = np.where(is_overlapping, most, np.minimum(room, most))
    return np.minimum(sizes, rest)
