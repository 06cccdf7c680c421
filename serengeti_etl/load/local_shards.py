"""Shards in a local folder: read where they are, once they are checked."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from serengeti_etl.load.bringer import Desk
from serengeti_etl.load.held_shards import HeldFile, Identity, identity_of
from serengeti_etl.load.shard_fetch import missing
from serengeti_etl.load.shard_source import Shard
from serengeti_etl.load.source_tally import SourceTally


class LocalShards:
    """See ``Bringer``; a file that was checked is not checked again as long as it is the same.

    Args:
        shards: by number; only those of local folders are ever asked for.
        tally: where checks are counted.
        check: compare with checksums; otherwise with sizes alone.
        sparse: shards of which little is wanted: said to be not whole rather than read whole.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        tally: SourceTally,
        *,
        check: bool,
        sparse: Collection[int] = (),
    ) -> None:
        self._shards, self._tally, self._check, self._sparse = shards, tally, check, sparse
        self._checked: dict[int, HeldFile] = {}

    def bring(self, shard: int, desk: Desk) -> HeldFile:  # noqa: ARG002 - for other bringers
        """See ``Bringer``."""
        what = self._shards[shard]
        path = what.store.local_path(what.info.tar_name)
        try:
            held = self._look(shard, Path(path or ""))
        except FileNotFoundError as error:
            raise missing(what) from error
        self._checked[shard] = held
        return held

    def _look(self, shard: int, path: Path) -> HeldFile:
        info, known = self._shards[shard].info, self._checked.get(shard)
        with path.open("rb", buffering=0) as file:
            identity = identity_of(file.fileno())
            if known is not None and known.identity == identity:
                return known
            is_whole = shard not in self._sparse and identity[2] == info.num_bytes
            if is_whole and self._check:
                with self._tally.timed("seconds_checking"):
                    is_whole = hashlib.file_digest(file, "sha256").hexdigest() == info.sha256
        return _file(path, identity, is_whole=is_whole)


def _file(path: Path, identity: Identity, *, is_whole: bool) -> HeldFile:
    return HeldFile(path=path, identity=identity, is_whole=is_whole, is_shared=False)
