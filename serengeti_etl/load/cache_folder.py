"""A folder of files that several processes fill and empty together, within a size.

::

    serengeti-<64 digits>.tar           whole, under its final name; locked (shared) while in use
    serengeti-<64 digits>.tar.partial   being written by who holds its lock; as large as it will be
    serengeti-cache.lock                held for the moment in which room is made

Nothing else in the folder is ever touched. All locks are ``flock``: they end with their holder,
however it ends. A partial file that nobody holds is of a killed process; who wants that file takes
it over, who needs room deletes it.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from serengeti_etl.load.held_shards import Identity, identity_of

LOCK_NAME = "serengeti-cache.lock"

_OURS = re.compile(r"(serengeti-[0-9a-f]{64}\.tar)(\.partial)?")
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedFile:
    """One of our files.

    Attributes:
        path: where it is.
        name: its final name, also of a partial file.
        is_partial: it is being written, or was by a process that was killed.
        num_bytes: its size; of a partial file the size that it will have.
        last_use: when it was last opened to be read, seconds since 1970.
    """

    path: Path
    name: str
    is_partial: bool
    num_bytes: int
    last_use: float


Worth = tuple[int, float]
"""The least are deleted first."""

WorthOf = Callable[[CachedFile], Worth | None]


class CacheFolder:
    """Every method raises ``OSError`` when the folder, its disk or its locks cannot be used.

    Args:
        folder: made when it is first used.
        limit_bytes: size of all our files that ``reserve`` keeps to.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes

    def path(self, name: str) -> Path:
        """Where the whole file of that name is, or would be."""
        return self._folder / name

    def claim(
        self, name: str, waiting: Callable[[], AbstractContextManager[None]]
    ) -> "Claim | Identity | None":
        """The sole right to write a file that is not there, sooner or later.

        Args:
            name: of the file.
            waiting: gives a context that is entered around waiting for another writer.

        Returns:
            The claim. Or, where the file is there by now: what it is, if another process wrote it
            while this one waited; None if it was there before.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        final, has_waited_for = self.path(name), -1
        while True:
            claim = Claim(final)
            with claim.closed_unless_kept():
                if not claim.try_lock():
                    has_waited_for = claim.inode
                    with waiting():
                        claim.lock()
                placed = _identity_at(final)
                if placed is not None:
                    claim.give_up()
                    return placed if placed[1] == has_waited_for else None
                if claim.keep():
                    return claim

    def reserve(self, claim: "Claim", num_bytes: int, worth: WorthOf) -> bool:
        """True when the claim's file has its room on the disk, for which others were deleted.

        Args:
            claim: of the file.
            num_bytes: that it will have.
            worth: of a file here: the least are deleted first, None never.
        """
        with self._locked():
            claim.clear()
            has_room = self._make_room(num_bytes, worth)
            if has_room:
                claim.allocate(num_bytes)
            return has_room

    def place(self, claim: "Claim") -> Identity:
        """Give the claim's file its final name; what it is from now on."""
        with self._locked():  # or who makes room meanwhile may see it under neither name
            return claim.place()

    def remove(self, path: Path, identity: Identity) -> None:
        """Delete a file that turned out to be damaged, unless it is another one by now."""
        with contextlib.suppress(FileNotFoundError), self._locked():
            status = path.stat()
            if (status.st_dev, status.st_ino) == identity[:2]:
                path.unlink()

    def files(self) -> list[CachedFile]:
        """Our files; one that another process deletes meanwhile is left out."""
        files = []
        for entry in os.scandir(self._folder):
            found = _OURS.fullmatch(entry.name)
            if found:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    files.append(
                        CachedFile(
                            path=Path(entry.path),
                            name=found[1],
                            is_partial=bool(found[2]),
                            num_bytes=status.st_size,
                            last_use=status.st_atime,
                        )
                    )
        return files

    def _make_room(self, num_bytes: int, worth: WorthOf) -> bool:
        """True when so many bytes fit, perhaps after deletions; with the folder locked."""
        files = self.files()
        total = sum(file.num_bytes for file in files) + num_bytes
        worths = ((worth(file), file) for file in files)
        ranked = [(value, file) for value, file in worths if value is not None]
        for _, file in sorted(ranked, key=lambda item: item[0]):
            if total <= self._limit:
                break
            if _delete(file.path):
                total -= file.num_bytes
        return total <= self._limit

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Around what only one process may do at a time; short."""
        descriptor = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Claim:
    """A partial file that this process alone writes, and a ``Sink``.

    As a context it deletes the file at the end unless ``place`` gave it its final name.

    Args:
        final: path that the whole file will have.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self._partial = final.with_name(f"{final.name}.partial")
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
        self._is_kept = self._is_placed = False

    @property
    def inode(self) -> int:
        """Of the file, which keeps it under its final name."""
        return os.fstat(self._descriptor).st_ino

    def try_lock(self) -> bool:
        """False when another process holds the claim."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(self) -> None:
        """Wait until nobody else holds the claim."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def keep(self) -> bool:
        """True when the lock is on the file that has the partial name, and not on a former one."""
        self._is_kept = self._is_current()
        return self._is_kept

    def give_up(self) -> None:
        """Leave no partial file behind; the lock is held, and it is not needed."""
        if self._is_current():
            self._partial.unlink(missing_ok=True)

    @contextmanager
    def closed_unless_kept(self) -> Iterator[None]:
        """Around trying to get the claim."""
        try:
            yield
        finally:
            if not self._is_kept:
                os.close(self._descriptor)

    def clear(self) -> None:
        """Give back the room of what a killed process left."""
        os.ftruncate(self._descriptor, 0)

    def allocate(self, num_bytes: int) -> None:
        """Take room on the disk, so that others see it and a full disk shows before the work."""
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(self._descriptor, 0, max(1, num_bytes))
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
        os.ftruncate(self._descriptor, num_bytes)

    def put(self, offset: int, part: bytes) -> None:
        """Write ``part`` at ``offset``."""
        view = memoryview(part)
        while view:
            num_written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[num_written:], offset + num_written

    def place(self) -> Identity:
        """Give the file its final name; what it is from now on."""
        # No fsync: its checksum is compared before its first use in a later run.
        self._partial.rename(self._final)
        self._is_placed = True
        return identity_of(self._descriptor)

    def _is_current(self) -> bool:
        there = _identity_at(self._partial)
        return there is not None and there[1] == self.inode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._is_placed:
                self._partial.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)


def _identity_at(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _delete(path: Path) -> bool:
    """False when somebody reads or writes the file, or it is not ours to delete."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
