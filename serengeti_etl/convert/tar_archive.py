"""What lies in a plain tar, by hopping from header to header."""

import tarfile
from typing import BinaryIO

import pyarrow as pa

from serengeti_etl.convert.member import Members, damaged

HOP_NUM_BYTES = 16 * 1024
"""To read at each header: the photograph behind it is not wanted."""

_MAX_PADDING = 1 << 20  # a tar ends in zeros up to the size of a tape's record
_TAR_DAMAGE = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)


def list_tar(file: BinaryIO, name: str) -> pa.Table:
    """Its files: ``MEMBER_SCHEMA``, in their order.

    Args:
        file: the tar, seekable.
        name: of it, for rows and messages.

    Raises:
        CatalogError: it is damaged or incomplete.
    """
    members = Members(name)
    try:
        # Names in another encoding stay different from each other.
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace"
        ) as archive:
            _walk_tar(archive, members)
    except _TAR_DAMAGE as error:
        raise damaged(name, error) from error
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
        raise damaged(name, f"neither a member nor the end at byte {offset}")
    # Zeros are also what a download leaves where nothing has come yet.
    if num_after > _MAX_PADDING:
        raise damaged(name, f"{num_after} bytes after its end")


def _walk_tar(archive: tarfile.TarFile, members: Members) -> None:
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
