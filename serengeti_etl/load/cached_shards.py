"""Shards of a store through a folder that processes of one host share."""

import hashlib
import logging
import math
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


class CachedShards:
    """See ``Bringer``.

    Files are named by full url and checksum, so ``train/000.tar`` and ``val/000.tar`` of any two
    datasets never meet. Each is compared with its checksum before its first use in this process,
    also one that an earlier run left. Where the folder cannot be used, a shard goes straight
    through memory; that is logged once.

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
        self._has_warned = False

    def bring(self, shard: int, desk: Desk) -> Held:
        """See ``Bringer``."""
        try:
            for _ in range(NUM_TRIES):
                held = self._find(shard) or self._fetch(shard, desk)
                if held is not None:
                    return held
        except ShardError:
            raise
        except OSError as error:  # the folder's: the fetcher's are ShardErrors
            self._warn(error)
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
            self._reserve(claim, shard, desk)
            damaged = self._fetcher.fetch(shard, claim)
            if damaged is not None:
                return HeldBytes(damaged, is_whole=False)
            return self._held(shard, claim.place())

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The cache folder %s cannot be used (%s): shards that it cannot take go through "
                "memory. Make room there, or name another cache folder.",
                self._settings.folder,
                error,
            )

    def _held(self, shard: int, identity: Identity) -> HeldFile:
        self._checked[shard] = identity
        path = self._folder.path(self._names[shard])
        return HeldFile(path=path, identity=identity, is_whole=True, is_shared=True)

    def _reserve(self, claim: Claim, shard: int, desk: Desk) -> None:
        info, is_in_use, now = self._shards[shard].info, desk.is_in_use(shard), time.time()
        distance = -math.inf if is_in_use else desk.distance(shard) or 0.0

        def worth(file: CachedFile) -> Worth | None:
            return self._worth(file, distance, desk, now)

        if not self._folder.reserve(claim, info.num_bytes, worth, must=is_in_use):
            raise ShardError(f"no room for shard {info.name} ahead of its need")

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
