"""One bucket or web server, read and written by name: each call is one request, tried once."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.store import ObjectStore

from serengeti_etl.buckets.client import bucket_region, open_client
from serengeti_etl.buckets.faults import (
    CLIENT_ERRORS,
    is_other_region,
    is_unconditional,
    os_error,
)
from serengeti_etl.buckets.place import Place
from serengeti_etl.errors import ChecksumError, RequestRefused
from serengeti_etl.retry import NUM_ATTEMPTS

_PART_NUM_BYTES = 8 * 1024 * 1024  # S3 takes 10,000 parts, of at least 5 MiB
_NUM_PARTS_AT_ONCE = 4

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_KINDS_WITH_MD5 = ("s3", "gs")  # whose ETag is the MD5 of an object that came in one piece

_OUR_OPTIONS = ("check_etag", "check_head")  # which no client knows

_MAX_OPEN = 64
_open: "dict[tuple[Place, str], Bucket]" = {}
_opening = threading.Lock()

ResultT = TypeVar("ResultT")


def open_bucket(place: Place, options: Mapping[str, Any]) -> "Bucket":
    """The bucket at ``place``: the same one in all of the process, so that connections are shared.

    Args:
        place: which.
        options: as ``storage_options``.

    Raises:
        ConfigError: an option is unknown or has an impossible value, or one is missing.
    """
    key = (place, repr(sorted(options.items())))
    with _opening:
        if len(_open) >= _MAX_OPEN and key not in _open:
            _open.clear()  # signed addresses, each a place of its own
        if key not in _open:
            _open[key] = Bucket(place, options)
        return _open[key]


def close_buckets() -> None:
    """Let all connections go: after credentials in the environment have changed."""
    with _opening:
        _open.clear()


class Bucket:
    """See ``files.Files`` for its methods.

    Args:
        place: which bucket.
        options: as ``storage_options``; ``check_etag=False`` leaves ETags alone where they are no
            checksums, as in a bucket that encrypts with keys of AWS' KMS; ``check_head=True`` asks
            for the head of each photograph too, a second witness where answers are mixed up.
    """

    def __init__(self, place: Place, options: Mapping[str, Any]) -> None:
        self.place = place
        self._options = {name: value for name, value in options.items() if name not in _OUR_OPTIONS}
        self._asks_for_heads = bool(options.get("check_head", False))
        self._has_md5 = place.kind in _KINDS_WITH_MD5 and options.get("check_etag", True)
        self._connect()

    def read(self, path: str) -> bytes:
        """All bytes of an object."""
        return self._ask(lambda client: obstore.get(client, path).bytes().to_bytes())

    def read_checked(self, path: str) -> bytes:
        """As ``read``, compared to the size and, where it is one, the MD5 of the answer's head.

        Raises:
            ChecksumError: they differ.
        """

        def get(client: ObjectStore) -> tuple[bytes, int, str]:
            answer = obstore.get(client, path)
            return answer.bytes().to_bytes(), answer.meta["size"], answer.meta["e_tag"] or ""

        content, num_bytes, etag = self._ask(get)
        if self._asks_for_heads:
            self._check_head(path, num_bytes, etag)
        if len(content) != num_bytes:
            raise ChecksumError(f"{path} has {len(content)} bytes, but declares {num_bytes}")
        declared = _MD5.fullmatch(etag) if self._has_md5 else None
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest() if declared else ""
        if declared and declared[1] != digest:
            raise ChecksumError(
                f"{path} has MD5 {digest}, but its ETag is {etag}; if all objects are so, the "
                "bucket's ETags are no checksums: set storage_options to {'check_etag': False}"
            )
        return content

    def _check_head(self, path: str, num_bytes: int, etag: str) -> None:
        head = self._ask(lambda client: obstore.head(client, path))
        if (head["size"], head["e_tag"] or "") != (num_bytes, etag):
            raise ChecksumError(
                f"{path} came with {num_bytes} bytes and the ETag {etag}, but its head says "
                f"{head['size']} and {head['e_tag']}: another object came in its place"
            )

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of an object."""
        if end <= start:
            return b""
        return self._ask(
            lambda client: obstore.get_range(client, path, start=start, end=end).to_bytes()
        )

    def write(self, path: str, content: bytes | bytearray | memoryview | Path) -> None:
        """Put an object, whole or not at all; a ``Path`` is streamed from the disk."""
        # Arrow's buffers are of signed bytes, which obstore does not know.
        body = content if isinstance(content, Path) else memoryview(content).cast("B")
        self._ask(lambda client: obstore.put(client, path, body, chunk_size=_PART_NUM_BYTES))

    def publish(self, path: str, content: bytes, content_type: str) -> None:
        """Put an object that changes: browsers and caches on the way keep no copy."""
        # Without it Google's buckets serve an object for an hour as it was.
        attributes: Any = {"Cache-Control": "no-store", "Content-Type": content_type}
        self._ask(lambda client: obstore.put(client, path, content, attributes=attributes))

    def write_new(self, path: str, content: bytes) -> bool:
        """Put an object if there is none; False if there is one."""
        if self.place.kind == "http":
            raise RequestRefused(
                f"{self.place.url} is a web server, where nothing can be written: name a folder "
                "or bucket"
            )
        try:
            self._ask(lambda client: obstore.put(client, path, content, mode="create"))
        except FileExistsError:
            return False
        except OSError as error:
            if not is_unconditional(error):
                raise
            if self.exists(path):
                return False
            self.write(path, content)
        return True

    @contextmanager
    def create(self, path: str) -> Iterator[Callable[[bytes], object]]:
        """A function that appends to an object, there after the block, and not if it raises."""
        try:
            with obstore.open_writer(
                self._patient,
                path,
                buffer_size=_PART_NUM_BYTES,
                max_concurrency=_NUM_PARTS_AT_ONCE,
            ) as file:
                yield file.write
        except CLIENT_ERRORS as error:
            if type(error).__module__.startswith("obstore"):
                raise os_error(error) from error
            raise  # the block's own

    def num_bytes(self, path: str) -> int:
        """Size of an object in bytes."""
        if self.place.is_signed:  # for GET alone: HEAD would be refused
            byte: Any = {"range": (0, 1)}
            return self._ask(lambda client: obstore.get(client, path, options=byte).meta["size"])
        return self._ask(lambda client: obstore.head(client, path)["size"])

    def exists(self, path: str) -> bool:
        """True when there is an object."""
        try:
            self.num_bytes(path)
        except FileNotFoundError:
            return False
        return True

    def list(self, folder: str) -> Iterable[str]:
        """Paths of the objects directly in ``folder``."""
        self._check_lists()
        found = self._ask(lambda client: obstore.list_with_delimiter(client, folder or None))
        return [entry["path"] for entry in found["objects"]]

    def folders(self, folder: str) -> Iterable[str]:
        """Paths of what lies directly in ``folder`` and has objects below it."""
        self._check_lists()
        found = self._ask(lambda client: obstore.list_with_delimiter(client, folder or None))
        return list(found["common_prefixes"])

    def find(self, folder: str) -> Iterable[str]:
        """Paths of the objects anywhere in ``folder``."""

        def names(client: ObjectStore) -> Iterable[str]:
            pages = obstore.list(client, folder or None, chunk_size=1000)
            return [entry["path"] for page in pages for entry in page]

        self._check_lists()
        return self._ask(names)

    def is_folder(self, folder: str) -> bool:
        """True when objects lie in ``folder``; of a web server nobody knows."""
        if self.place.kind == "http":
            return False
        found = self._ask(lambda client: obstore.list_with_delimiter(client, folder or None))
        return bool(found["objects"] or found["common_prefixes"])

    def delete(self, path: str) -> None:
        """Make sure that there is no such object."""
        try:
            self._ask(lambda client: obstore.delete(client, path))
        except FileNotFoundError:
            return

    def _check_lists(self) -> None:
        if self.place.kind == "http":
            raise RequestRefused(
                f"{self.place.url} is a web server, whose files cannot be listed: name a label "
                "file, and the photographs in it"
            )

    def _connect(self) -> None:
        self._client = open_client(self.place, self._options, max_retries=0)
        # Parts of a stream cannot be tried again by who writes it.
        self._patient = open_client(self.place, self._options, max_retries=NUM_ATTEMPTS - 1)

    def _ask(self, request: Callable[[ObjectStore], ResultT]) -> ResultT:
        try:
            return request(self._client)
        except CLIENT_ERRORS as error:
            if not (is_other_region(error) and self._move_to_its_region()):
                raise os_error(error) from error
        try:
            return request(self._client)
        except CLIENT_ERRORS as error:
            raise os_error(error) from error

    def _move_to_its_region(self) -> bool:
        """True if the bucket's region could be learnt, and is where requests go from now on."""
        region = bucket_region(self.place.name) if self.place.kind == "s3" else None
        if region is None:
            return False
        self._options["region"] = region
        self._connect()
        return True
