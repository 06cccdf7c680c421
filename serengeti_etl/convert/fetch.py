"""Photographs from where they lie: many requests at once, bounded by bytes, results in order."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serengeti_etl.convert.member import Location, check_member, member_bytes
from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.errors import ChecksumError, ImageError, SourceRefused
from serengeti_etl.retry import OnRetry, is_slow_down
from serengeti_etl.storage import Store

if TYPE_CHECKING:
    from concurrent.futures import Future

MAX_IN_FLIGHT = 32
"""Requests under way at once: at 16 a store 50 ms away is as fast as a disk, and some to spare."""

MAX_NUM_BYTES_AHEAD = 64 * 1024 * 1024
"""Bytes of photographs that wait for the consumer or are on their way, of one task."""

DEADLINE_SECONDS = 300.0
"""Longest wait for one photograph, all tries of its request together."""

NUM_REFUSALS = 16
"""Photographs refused in a row after which it is the store that refuses, not a photograph."""

_FIRST_GUESS_NUM_BYTES = 2 * 1024 * 1024
_ROUND_SECONDS = 1.0
_DAMAGED = ("checksum", "corrupt")


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
    # A task of fewer photographs than that is as good a sign when all of them are refused.
    limit = max(2, min(NUM_REFUSALS, len(wanted)))
    for photograph, content in zip(wanted, _read_ahead(images, wanted), strict=True):
        if isinstance(content, ImageError) and content.reason == "forbidden":
            num_refused += 1
            if num_refused == limit:
                raise SourceRefused(
                    f"{images.url} refuses {limit} photographs in a row, the last being "
                    f"{photograph.file_name}: {content.message}. Check the credentials in the "
                    "environment and storage_options, then run the same command again: finished "
                    "shards are kept"
                )
        else:
            num_refused = 0
        yield content


def _read_ahead(images: Store, wanted: Sequence[Wanted]) -> Iterator[bytes | ImageError]:
    # Some may hang on a dead store, and must not hold up a process that wants to end.
    pool = DaemonPool(MAX_IN_FLIGHT, "fetch")
    pace = Pace()
    pending: deque[_Request] = deque()
    largest = _FIRST_GUESS_NUM_BYTES
    try:
        for photograph in wanted:
            # What is under way counts as the largest so far, until its size is known.
            while pending and not _is_room(pending, pace, largest):
                content = pending.popleft().result()
                pace.answered()
                largest = max(largest, _num_bytes(content))
                yield content
            future = pool.submit(_fetch, images, photograph, pace.told)
            pending.append(_Request(images=images, photograph=photograph, future=future))
        while pending:
            yield pending.popleft().result()
    finally:
        # An abandoned or failed shard asks for nothing more.
        pool.abandon()


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


class Pace:
    """How many requests may be under way: half as many when the store says that it is too much.

    One more again for each round of answers, as TCP does (AIMD; Chiu and Jain, 1989).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit = float(MAX_IN_FLIGHT)
        self._halved_at = -math.inf

    @property
    def num_in_flight(self) -> int:
        """Requests that may be under way now, at least 1."""
        return int(self._limit)

    def told(self, error: BaseException) -> None:
        """Take note of an error that is followed by another try."""
        if not is_slow_down(error):
            return
        with self._lock:
            # All that are under way hear the same: it counts once.
            if time.monotonic() - self._halved_at > _ROUND_SECONDS:
                self._halved_at = time.monotonic()
                self._limit = max(1.0, self._limit / 2)

    def answered(self) -> None:
        """Take note of an answer."""
        with self._lock:
            self._limit = min(float(MAX_IN_FLIGHT), self._limit + 1 / self._limit)


def _is_room(pending: deque[_Request], pace: Pace, largest: int) -> bool:
    if len(pending) >= pace.num_in_flight:
        return False
    num_bytes = sum(request.num_bytes(largest) for request in pending)
    return num_bytes + largest <= MAX_NUM_BYTES_AHEAD


def _num_bytes(content: bytes | ImageError) -> int:
    return len(content) if isinstance(content, bytes) else 0


def _fetch(images: Store, wanted: Wanted, on_retry: OnRetry) -> bytes | ImageError:
    name = wanted.file_name
    try:
        return _content(images, wanted, on_retry)
    except ImageError as error:
        return error
    except FileNotFoundError:
        return ImageError("missing", f"there is no file {name}")
    except PermissionError as error:
        # Buckets that hide their listing answer so for a missing object too.
        return ImageError("forbidden", f"the store refuses {name}: {error}")
    except (IsADirectoryError, NotADirectoryError):
        return ImageError("missing", f"{name} is not a file")


def _content(images: Store, wanted: Wanted, on_retry: OnRetry) -> bytes:
    if wanted.is_absent:
        raise ImageError("missing", f"there is no file {wanted.file_name}")
    if wanted.location is not None:
        check_member(wanted.location)
    try:
        return _once(images, wanted, on_retry)
    except ImageError as error:
        if error.reason not in _DAMAGED:
            raise
    return _once(images, wanted, on_retry)  # it may have been damaged on the way


def _once(images: Store, wanted: Wanted, on_retry: OnRetry) -> bytes:
    """The content as it comes, checked against what is declared of it."""
    location = wanted.location
    if location is not None:
        stored = images.read_range(location.archive, location.offset, location.end, on_retry)
        return member_bytes(stored, location)
    try:
        return images.read_checked(wanted.file_name, on_retry)
    except ChecksumError as error:
        raise ImageError("checksum", str(error)) from error
