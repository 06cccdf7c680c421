"""A plain ustar in the making, hashed as it grows.

Same members, same bytes: no time, no owner. Format: POSIX.1-1988, as ``tarfile`` writes it.
"""

import hashlib
import tarfile
from collections.abc import Callable

from serengeti_etl.stages import Stages

_END = bytes(2 * tarfile.BLOCKSIZE)


class TarFile:
    """A tar that goes on its way part by part, and its SHA-256.

    Args:
        append: takes each part.
        stages: gets the time of ``tar`` and ``hash``.
    """

    def __init__(self, append: Callable[[bytes], object], stages: Stages) -> None:
        self.num_bytes = 0
        self._put = append
        self._digest = hashlib.sha256()
        self._stages = stages

    def add(self, name: str, content: bytes) -> int:
        """Append one file; the offset of its content in the tar, in bytes."""
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(content), 0, 0o644
        header = member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
        offset = self.num_bytes + len(header)
        self._append(header + content + bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset

    def close(self) -> None:
        """Append the end."""
        self._append(_END + bytes(-(self.num_bytes + len(_END)) % tarfile.RECORDSIZE))

    def sha256(self) -> str:
        """Of what was appended so far, hexadecimal."""
        return self._digest.hexdigest()

    def _append(self, part: bytes) -> None:
        with self._stages.time("tar"):
            self._put(part)
        with self._stages.time("hash"):
            self._digest.update(part)
        self.num_bytes += len(part)
