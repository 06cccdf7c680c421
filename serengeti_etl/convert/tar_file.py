"""A plain ustar in the making, hashed as it grows.

Same members, same bytes: no time, no owner. Format: POSIX.1-1988, as ``tarfile`` writes it.
"""

import hashlib
import io
import tarfile

from serengeti_etl.convert.stages import Stages

_END = bytes(2 * tarfile.BLOCKSIZE)


class TarFile:
    """A tar in memory and its SHA-256.

    Args:
        stages: gets the time of ``tar`` and ``hash``.
    """

    def __init__(self, stages: Stages) -> None:
        self._buffer = io.BytesIO()
        self._digest = hashlib.sha256()
        self._stages = stages

    def add(self, name: str, content: bytes) -> int:
        """Append one file; the offset of its content in the tar, in bytes."""
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(content), 0, 0o644
        self._append(member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        offset = self._buffer.tell()
        self._append(content)
        self._append(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset

    def close(self) -> memoryview:
        """The whole tar, with its end."""
        self._append(_END)
        self._append(bytes(-self._buffer.tell() % tarfile.RECORDSIZE))
        return self._buffer.getbuffer()

    def sha256(self) -> str:
        """Of what was appended so far, hexadecimal."""
        return self._digest.hexdigest()

    def _append(self, part: bytes) -> None:
        with self._stages.time("tar"):
            self._buffer.write(part)
        with self._stages.time("hash"):
            self._digest.update(part)
