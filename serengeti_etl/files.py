"""Folders and whatever else fsspec opens, read and written by path."""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

Content = bytes | bytearray | memoryview | Path
"""What can be written: bytes, or a local file that holds them."""


class Files(Protocol):
    """What a ``Store`` asks of a folder or bucket; each call may be tried again by it.

    Every method raises ``FileNotFoundError``, ``PermissionError``, ``RequestRefused`` or, for
    faults that may pass, any other ``OSError``.
    """

    def read(self, path: str) -> bytes:
        """All bytes."""

    def read_checked(self, path: str) -> bytes:
        """All bytes, compared to what the store declares; ``ChecksumError`` where they differ."""

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive)."""

    def write(self, path: str, content: Content) -> None:
        """Put a file or object, whole or not at all."""

    def publish(self, path: str, content: bytes, content_type: str) -> None:
        """As ``write``; a bucket says of it what it is, and that nobody may keep a copy."""

    def write_new(self, path: str, content: bytes) -> bool:
        """Put a file or object if there is none; False if there is one."""

    def create(self, path: str) -> Any:
        """A context manager that gives an appending function; whole after it, or not there."""

    def num_bytes(self, path: str) -> int:
        """Size in bytes."""

    def exists(self, path: str) -> bool:
        """True when there is a file or object."""

    def list(self, folder: str) -> Iterable[str]:
        """Paths of the files directly in ``folder``."""

    def folders(self, folder: str) -> Iterable[str]:
        """Paths of the folders directly in ``folder``."""

    def find(self, folder: str) -> Iterable[str]:
        """Paths of the files anywhere in ``folder``."""

    def is_folder(self, folder: str) -> bool:
        """True when files lie in ``folder``."""

    def delete(self, path: str) -> None:
        """Make sure that there is no such file."""


class FsspecFiles:
    """See ``Files``.

    Args:
        fs: any file system of fsspec's.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem) -> None:
        self._fs = fs

    def read(self, path: str) -> bytes:
        """See ``Files``."""
        return cast("bytes", self._fs.cat_file(path))

    def read_checked(self, path: str) -> bytes:
        """See ``Files``; nothing is declared here."""
        return self.read(path)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """See ``Files``."""
        return cast("bytes", self._fs.cat_file(path, start=start, end=end))

    def write(self, path: str, content: Content) -> None:
        """See ``Files``."""
        if isinstance(content, Path):
            self._fs.put_file(str(content), path)
        else:
            self._fs.pipe_file(path, bytes(content))

    def publish(self, path: str, content: bytes, content_type: str) -> None:  # noqa: ARG002
        """See ``Files``; what fsspec opens has no common way to say more of a file."""
        self.write(path, content)

    def write_new(self, path: str, content: bytes) -> bool:
        """See ``Files``; not in one step, which few of these systems can."""
        if self.exists(path):
            return False
        self.write(path, content)
        return True

    @contextmanager
    def create(self, path: str) -> Iterator[Callable[[bytes], object]]:
        """See ``Files``; held in memory, for few of these systems can write a file in parts."""
        buffer = BytesIO()
        yield buffer.write
        self.write(path, buffer.getbuffer())

    def num_bytes(self, path: str) -> int:
        """See ``Files``."""
        return int(self._fs.info(path)["size"])

    def exists(self, path: str) -> bool:
        """See ``Files``."""
        return bool(self._fs.isfile(path))

    def list(self, folder: str) -> Iterable[str]:
        """See ``Files``."""
        return self._entries(folder, "file")

    def folders(self, folder: str) -> Iterable[str]:
        """See ``Files``."""
        return self._entries(folder, "directory")

    def find(self, folder: str) -> Iterable[str]:
        """See ``Files``."""
        try:
            return list(self._fs.find(folder))
        except FileNotFoundError:
            return []

    def is_folder(self, folder: str) -> bool:
        """See ``Files``."""
        return bool(self._fs.isdir(folder))

    def delete(self, path: str) -> None:
        """See ``Files``."""
        if self.exists(path):
            with suppress(FileNotFoundError):  # another has just deleted it
                self._fs.rm_file(path)

    def _entries(self, folder: str, kind: str) -> Iterable[str]:
        try:
            entries = self._fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [entry["name"] for entry in entries if entry["type"] == kind]


class LocalFiles(FsspecFiles):
    """See ``Files``: this machine's own; a write survives a power cut."""

    def __init__(self) -> None:
        super().__init__(LocalFileSystem(use_listings_cache=False))

    def write(self, path: str, content: Content) -> None:
        """See ``Files``."""
        with _placing(Path(path)) as file:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(content)

    def write_new(self, path: str, content: bytes) -> bool:
        """See ``Files``; of several at once one gets True."""
        try:
            with _placing(Path(path), _link) as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def create(self, path: str) -> Iterator[Callable[[bytes], object]]:
        """See ``Files``."""
        with _placing(Path(path)) as file:
            yield file.write


@contextmanager
def _placing(final: Path, place: Callable[[Path, Path], object] = Path.replace) -> Iterator[Any]:
    """A new file that ``place`` gives the name ``final`` once it is whole."""
    # Beside the final name, so on the same file system: only there is a rename atomic.
    partial = final.with_name(f".{final.name}.{secrets.token_hex(8)}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        place(partial, final)
    finally:
        partial.unlink(missing_ok=True)  # there still, if something failed
    # The rename itself must survive a power cut, or a commit record could outlive its shard.
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
"""What file systems without hard links answer."""


def _link(partial: Path, final: Path) -> None:
    """Give ``partial`` the name ``final`` as well, unless that is taken, in one step."""
    try:
        final.hardlink_to(partial)
    except FileNotFoundError as error:
        # Who began to work here just now has tidied up: worth another try.
        raise BlockingIOError(errno.EAGAIN, f"{partial} was removed") from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with final.open("xb") as file:
            file.write(partial.read_bytes())
