"""The one door to files and buckets: whole reads, ranges, atomic writes, retries.

A ``Store`` is a folder or a bucket prefix. Names are relative to it and use ``/``. Nothing is ever
visible under its final name before it is whole: locally a temporary file is renamed, on a bucket
one object is put at once (``with fsspec.open(url, "wb")`` would keep half a file when its body
raises). Here alone is decided who reads what: buckets and web servers obstore, all else fsspec.
"""

import errno
import glob
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from serengeti_etl.buckets.bucket import open_bucket
from serengeti_etl.buckets.place import place_of
from serengeti_etl.errors import ConfigError
from serengeti_etl.files import Content, Files, FsspecFiles, LocalFiles
from serengeti_etl.retry import OnRetry, retried

_READ_AHEAD_NUM_BYTES = 1024 * 1024


def join_url(base: str, name: str) -> str:
    """``name`` below ``base``; ``name`` itself when it is a full url or an absolute path."""
    if not name or _is_whole(name):
        return name or base
    return f"{base.rstrip('/')}/{name}"


def is_local(url: str) -> bool:
    """True when ``url`` names a place on this machine's file system."""
    return "://" not in url or url.startswith(("file://", "local://"))


def json_bytes(value: object) -> bytes:
    """``value`` as sorted, indented JSON."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _is_whole(name: str) -> bool:
    return "://" in name or name.startswith("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A folder or bucket prefix that is read and written by name.

    Small enough to travel inside a task: the connection is made, and kept, where it is used.

    Attributes:
        url: folder path or any fsspec url.
        options: how to open it: for buckets, names of ``buckets.options``; else fsspec's.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def at(self, name: str) -> "Store":
        """The store at ``name`` below this one, or at ``name`` if that is a full url."""
        return Store(url=join_url(self.url, name), options=self.options)

    def read(self, name: str) -> bytes:
        """All bytes of ``name``.

        Raises:
            FileNotFoundError: there is no such object.
            PermissionError: the store refuses.
            OSError: the store failed on every try.
        """
        files, path = self._find(name)
        return retried(files.read)(path)

    def read_checked(self, name: str, on_retry: OnRetry | None = None) -> bytes:
        """All bytes of ``name``, as many as the store declares and with its checksum, if any.

        Args:
            name: of the object.
            on_retry: called with each error that is followed by another try.

        Raises:
            ChecksumError: size or checksum differ.
            OSError: as ``read``.
        """
        files, path = self._find(name)
        return retried(files.read_checked, on_retry)(path)

    def read_range(self, name: str, start: int, end: int, on_retry: OnRetry | None = None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of ``name``. Raises as ``read``."""
        files, path = self._find(name)
        return retried(files.read_range, on_retry)(path, start, end)

    def read_json(self, name: str) -> Any:
        """The parsed JSON of ``name``. Raises as ``read``, and ValueError on bad JSON."""
        return json.loads(self.read(name))

    def open_input(self, name: str, num_bytes_ahead: int = _READ_AHEAD_NUM_BYTES) -> BinaryIO:
        """A seekable file for reading ``name`` by parts.

        Args:
            name: of the object.
            num_bytes_ahead: read at once, so that many small reads are few requests.

        Raises:
            OSError: as ``read``, now or when it is read.
        """
        local = self.local_path(name)
        if local is not None:
            return local.open("rb")
        parts = _Parts(self, name, self.num_bytes(name))
        return cast("BinaryIO", io.BufferedReader(parts, num_bytes_ahead))

    def write(self, name: str, content: bytes | bytearray | memoryview) -> None:
        """Put ``content`` at ``name``, whole or not at all, replacing what was there.

        Raises:
            OSError: the store failed on every try; nothing is visible under ``name``.
        """
        self._write(name, content)

    def publish(self, name: str, content: bytes, content_type: str) -> None:
        """As ``write``, of what people read while it changes; tried once, for it soon comes again.

        Args:
            name: of the object.
            content: of it.
            content_type: as browsers know it; a bucket answers with it, and with ``no-store``.

        Raises:
            OSError: the store failed; ``name`` is what it was.
        """
        files, path = self._find(name)
        files.publish(path, content, content_type)

    def write_new(self, name: str, content: bytes) -> bool:
        """Put ``content`` at ``name`` unless there is something; False if there is.

        An answer can get lost, so that what is there may be ``content`` all the same. Stores that
        cannot do it in one step may say True to two that ask at once: read it back after a moment.

        Raises:
            OSError: the store failed on every try.
        """
        files, path = self._find(name)
        return retried(files.write_new)(path, content)

    def write_json(self, name: str, value: object) -> None:
        """Put ``value`` as sorted, indented JSON: the same value gives the same bytes."""
        self.write(name, json_bytes(value))

    def upload(self, path: Path, name: str) -> None:
        """Put the local file ``path`` at ``name``, as ``write`` does, without holding it in memory.

        Raises:
            OSError: the store failed on every try; nothing is visible under ``name``.
        """
        self._write(name, path)

    @contextmanager
    def create(self, name: str) -> Iterator[Callable[[bytes], object]]:
        """A function that appends to ``name``: whole after the block, and not there if it raises.

        What is appended goes on its way at once and is not held in memory.

        Raises:
            OSError: the store failed; nothing is visible under ``name``.
        """
        files, path = self._find(name)
        with files.create(path) as append:
            yield append

    def exists(self, name: str) -> bool:
        """True when an object or file of that name is there now."""
        files, path = self._find(name)
        return retried(files.exists)(path)

    def num_bytes(self, name: str) -> int:
        """Size of ``name`` in bytes. Raises as ``read``."""
        files, path = self._find(name)
        return retried(files.num_bytes)(path)

    def list(self, folder: str) -> list[str]:
        """Sorted names of the files directly in ``folder``, as ``folder/file``; [] without one."""
        files, path = self._find(folder)
        names = (name.rsplit("/", 1)[-1] for name in retried(files.list)(path))
        return sorted(f"{folder}/{name}".lstrip("/") for name in names)

    def folders(self, folder: str) -> tuple[str, ...]:
        """Sorted names of the folders directly in ``folder``, as ``list`` gives those of files."""
        files, path = self._find(folder)
        names = (name.rstrip("/").rsplit("/", 1)[-1] for name in retried(files.folders)(path))
        return tuple(sorted(f"{folder}/{name}".lstrip("/") for name in names))

    def find(self, folder: str) -> tuple[str, ...]:
        """Sorted names, below ``folder``, of the files anywhere in it; () without one."""
        files, path = self._find(folder)
        return tuple(sorted(name[len(path) :].lstrip("/") for name in retried(files.find)(path)))

    def is_folder(self, name: str) -> bool:
        """True when files lie below ``name``."""
        files, path = self._find(name)
        return retried(files.is_folder)(path)

    def delete(self, name: str) -> None:
        """Make sure that there is no object ``name``."""
        files, path = self._find(name)
        retried(files.delete)(path)

    def local_path(self, name: str) -> Path | None:
        """Path of ``name`` when this store is a local folder, else None."""
        files, path = self._find(name)
        return Path(path) if isinstance(files, LocalFiles) else None

    def remove_partial(self, name: str | None = None) -> None:
        """Remove unfinished writes that a killed process left; buckets keep none.

        Args:
            name: of the only file of which they are removed; None for all files anywhere below.
        """
        root = self.local_path("")
        if root is None:
            return
        pattern = ".*.partial" if name is None else f".{glob.escape(name)}.*.partial"
        for path in root.rglob(pattern) if name is None else root.glob(pattern):
            path.unlink(missing_ok=True)

    def _write(self, name: str, content: Content) -> None:
        files, path = self._find(name)
        retried(files.write)(path, content)

    def _find(self, name: str) -> tuple[Files, str]:
        """Who reads and writes ``name``, and its path there."""
        url, below = (name, "") if _is_whole(name) else (self.url, name)
        found = place_of(url)
        if found is not None:
            place, root = found
            return open_bucket(place, self.options), f"{root}/{below}".strip("/")
        files, root = _fsspec_files(url, self.options)
        return files, f"{root}/{below}" if below else root


class AppendedFile(io.RawIOBase):
    """A file to write to from start to end, for libraries that want one.

    Args:
        append: takes each part; from ``Store.create``.
    """

    def __init__(self, append: Callable[[bytes], object]) -> None:
        self._append, self._position = append, 0

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._position

    def write(self, content: Any) -> int:
        """Append ``content``; its size in bytes."""
        part = bytes(content)
        self._append(part)
        self._position += len(part)
        return len(part)


class _Parts(io.RawIOBase):
    """An object of a store as a file: each read is a request."""

    def __init__(self, store: Store, name: str, num_bytes: int) -> None:
        self._store, self._name, self._num_bytes = store, name, num_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}
        position = base[whence] + offset
        if position < 0:
            raise OSError(errno.EINVAL, "a place before the start")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._num_bytes)
        if end <= self._position:
            return 0
        content = self._store.read_range(self._name, self._position, end)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _fsspec_files(url: str, options: Mapping[str, Any]) -> tuple[Files, str]:
    try:
        # Listings are not cached: another process writes to the same place.
        fs, root = url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        scheme = url.partition("://")[0]
        raise ConfigError(
            f"{url} needs fsspec's package for {scheme}://, which is not installed: {error}"
        ) from error
    except ValueError as error:
        # Clients say so what they lack, such as an account or a known scheme.
        raise ConfigError(f"{url} cannot be opened: {error}; see storage_options") from error
    files = LocalFiles() if isinstance(fs, LocalFileSystem) else FsspecFiles(fs)
    return files, root.rstrip("/")
