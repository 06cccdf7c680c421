"""What earlier tries of a plan left without a commit record."""

from collections.abc import Mapping

from serengeti_etl.convert.plan import Plan
from serengeti_etl.dataset.index import ShardInfo, rejects_name, tar_name
from serengeti_etl.storage import Store


def remove_leftovers(store: Store, plan: Plan, committed: Mapping[str, ShardInfo]) -> None:
    """Delete the tars and rejects of the plan's own shards that no commit record names.

    Nothing else is touched, whatever it is and wherever it lies.

    Args:
        store: of the dataset.
        plan: whose shards; no task of it may be under way.
        committed: its shards that are there, by name.

    Raises:
        OSError: the store failed on every try.
    """
    stale = set()
    for shard in plan.shards:
        info = committed.get(shard.name)
        if info is None:
            stale.add(tar_name(shard.split, shard.name))
        if info is None or not info.num_rejected:
            stale.add(rejects_name(shard.name))
    for folder in sorted({name.partition("/")[0] for name in stale}):
        for name in store.list(folder):
            if name in stale:
                store.delete(name)
