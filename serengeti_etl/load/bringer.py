"""How one shard is brought: in place, into memory or into a folder, each in a room of its own."""

from contextlib import AbstractContextManager
from typing import Protocol

from serengeti_etl.load.held_shards import Held


class Desk(Protocol):
    """What a bringer may ask of the source that it works for, from any thread."""

    def is_in_use(self, shard: int) -> bool:
        """True when a batch in work needs the shard now."""

    def distance(self, shard: int) -> float | None:
        """How far off the next need is; infinite for none; None for what is in use."""

    def waiting(self) -> AbstractContextManager[None]:
        """Around waiting for another process: others are brought meanwhile."""


class Bringer(Protocol):
    """Brings shards of one kind."""

    def bring(self, shard: int, desk: Desk) -> Held:
        """The shard, checked.

        Raises:
            ShardError: it is missing, or the store failed on every try.
            OSError: it cannot be read.
        """
