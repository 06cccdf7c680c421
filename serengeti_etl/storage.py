"""The one door to files and buckets: whole reads, ranges, atomic writes, retries.

A ``Store`` is a folder or a bucket prefix. Names are relative to it and use ``/``. Nothing is ever
visible under its final name before it is whole: locally a temporary file is renamed, on a bucket
one object is put at once (``with fsspec.open(url, "wb")`` would keep half a file when its body
raises).
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import stamina
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from serengeti_etl.errors import ConfigError

NUM_ATTEMPTS = 5
"""Tries of one request before its error is passed on."""

_FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_CLIENT_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "azure", "obstore")


def is_transient(error: Exception) -> bool:
    """True for faults of a store or network that may pass, false for answers that will not.

    Clients raise ``OSError`` for most faults and their own classes for some; both are tried again.
    """
    if isinstance(error, _FINAL_ERRORS):
        return False
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in _CLIENT_PACKAGES


def join_url(base: str, name: str) -> str:
    """``name`` below ``base``; ``name`` itself when it is a full url or an absolute path."""
    if not name or "://" in name or name.startswith("/"):
        return name or base
    return f"{base.rstrip('/')}/{name}"


def is_local(url: str) -> bool:
    """True when ``url`` names a place on this machine's file system."""
    return "://" not in url or url.startswith(("file://", "local://"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A folder or bucket prefix that is read and written by name.

    Small enough to travel inside a task: the connection is made (and cached by fsspec) where used.

    Attributes:
        url: folder path or any fsspec url.
        options: keyword arguments for the fsspec file system.
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
        return self.read_range(name, None, None)

    def read_range(self, name: str, start: int | None, end: int | None) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of ``name``. Raises as ``read``."""
        fs, root = self._open()
        return cast("bytes", _retry(fs.cat_file, _below(root, name), start=start, end=end))

    def read_json(self, name: str) -> Any:
        """The parsed JSON of ``name``. Raises as ``read``, and ValueError on bad JSON."""
        return json.loads(self.read(name))

    def open_input(self, name: str) -> BinaryIO:
        """A seekable file for reading ``name`` by parts."""
        fs, root = self._open()
        return cast("BinaryIO", fs.open(_below(root, name), "rb"))

    def write(self, name: str, content: bytes | bytearray | memoryview) -> None:
        """Put ``content`` at ``name``, whole or not at all, replacing what was there.

        Raises:
            OSError: the store failed on every try; nothing is visible under ``name``.
        """
        fs, root = self._open()
        if isinstance(fs, LocalFileSystem):
            _retry(_replace_file, Path(root), name, content)
        else:
            _retry(fs.pipe_file, _below(root, name), bytes(content))

    def write_json(self, name: str, value: object) -> None:
        """Put ``value`` as sorted, indented JSON: the same value gives the same bytes."""
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write(name, f"{text}\n".encode())

    def exists(self, name: str) -> bool:
        """True when an object or file of that name is there now."""
        fs, root = self._open()
        return bool(_retry(fs.isfile, _below(root, name)))

    def num_bytes(self, name: str) -> int:
        """Size of ``name`` in bytes. Raises as ``read``."""
        fs, root = self._open()
        return int(_retry(fs.info, _below(root, name))["size"])

    def list(self, folder: str) -> list[str]:
        """Sorted names of the files directly in ``folder``, as ``folder/file``; [] without one."""
        fs, root = self._open()
        try:
            entries = _retry(fs.ls, _below(root, folder), detail=True)
        except FileNotFoundError:
            return []
        files = [entry["name"] for entry in entries if entry["type"] == "file"]
        return sorted(f"{folder}/{name.rsplit('/', 1)[-1]}" for name in files)

    def find(self, folder: str) -> tuple[str, ...]:
        """Sorted names, below ``folder``, of the files anywhere in it; () without one."""
        fs, root = self._open()
        base = _below(root, folder)
        try:
            paths = _retry(fs.find, base)
        except FileNotFoundError:
            return ()
        return tuple(sorted(path[len(base) :].lstrip("/") for path in paths))

    def is_folder(self, name: str) -> bool:
        """True when files lie below ``name``."""
        fs, root = self._open()
        return bool(_retry(fs.isdir, _below(root, name)))

    def upload(self, path: Path, name: str) -> None:
        """Put the local file ``path`` at ``name``, as ``write`` does, without holding it in memory.

        Raises:
            OSError: the store failed on every try; nothing is visible under ``name``.
        """
        fs, root = self._open()
        if isinstance(fs, LocalFileSystem):
            _retry(_replace_file, Path(root), name, path)
        else:
            _retry(fs.put_file, str(path), _below(root, name))

    def delete(self, name: str) -> None:
        """Make sure that there is no object ``name``."""
        if self.exists(name):
            fs, root = self._open()
            _retry(fs.rm_file, _below(root, name))

    def local_path(self, name: str) -> Path | None:
        """Path of ``name`` when this store is a local folder, else None."""
        fs, root = self._open()
        return Path(_below(root, name)) if isinstance(fs, LocalFileSystem) else None

    def remove_partial(self) -> None:
        """Remove unfinished writes that a killed process left; buckets keep none."""
        root = self.local_path("")
        for path in root.rglob(".*.partial") if root else ():
            path.unlink(missing_ok=True)

    def _open(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # Listings are not cached: another process writes to the same place.
        try:
            fs, root = url_to_fs(self.url, use_listings_cache=False, **self.options)
        except ImportError as error:
            scheme = self.url.partition("://")[0]
            raise ConfigError(
                f"{self.url} needs a package that is not installed ({error}); "
                f"install an extra such as serengeti-etl[s3], [gcs], [azure] or [http] for "
                f"{scheme}://"
            ) from error
        except ValueError as error:
            # Clients say so what they lack, such as an account or a known scheme.
            raise ConfigError(
                f"{self.url} cannot be opened: {error}; see storage_options"
            ) from error
        return fs, root.rstrip("/")


def _retry(function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    """What ``function`` returns, tried again with full-jitter back-off on transient errors."""
    caller = stamina.RetryingCaller(attempts=NUM_ATTEMPTS, timeout=120.0)
    return caller(is_transient, function, *args, **kwargs)


def _below(root: str, name: str) -> str:
    return f"{root}/{name}" if name else root


def _replace_file(root: Path, name: str, content: bytes | bytearray | memoryview | Path) -> None:
    final = root / name
    # Beside the final name, so on the same file system: only there is a rename atomic.
    partial = final.with_name(f".{final.name}.{secrets.token_hex(8)}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(final)
    # The rename itself must survive a power cut, or a commit record could outlive its shard.
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
