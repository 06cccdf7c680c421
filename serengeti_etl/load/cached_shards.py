"""Shards of a store through a folder that processes of one host share."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from serengeti_etl.errors import ShardError
from serengeti_etl.load.bringer import Bringer, Desk
from serengeti_etl.load.cache_folder import CachedFile, CacheFolder, Claim, Worth
from serengeti_etl.load.held_shards import (
    Held,
    HeldBytes,
    HeldFile,
    Identity,
    identity_of,
    open_to_read,
)
from serengeti_etl.load.shard_fetch import ShardFetcher
from serengeti_etl.load.shard_source import CacheSettings, Shard
from serengeti_etl.load.source_tally import SourceTally

NUM_TRIES = 3
"""Times that a file is brought anew when other processes delete it in between."""

UNUSED_SECONDS = 3600
"""Age since its last use at which a file of another run is the first to go."""

logger = logging.getLogger(__name__)


class _NoRoom(Exception):  # noqa: N818 - a state of the folder
    """All that is in the folder is in use, or needed sooner."""


class CachedShards:
    """See ``Bringer``.

    Files are named by full url and checksum, so ``train/000.tar`` and ``val/000.tar`` of any two
    datasets never meet. Each is compared with its checksum before its first use in this process,
    also one that an earlier run left. Where the folder cannot be used, or holds less than batches
    need at once, a shard goes straight through memory; each reason is logged once.

    Args:
        shards: by number.
        settings: with a folder.
        fetcher: of the same shards.
        memory: for what the folder cannot take.
        tally: where hits are counted.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        settings: CacheSettings,
        fetcher: ShardFetcher,
        memory: Bringer,
        tally: SourceTally,
    ) -> None:
        self._shards, self._settings, self._fetcher = shards, settings, fetcher
        self._memory, self._tally = memory, tally
        folder = Path(settings.folder or "").expanduser()
        self._folder = CacheFolder(folder, settings.limit_bytes)
        self._names = [cached_name(shard) for shard in shards]
        self._number_of = {name: number for number, name in enumerate(self._names)}
        self._checked: dict[int, Identity] = {}
        self._lock = threading.Lock()
        self._warnings: set[str] = set()

    def bring(self, shard: int, desk: Desk) -> Held:
        """See ``Bringer``."""
        try:
            for _ in range(NUM_TRIES):
                held = self._find(shard) or self._fetch(shard, desk)
                if held is not None:
                    return held
        except ShardError:
            raise
        except _NoRoom:
            if not desk.is_in_use(shard):
                name = self._shards[shard].info.name
                raise ShardError(f"shard {name} has no room ahead of its need") from None
            self._warn("its limit is too small for all that is in work at once; raise it")
        except OSError as error:  # the folder's: the fetcher's are ShardErrors
            self._warn(f"{error.strerror or error}; make room there, or name another folder")
        self._tally.add(num_bypassed=1)
        return self._memory.bring(shard, desk)

    def _find(self, shard: int) -> HeldFile | None:
        """The file if it is there and good; a damaged one is deleted."""
        path, info = self._folder.path(self._names[shard]), self._shards[shard].info
        try:
            descriptor = open_to_read(path, is_shared=True)
        except FileNotFoundError:
            return None
        with FileIO(descriptor) as file:
            identity = identity_of(descriptor)
            is_good = self._checked.get(shard) == identity
            if not is_good and identity[2] == info.num_bytes:
                is_good = not self._settings.check or self._hash(file) == info.sha256
            if not is_good:
                logger.info("%s is damaged and will be fetched anew", path)
                self._folder.remove(path, identity)
                return None
        self._tally.add(num_hits=1)
        return self._held(shard, identity)

    def _hash(self, file: FileIO) -> str:
        with self._tally.timed("seconds_checking"):
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _fetch(self, shard: int, desk: Desk) -> Held | None:
        """The shard as fetched by this process; None if another one has placed the file."""
        claim = self._folder.claim(self._names[shard], desk.waiting)
        if not isinstance(claim, Claim):
            if claim is not None:  # whoever wrote it just now has checked it
                self._checked[shard] = claim
            return None
        with claim:
            if not self._reserve(claim, shard, desk):
                raise _NoRoom
            damaged = self._fetcher.fetch(shard, claim)
            if damaged is not None:
                return HeldBytes(damaged, is_whole=False)
            return self._held(shard, self._folder.place(claim))

    def _warn(self, reason: str) -> None:
        with self._lock:
            is_new = reason not in self._warnings
            self._warnings.add(reason)
        if is_new:
            logger.warning(
                "The cache folder %s cannot take a shard, which goes through memory, as will "
                "others: %s.",
                self._settings.folder,
                reason,
            )

    def _held(self, shard: int, identity: Identity) -> HeldFile:
        self._checked[shard] = identity
        path = self._folder.path(self._names[shard])
        return HeldFile(path=path, identity=identity, is_whole=True, is_shared=True)

    def _reserve(self, claim: Claim, shard: int, desk: Desk) -> bool:
        distance, now = desk.distance(shard), time.time()
        own = -math.inf if distance is None else distance

        def worth(file: CachedFile) -> Worth | None:
            return self._worth(file, own, desk, now)

        return self._folder.reserve(claim, self._shards[shard].info.num_bytes, worth)

    def _worth(self, file: CachedFile, own: float, desk: Desk, now: float) -> Worth | None:
        """Order in which files go: of killed and of old runs, released, of others, the farthest."""
        number = self._number_of.get(file.name)
        if file.is_partial:
            return 0, 0.0
        if number is None:
            return 1 if file.last_use < now - UNUSED_SECONDS else 3, file.last_use
        distance = desk.distance(number)
        if distance == math.inf:
            return 2, file.last_use
        return None if distance is None or distance <= own else (4, -distance)


def cached_name(shard: Shard) -> str:
    """Name of a shard's file in any cache folder."""
    place = f"{shard.store.url.rstrip('/')}/{shard.info.tar_name}\n{shard.info.sha256}"
    return f"serengeti-{hashlib.blake2b(place.encode(), digest_size=32).hexdigest()}.tar"
