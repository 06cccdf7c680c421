"""Photographs inside zip and tar archives, which are read where they lie and never unpacked.

``list_members`` reads only the end of a zip, or hops over a tar, and says where each member's
bytes are. ``match_members`` finds the photographs of a catalog among them. Then one range request
per photograph brings what ``member_bytes`` turns into the file's content, checked against what
the archive declares. An archive's word is never trusted with memory: nothing inflates beyond the
declared size, and no range is longer than the declared size allows.
"""

import errno
import re
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.folders import IMAGE_EXTENSIONS
from serengeti_etl.config import ARCHIVE_PIECE, COMPRESSED_ARCHIVE
from serengeti_etl.errors import CatalogError, ConfigError, ImageError
from serengeti_etl.storage import Store

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

_PHOTOGRAPH = re.compile("(?i)({})$".format("|".join(map(re.escape, IMAGE_EXTENSIONS))))
_JUNK = re.compile(r"(^|/)(__MACOSX/|\._[^/]*$|\.DS_Store$|Thumbs\.db$|desktop\.ini$)")

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_READABLE = ("stored", "deflated", "tar")
_IS_ENCRYPTED = 0x41  # by password, or strongly

_END_RECORD = struct.Struct("<4s4H2IH")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFF  # "the number stands in the zip64 record"
_HEADER = struct.Struct("<4s5H3I2H")
_HEADER_SIGNATURE = b"PK\x03\x04"
_PIECE_SIGNATURES = (b"PK\x07\x08", b"PK00")
_MAX_HEADER = _HEADER.size + 2 * 0xFFFF  # with its name and extra field

_MAX_PADDING = 1 << 20  # a tar ends in zeros up to the size of a tape's record

_TAR_HOP_NUM_BYTES = 16 * 1024  # to read at each header: the photograph behind it is not wanted

_NUM_PROBES = 64

# What zipfile and tarfile raise on damaged input; UnicodeDecodeError is a ValueError.
_ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)
_TAR_DAMAGE = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)


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


def check_archive_name(name: str) -> None:
    """Nothing, unless ``name`` is that of an archive that cannot be read by parts.

    Raises:
        ConfigError: it is compressed as a whole, or a piece of a split zip.
    """
    if COMPRESSED_ARCHIVE.search(name):
        raise ConfigError(
            f"{name} cannot be read by parts: unpack or recompress as plain tar or zip"
        )
    if ARCHIVE_PIECE.search(name):
        raise ConfigError(
            f"{name} cannot be read alone, being a piece of a split zip: join the pieces first, "
            "such as by zip -s 0 split.zip --out whole.zip"
        )


def list_members(store: Store, archives: Sequence[str]) -> pa.Table:
    """Every file inside ``archives``, by name: ``MEMBER_SCHEMA``, in the order of the archives.

    Folders and what operating systems leave behind are no files. Where two photographs of one
    name are the same by size and CRC, the first is taken; of other files, always.

    Args:
        store: where the archives lie.
        archives: their names there, each a zip or a plain tar by its ending.

    Raises:
        ConfigError: an archive is of a kind that cannot be read by parts.
        CatalogError: there is no such archive, it is damaged or incomplete, or two different
            photographs have one name.
        OSError: the store failed.
    """
    for name in archives:
        check_archive_name(name)
    tables = [_list_archive(store, name) for name in archives]
    return _first_of_each_name(pa.concat_tables([MEMBER_SCHEMA.empty_table(), *tables]))


def match_members(members: pa.Table, file_names: Sequence[str] | pa.ChunkedArray) -> pa.Table:
    """Where the file of each name lies: a row of ``LOCATION_SCHEMA`` for each, null if nowhere.

    If the archives have none of the names as they are, the names are looked for below a folder:
    published zips often have one more on top.

    Args:
        members: as ``list_members`` gives them.
        file_names: the names wanted, in any order, repeated or not.
    """
    wanted = pa.chunked_array([file_names]) if isinstance(file_names, Sequence) else file_names
    wanted = wanted.cast(pa.string())
    rows = pc.index_in(wanted, value_set=members["name"])
    if len(rows) and rows.null_count == len(rows):
        prefix = _folder_above(members["name"], wanted)
        below = pc.binary_join_element_wise(prefix, wanted, "")
        rows = pc.index_in(below, value_set=members["name"])
    return members.select(LOCATION_SCHEMA.names).take(rows)


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
    num_bytes = max(location.num_bytes, location.num_stored_bytes - 2 * _MAX_HEADER)
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
    if len(stored) < _HEADER.size or stored[:4] != _HEADER_SIGNATURE:
        raise ImageError("corrupt", "there is no header of a zip's member where one should be")
    # Its sizes and CRC are zeros where a descriptor follows the data: the directory has them.
    *_, num_name_bytes, num_extra_bytes = _HEADER.unpack_from(stored)
    return stored[_HEADER.size + num_name_bytes + num_extra_bytes :]


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


class _Members:
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


def _list_archive(store: Store, name: str) -> pa.Table:
    is_zip = name.lower().endswith(".zip")
    read = _list_zip if is_zip else _list_tar
    try:
        with store.open_input(name, 1 << 20 if is_zip else _TAR_HOP_NUM_BYTES) as file:
            return read(file, name)
    except FileNotFoundError:
        raise CatalogError(f"there is no archive {store.at(name).url}") from None


def _damaged(name: str, what: object) -> CatalogError:
    return CatalogError(f"{name} is damaged or incomplete ({what}): download it again")


def _list_zip(file: BinaryIO, name: str) -> pa.Table:
    num_declared, num_directory_bytes = _check_zip_end(file, name)
    if num_declared == num_directory_bytes == 0:
        return MEMBER_SCHEMA.empty_table()  # zipfile seeks too far back in one from a bucket
    infos, directory = _read_directory(file, name)
    # Writers that know no zip64 count to 65,535 and begin again.
    if num_declared not in (_IN_ZIP64, len(infos) & 0xFFFF):
        raise _damaged(name, f"{num_declared} members declared, {len(infos)} found")
    members = _Members(name)
    # All of them bound their neighbours, so also those that are no files.
    headers = np.unique(_offsets(infos, directory, name))
    try:
        for info in infos:
            numbers = (info.header_offset, info.compress_size, info.file_size, info.CRC)
            members.add(info.filename.replace("\\", "/"), numbers, _zip_method(info))
    except OverflowError as error:
        raise _damaged(name, "a member of more than 2^63 bytes") from error
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
        raise _damaged(name, error) from error


def _check_zip_end(file: BinaryIO, name: str) -> tuple[int, int]:
    """What the end of the zip declares: members, modulo 2^16, and bytes of their directory.

    Raises:
        CatalogError: it has no end, or is a piece of a split zip.
    """
    num_bytes = file.seek(0, 2)
    file.seek(0)
    start = file.read(len(_HEADER_SIGNATURE))
    file.seek(max(0, num_bytes - _END_RECORD.size - _MAX_COMMENT))
    tail = file.read()
    last = max(0, len(tail) - _END_RECORD.size + len(_END_SIGNATURE))
    at = tail.rfind(_END_SIGNATURE, 0, last)
    if at < 0 and start.startswith(_PIECE_SIGNATURES):
        raise _split(name)
    if at < 0 and start != _HEADER_SIGNATURE:
        raise CatalogError(f"{name} is no zip, whatever its name says: download it again")
    if at < 0:
        raise _damaged(name, "its end is missing")
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
            raise _damaged(name, f"{info.filename} is said to begin at {info.header_offset}")
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
    most = np.minimum(compressed, rest) + _MAX_HEADER
    # Data that reaches into the next member's header is a forgery's or a bomb's: bounded by what
    # it declares, as is what lies behind a gap.
    is_overlapping = room - _HEADER.size < compressed
    sizes: npt.NDArray[np.int64] = np.where(is_overlapping, most, np.minimum(room, most))
    return np.minimum(sizes, rest)


def _list_tar(file: BinaryIO, name: str) -> pa.Table:
    members = _Members(name)
    try:
        # Names in another encoding stay different from each other.
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace"
        ) as archive:
            _walk_tar(archive, members)
    except _TAR_DAMAGE as error:
        raise _damaged(name, error) from error
    _check_tar_end(file, name, archive.offset)
    _, sizes, _, _ = members.columns()
    return members.table(sizes, pa.nulls(len(sizes), pa.int64()))


def _check_tar_end(file: BinaryIO, name: str, offset: int) -> None:
    """Nothing, if the tar says at ``offset`` that it ends.

    tarfile takes a damaged header for the end, and what was cut between members for whole.
    """
    num_after = file.seek(0, 2) - offset
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise _damaged(name, f"neither a member nor the end at byte {offset}")
    # Zeros are also what a download leaves where nothing has come yet.
    if num_after > _MAX_PADDING:
        raise _damaged(name, f"{num_after} bytes after its end")


def _walk_tar(archive: tarfile.TarFile, members: _Members) -> None:
    at = -1
    while info := archive.next():
        if archive.offset <= at or info.size < 0:
            raise tarfile.ReadError(f"{info.name} leads back to byte {archive.offset}")
        at = archive.offset
        # Else tarfile keeps every one for looking up.
        archive.members.clear()  # type: ignore[attr-defined]
        if info.isreg() or info.islnk() or info.issym():
            numbers = (info.offset_data, info.size, info.size, 0)
            members.add(info.name, numbers, _tar_method(info))


def _tar_method(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "sparse"
    return "tar" if info.isreg() else "link"


def _first_of_each_name(members: pa.Table) -> pa.Table:
    """``members`` less those whose name came before."""
    names = pc.unique(members["name"])
    if len(names) == members.num_rows:
        return members
    codes = pc.index_in(members["name"], value_set=names).to_numpy()
    _, first = np.unique(codes, return_index=True)
    again = np.flatnonzero(first[codes] != np.arange(len(codes)))
    _check_same(members.take(first[codes[again]]), members.take(again))
    return members.take(first)


def _check_same(firsts: pa.Table, seconds: pa.Table) -> None:
    is_same = pc.and_(
        pc.equal(firsts["num_bytes"], seconds["num_bytes"]),
        pc.fill_null(pc.equal(firsts["crc32"], seconds["crc32"]), fill_value=False),
    )
    for row in np.flatnonzero(~is_same.to_numpy()):
        name = seconds["name"][row].as_py()
        # Every part of a set may have a README of its own.
        if _PHOTOGRAPH.search(name):
            places = [table["archive"][row].as_py() for table in (firsts, seconds)]
            raise CatalogError(
                f"{name} is in {places[0]} and again in {places[1]}, and they are not known to be "
                "the same: give archives that hold each photograph once"
            )


def _folder_above(names: pa.ChunkedArray, wanted: pa.ChunkedArray) -> str:
    """The folder, such as ``S1/``, below which most of ``wanted`` are looked for; "" if none."""
    found: Counter[str] = Counter()
    # Spread over all, because the archives may hold only a part of what is wanted.
    for row in np.unique(np.linspace(0, len(wanted) - 1, _NUM_PROBES, dtype=np.int64)):
        ending = f"/{wanted[row].as_py()}"
        ending_in_it = names.filter(pc.ends_with(names, ending))
        if len(ending_in_it) == 1:
            found[ending_in_it[0].as_py().removesuffix(ending) + "/"] += 1
    return found.most_common(1)[0][0] if found else ""
