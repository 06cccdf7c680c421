"""Whole shards from a store, by several requests at once, compared with their checksums."""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from serengeti_etl.config import MIB
from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.errors import RequestRefused, ShardError
from serengeti_etl.load.shard_source import CacheSettings, Shard
from serengeti_etl.load.source_tally import SourceTally
from serengeti_etl.retry import patiently

if TYPE_CHECKING:
    from concurrent.futures import Future

logger = logging.getLogger(__name__)

PART_NUM_BYTES = 8 * MIB
"""Size of one range request."""

NUM_PARTS_AT_ONCE = 4
"""Requests for one shard at the same time; also the bound on memory for it, in parts."""

Span = tuple[int, int]
"""First byte of a part of a shard, and the one after its last."""


class Sink(Protocol):
    """Where the bytes of a shard go."""

    def put(self, offset: int, part: bytes) -> None:
        """Write ``part`` at ``offset``, over what may be there."""


class ShardFetcher:
    """Brings shards from their stores, each into a sink.

    Args:
        shards: by number.
        tally: where fetches are counted.
        settings: whether to compare with checksums, or with sizes alone; and how long a store may
            be away.
    """

    def __init__(
        self, shards: Sequence[Shard], tally: SourceTally, settings: CacheSettings
    ) -> None:
        self._shards, self._tally, self._check = shards, tally, settings.check
        self._patience_seconds = settings.patience_seconds
        self._is_closed = False

    def fetch(self, shard: int, sink: Sink) -> bytes | None:
        """None once the sink holds the whole shard; else what the store has in its place.

        A shard that does not match is fetched once more, in one piece.

        Raises:
            ShardError: the shard is missing, or the store failed on every try.
            OSError: the sink's.
        """
        what = self._shards[shard]
        self._tally.add(num_fetches=1)
        if self._stream(what, sink):
            return None
        self._tally.add(num_refetched=1)
        content = self._read(what)
        if not self._matches(what, content):
            return content
        sink.put(0, content)
        return None

    def fetch_spans(self, shard: int, spans: Iterable[Span]) -> list[bytes]:
        """The bytes of parts of a shard, unchecked; fewer where the shard is cut.

        Raises:
            ShardError: as ``fetch``.
        """
        self._tally.add(num_fetches=1)
        return list(self._spans(self._shards[shard], spans))

    def close(self) -> None:
        """Begin no further request: fetches under way end with an error."""
        self._is_closed = True

    def _stream(self, what: Shard, sink: Sink) -> bool:
        """True when the parts, which go to the sink as they come, make up the shard."""
        digest, offset, num_bytes = hashlib.sha256(), 0, what.info.num_bytes
        for part in self._parts(what):
            if len(part) != min(PART_NUM_BYTES, num_bytes - offset):
                return False
            sink.put(offset, part)
            if self._check:
                digest.update(part)
            offset += len(part)
        return not self._check or digest.hexdigest() == what.info.sha256

    def _parts(self, what: Shard) -> Iterator[bytes]:
        """The shard's bytes in order; empty ones where the store has no such range."""
        num_bytes = what.info.num_bytes
        if num_bytes <= PART_NUM_BYTES:
            yield self._read(what)
            return
        starts = range(0, num_bytes, PART_NUM_BYTES)
        yield from self._spans(what, [(at, min(at + PART_NUM_BYTES, num_bytes)) for at in starts])

    def _spans(self, what: Shard, spans: Iterable[Span]) -> Iterator[bytes]:
        """The bytes of each span, a few of which are asked for at once."""
        to_come, coming = deque(spans), deque["Future[bytes]"]()
        # Of its own, so that it can be abandoned without leaving another fetch waiting for ever.
        pool = DaemonPool(NUM_PARTS_AT_ONCE, "serengeti-part")
        try:
            while to_come or coming:
                while to_come and len(coming) < NUM_PARTS_AT_ONCE:
                    coming.append(pool.submit(self._read_span, what, to_come.popleft()))
                yield coming.popleft().result()
        finally:
            pool.abandon()

    def _read_span(self, what: Shard, span: Span) -> bytes:
        def read() -> bytes:
            try:
                return what.store.read_range(what.info.tar_name, *span)
            except RequestRefused:
                # Past the end of a cut shard, or a server without ranges: the whole will tell.
                return b""

        return self._ask(what, read)

    def _read(self, what: Shard) -> bytes:
        return self._ask(what, lambda: what.store.read(what.info.tar_name))

    def _matches(self, what: Shard, content: bytes) -> bool:
        if len(content) != what.info.num_bytes:
            return False
        return not self._check or hashlib.sha256(content).hexdigest() == what.info.sha256

    def _ask(self, what: Shard, read: Callable[[], bytes]) -> bytes:
        """What ``read`` brings, in the end; its errors name the shard, the cause and what to do."""

        def attempt() -> bytes:
            if self._is_closed:
                raise closed(what)
            with self._tally.timed("seconds_fetching"):
                return read()

        def tell(error: BaseException) -> None:
            logger.warning("shard %s is waited for: %s: %s", what.info.name, what.url, error)

        try:
            content = patiently(attempt, self._patience_seconds, tell)
        except FileNotFoundError as error:
            raise missing(what) from error
        except ShardError:
            raise
        except OSError as error:
            raise ShardError(
                f"shard {what.info.name} cannot be read from {what.url} "
                f"({type(error).__name__}: {error}); when the store answers again, the same "
                "command goes on from the last checkpoint"
            ) from error
        self._tally.add(num_bytes_fetched=len(content))
        return content


def missing(what: Shard) -> ShardError:
    """The error of a shard that is not where dataset.json says."""
    return ShardError(
        f"shard {what.info.name} is missing: there is no {what.url}; run "
        f"`serengeti-etl verify {what.store.url}`, and `serengeti-etl repair` makes it again"
    )


def closed(what: Shard) -> ShardError:
    """The error of a shard that was waited for when its source was closed."""
    return ShardError(f"shard {what.info.name} of {what.store.url}: its source was closed")
