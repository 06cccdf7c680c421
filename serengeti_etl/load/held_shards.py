"""Shards that have been brought: a checked file, or bytes in memory."""

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serengeti_etl.load.shard_source import OpenShard

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: equal as long as a file was not touched."""


class Pin(OpenShard, Protocol):
    """An open shard that hands out more of itself, each closed for itself."""

    def again(self) -> OpenShard:
        """The same bytes once more."""


class Held(Protocol):
    """A shard that has been brought."""

    @property
    def is_whole(self) -> bool:
        """It matches its size and checksum."""

    def open(self) -> Pin:
        """Its bytes.

        Raises:
            FileNotFoundError: the file that was checked is no longer there.
        """


class HeldBytes:
    """A shard in memory, which is its own ``OpenShard``: ``close`` has nothing to close.

    Args:
        content: of the tar.
        is_whole: it matches its size and checksum.
    """

    def __init__(self, content: bytes | bytearray, *, is_whole: bool) -> None:
        self._view = memoryview(content).toreadonly()
        self.is_whole = is_whole

    def open(self) -> Pin:
        """See ``Held``."""
        return self

    def again(self) -> OpenShard:
        """See ``Pin``."""
        return self

    def read(self, offset: int, num_bytes: int) -> memoryview:
        """See ``OpenShard``."""
        return self._view[offset : offset + num_bytes]

    def close(self) -> None:
        """See ``OpenShard``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldFile:
    """A file that was checked.

    Attributes:
        path: where it is.
        identity: what it was when it was checked.
        is_whole: it matches its size and checksum.
        is_shared: other processes may delete it, though not while it is open.
    """

    path: Path
    identity: Identity
    is_whole: bool
    is_shared: bool

    def open(self) -> Pin:
        """See ``Held``."""
        shard = OpenFile(open_to_read(self.path, is_shared=self.is_shared), is_whole=self.is_whole)
        if shard.identity != self.identity:
            shard.close()
            raise FileNotFoundError(f"{self.path} is another file now")
        return shard


class OpenFile:
    """A file as an ``OpenShard``.

    Args:
        descriptor: of the file, closed by ``close``.
        is_whole: it matches its size and checksum.
    """

    def __init__(self, descriptor: int, *, is_whole: bool) -> None:
        self.is_whole = is_whole
        self._descriptor = descriptor

    @property
    def identity(self) -> Identity:
        """What the file is now."""
        return identity_of(self._descriptor)

    def again(self) -> OpenShard:
        """See ``Pin``."""
        return OpenFile(os.dup(self._descriptor), is_whole=self.is_whole)

    def read(self, offset: int, num_bytes: int) -> bytes:
        """See ``OpenShard``."""
        return os.pread(self._descriptor, num_bytes, offset)

    def close(self) -> None:
        """See ``OpenShard``."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def identity_of(descriptor: int) -> Identity:
    """What an open file is now."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_to_read(path: Path, *, is_shared: bool) -> int:
    """Descriptor of a file; a shared one is locked against deletion and noted as used just now.

    Raises:
        OSError: there is no such file, or it cannot be read or locked.
    """
    descriptor = os.open(path, os.O_RDONLY)
    if is_shared:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError:
            os.close(descriptor)
            raise
        status = os.fstat(descriptor)
        if not status.st_nlink:
            os.close(descriptor)
            raise FileNotFoundError(f"{path} was deleted")
        with contextlib.suppress(OSError):  # a folder of someone else's: then it looks unused
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
    return descriptor
