"""A plain ustar, read once from start to end: its members as they come, and its SHA-256.

Little of it is ever held in memory, whatever a damaged header declares; ``tarfile`` would believe
the size of a member that holds a name, and keeps all members.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

_PIECE_NUM_BYTES = 1024 * 1024
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class TarReader:
    """The members of a tar, one after the other.

    Args:
        file: opened at its start; read by parts.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.num_bytes = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._left = 0  # bytes of the current member that were not read yet

    def next_member(self) -> tarfile.TarInfo | None:
        """Name and size of the next member, whose content begins at ``num_bytes``; None at the end.

        Raises:
            tarfile.TarError: what comes is no plain file.
        """
        self.skip()
        self._read(-self.num_bytes % tarfile.BLOCKSIZE)
        header = self._read(tarfile.BLOCKSIZE)
        if not any(header):
            return None
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        if member.type not in _PLAIN or member.size < 0:
            raise tarfile.ReadError(f"{member.name} is no plain file")
        self._left = member.size
        return member

    def pieces(self) -> Iterator[bytes]:
        """The content of the current member."""
        while self._left:
            piece = self._read(min(self._left, _PIECE_NUM_BYTES))
            if not piece:
                raise tarfile.ReadError("it ends in the middle")
            self._left -= len(piece)
            yield piece

    def skip(self) -> None:
        """Pass over what is left of the current member."""
        for _ in self.pieces():
            pass

    def finish(self) -> str:
        """Checksum of the whole file, hexadecimal, after reading what is left of it."""
        while self._read(_PIECE_NUM_BYTES):
            pass
        return self._digest.hexdigest()

    def _read(self, num_bytes: int) -> bytes:
        part = self._file.read(num_bytes)
        self._digest.update(part)
        self.num_bytes += len(part)
        return part
