"""Photographs from where they lie: many requests at once, bounded by bytes, results in order."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from serengeti_etl.convert.archives import Location, check_member, member_bytes
from serengeti_etl.errors import ImageError, SourceRefused
from serengeti_etl.storage import Store

MAX_IN_FLIGHT = 32
"""Requests under way at once: at 16 a store 50 ms away is as fast as a disk, and some to spare."""

MAX_NUM_BYTES_AHEAD = 64 * 1024 * 1024
"""Bytes of photographs that wait for the consumer or are on their way, of one task."""

DEADLINE_SECONDS = 300.0
"""Longest wait for one photograph, all tries of its request together."""

NUM_REFUSALS = 16
"""Photographs refused in a row after which it is the store that refuses, not a photograph."""

_FIRST_GUESS_NUM_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One photograph to fetch.

    Attributes:
        file_name: its name in the store; inside an archive, only for messages.
        location: where in an archive it lies; None for a file of its own.
        is_absent: True if it should be in an archive and is in none.
    """

    file_name: str
    location: Location | None = None
    is_absent: bool = False


def fetch_in_order(images: Store, wanted: Sequence[Wanted]) -> Iterator[bytes | ImageError]:
    """The content of each photograph of ``wanted``, in their order, or why it cannot be had.

    A store that fails on every try raises, because an outage is not a bad photograph.

    Args:
        images: where the photographs or their archives lie.
        wanted: which of them.

    Raises:
        OSError: the store failed on every try, or did not answer in time.
        SourceRefused: it refuses one photograph after the other.
    """
    num_refused = 0
    for photograph, content in zip(wanted, _read_ahead(images, wanted), strict=True):
        if isinstance(content, ImageError) and content.reason == "forbidden":
            num_refused += 1
            if num_refused == NUM_REFUSALS:
                raise SourceRefused(
                    f"{images.url} refuses {NUM_REFUSALS} photographs in a row, the last being "
                    f"{photograph.file_name}: {content.message}. Check the credentials in the "
                    "environment and storage_options, then run the same command again: finished "
                    "shards are kept"
                )
        else:
            num_refused = 0
        yield content


def _read_ahead(images: Store, wanted: Sequence[Wanted]) -> Iterator[bytes | ImageError]:
    pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="fetch")
    pending: deque[_Request] = deque()
    largest = _FIRST_GUESS_NUM_BYTES
    try:
        for photograph in wanted:
            # What is under way counts as the largest so far, until its size is known.
            while pending and not _is_room(pending, largest):
                content = pending.popleft().result()
                largest = max(largest, _num_bytes(content))
                yield content
            future = pool.submit(_fetch, images, photograph)
            pending.append(_Request(images=images, photograph=photograph, future=future))
        while pending:
            yield pending.popleft().result()
    finally:
        # An abandoned or failed shard asks for nothing more.
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """A request under way or answered."""

    images: Store
    photograph: Wanted
    future: "Future[bytes | ImageError]"

    def num_bytes(self, guess: int) -> int:
        """Of the answer, or ``guess`` while there is none."""
        is_answered = self.future.done() and self.future.exception() is None
        return _num_bytes(self.future.result()) if is_answered else guess

    def result(self) -> bytes | ImageError:
        """The answer, as soon as it is there."""
        try:
            return self.future.result(DEADLINE_SECONDS)
        except TimeoutError as error:
            if self.future.done():
                raise  # the client's own
            raise TimeoutError(
                f"{self.images.url} did not answer for {self.photograph.file_name} within "
                f"{DEADLINE_SECONDS:.0f} s"
            ) from error


def _is_room(pending: deque[_Request], largest: int) -> bool:
    if len(pending) >= MAX_IN_FLIGHT:
        return False
    num_bytes = sum(request.num_bytes(largest) for request in pending)
    return num_bytes + largest <= MAX_NUM_BYTES_AHEAD


def _num_bytes(content: bytes | ImageError) -> int:
    return len(content) if isinstance(content, bytes) else 0


def _fetch(images: Store, wanted: Wanted) -> bytes | ImageError:
    name = wanted.file_name
    try:
        return _content(images, wanted)
    except ImageError as error:
        return error
    except FileNotFoundError:
        return ImageError("missing", f"there is no file {name}")
    except PermissionError as error:
        # Buckets that hide their listing answer so for a missing object too.
        return ImageError("forbidden", f"the store refuses {name}: {error}")
    except (IsADirectoryError, NotADirectoryError):
        return ImageError("missing", f"{name} is not a file")


def _content(images: Store, wanted: Wanted) -> bytes:
    if wanted.is_absent:
        raise ImageError("missing", f"there is no file {wanted.file_name}")
    if wanted.location is not None:
        return _member(images, wanted.location)
    return images.at(wanted.file_name).read("")


def _member(images: Store, location: Location) -> bytes:
    """The content of a member, fetched once more where it does not match its checksum."""
    check_member(location)
    archive = images.at(location.archive)
    try:
        return member_bytes(archive.read_range("", location.offset, location.end), location)
    except ImageError as error:
        if error.reason not in ("checksum", "corrupt"):
            raise
    return member_bytes(archive.read_range("", location.offset, location.end), location)
