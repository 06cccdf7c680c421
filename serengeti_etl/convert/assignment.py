"""Which image goes to which shard, edition by edition: pure, repeatable, never renumbered.

Whole sequences are ordered by a keyed digest and cut into shards of nearly equal size, so each
shard is a random sample of its split and shuffling over a few shards is as good as over all. What
is added later is cut in the same way into shards of its own, numbered on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.selection import SELECTED_SCHEMA, Selection
from serengeti_etl.catalog.splits import keyed_digest
from serengeti_etl.catalog.table import CATALOG_ORDER
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.dataset.editions import Edition, Kind
from serengeti_etl.dataset.index import canonical_column
from serengeti_etl.errors import ConfigError

PLAN_SCHEMA = pa.schema([pa.field("shard", pa.string(), nullable=False), *SELECTED_SCHEMA])


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """Images and their shards.

    Attributes:
        rows: rows of ``PLAN_SCHEMA`` in shard order, inside a shard in the order of its tar. An
            image is in more than one shard where it was rejected and is tried again.
        editions: what was added when; they have all shards.
    """

    rows: pa.Table
    editions: tuple[Edition, ...]

    def shards(self) -> tuple[list[str], list[int]]:
        """Names of the shards, and the first row of each, with the number of rows at the end."""
        codes = self.rows["shard"].combine_chunks().dictionary_encode()
        names: list[str] = codes.dictionary.to_pylist()
        counts = np.bincount(codes.indices.to_numpy(), minlength=len(names)).tolist()
        return names, [0, *accumulate(counts)]

    def categories(self) -> tuple[str, ...]:
        """Those that occur: sorted, and after them the new ones of each later edition, sorted."""
        found: dict[str, None] = {}
        first = 0
        for edition in self.editions:
            labels = self.rows["labels"].slice(first, edition.num_images)
            occurring = pc.unique(pc.list_flatten(labels)).to_pylist()
            found.update(dict.fromkeys(sorted(set(occurring) - found.keys())))
            first += edition.num_images
        return tuple(found)

    def parted(self) -> "tuple[Assignment, Assignment]":
        """What was there before the last edition of kind ``catalog``, and what came after it."""
        last = max(at for at, one in enumerate(self.editions) if one.kind == "catalog")
        before, after = self.editions[:last], self.editions[last + 1 :]
        num_after = sum(one.num_images for one in after)
        return (
            Assignment(
                rows=self.rows.slice(0, sum(one.num_images for one in before)), editions=before
            ),
            Assignment(rows=self.rows.slice(self.rows.num_rows - num_after), editions=after),
        )

    def followed_by(self, more: "Assignment") -> "Assignment":
        """Both, one after the other."""
        if not more.editions or not self.editions:  # no copy of millions of rows
            return self if self.editions else more
        rows = pa.concat_tables([self.rows, more.rows]).combine_chunks()
        return Assignment(rows=rows, editions=(*self.editions, *more.editions))

    def grown(self, images: pa.Table, pipeline: SeasonPipeline) -> "Assignment":
        """With one more edition of those among ``images`` that are in none yet.

        Args:
            images: rows of ``SELECTED_SCHEMA`` in catalog order.
            pipeline: how shards are cut.

        Raises:
            ConfigError: a shard cannot hold the longest sequence.
        """
        if self.rows.num_rows:
            known = self.rows["image_id"].combine_chunks()
            images = images.filter(pc.invert(pc.is_in(images["image_id"], value_set=known)))
        rows = _assign_shards(images, pipeline, self._num_by_split())
        return self.followed_by(_edition("catalog", rows))

    def retrying(self, rejects: pa.Table, pipeline: SeasonPipeline) -> "Assignment":
        """With one more edition of the images of ``rejects``.

        Args:
            rejects: columns ``image_id`` and ``shard``, of what is rejected now.
            pipeline: how shards are cut.
        """
        is_rejected = pc.is_in(
            self.rows["image_id"], value_set=rejects["image_id"].combine_chunks()
        )
        images = self.rows.filter(is_rejected).select(SELECTED_SCHEMA.names)
        # Tried again before, an image has several rows, which differ in the shard alone.
        first = pc.index_in(pc.unique(images["image_id"]), value_set=images["image_id"])
        images = images.take(first).sort_by([(name, "ascending") for name in CATALOG_ORDER])
        rows = _assign_shards(images, pipeline, self._num_by_split())
        return self.followed_by(_edition("retry", rows))

    def _num_by_split(self) -> dict[str, int]:
        """Shards of each split, which are numbered from 0."""
        splits = [name.rpartition("-")[0] for name in self.shards()[0]]
        return {split: splits.count(split) for split in splits}


NOTHING = Assignment(rows=PLAN_SCHEMA.empty_table(), editions=())
"""Before the first edition."""


def first_assignment(images: pa.Table, pipeline: SeasonPipeline) -> Assignment:
    """The first edition; arguments as of ``Assignment.grown``, which raises likewise."""
    return NOTHING.grown(images, pipeline)


def _edition(kind: Kind, rows: pa.Table) -> Assignment:
    edition = Edition(
        kind=kind, num_shards=pc.count_distinct(rows["shard"]).as_py(), num_images=rows.num_rows
    )
    return Assignment(rows=rows, editions=(edition,))


def first_difference(rows: pa.Table, selection: Selection) -> str | None:
    """What of the images that are planned already is not so any more; None if all is as it was.

    Args:
        rows: rows of ``PLAN_SCHEMA``.
        selection: what is selected now.
    """
    images = selection.images
    if not rows.num_rows:
        return None
    places = pc.index_in(rows["image_id"], value_set=images["image_id"].combine_chunks())
    if places.null_count:
        gone = rows["image_id"].filter(pc.is_null(places))
        return _why_gone(gone[0].as_py(), len(gone), selection.excluded)
    for name in SELECTED_SCHEMA.names:
        now = images[name].take(places)
        is_other = pc.not_equal(canonical_column(rows[name]), canonical_column(now))
        at = pc.index(is_other, True).as_py()
        if at >= 0:
            old, new, num = rows[name][at].as_py(), now[at].as_py(), pc.sum(is_other).as_py()
            image_id = rows["image_id"][at].as_py()
            return f"{name} of image {image_id} was {old!r} and is now {new!r} ({num} such images)"
    return None


def _why_gone(image_id: str, num_gone: int, excluded: pa.Table) -> str:
    """Why an image that was planned is not selected."""
    row = excluded.filter(pc.equal(excluded["image_id"], image_id)).to_pylist()
    why = f"is now left out ({row[0]['reason']}: {row[0]['message']})" if row else "is not listed"
    return f"image {image_id}, which has its place in a shard, {why} ({num_gone} such images)"


def _assign_shards(
    planned: pa.Table, pipeline: SeasonPipeline, num_by_split: Mapping[str, int]
) -> pa.Table:
    """Planned rows with their shard, in shard order."""
    parts = list(_split_parts(planned, pipeline, num_by_split))
    if not parts:
        return PLAN_SCHEMA.empty_table()
    return pa.concat_tables(parts).select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA).combine_chunks()


def _split_parts(
    planned: pa.Table, pipeline: SeasonPipeline, num_by_split: Mapping[str, int]
) -> Iterator[pa.Table]:
    for split in sorted(pc.unique(planned["split"]).to_pylist()):
        rows = planned.filter(pc.field("split") == split)
        rows = rows.take(mixed_order(rows["seq_id"], pipeline.shards.seed))
        numbers = _shard_numbers(rows["seq_id"], pipeline) + num_by_split.get(split, 0)
        names = np.char.add(f"{split}-", np.char.zfill(numbers.astype(str), 6))
        yield rows.append_column("shard", pa.array(names, pa.string()))


def mixed_order(seq_ids: pa.ChunkedArray, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers in an order that mixes sequences and keeps the frames of each together."""
    encoded = seq_ids.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    digests = [keyed_digest(text, purpose="shard", seed=seed) + text.encode() for text in texts]
    rank = np.empty(len(texts), dtype=np.int64)
    rank[sorted(range(len(texts)), key=digests.__getitem__)] = np.arange(len(texts))
    order: npt.NDArray[np.int64] = np.argsort(rank[encoded.indices.to_numpy()], kind="stable")
    return order


def _shard_numbers(seq_ids: pa.ChunkedArray, pipeline: SeasonPipeline) -> npt.NDArray[np.int64]:
    """Shard number of each row: nearly equal shards, no sequence cut, none above the limit."""
    codes = seq_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    limit = pipeline.shards.num_samples(pipeline.resize)
    longest = int(lengths.max())
    if longest > limit:
        raise ConfigError(
            f"a shard holds at most {limit} images, but a sequence has {longest} frames: raise "
            "shards.max_samples or shards.target_bytes"
        )
    # A sequence belongs where it starts, so a shard overshoots an even share by one sequence less
    # one image at most: with that much room left, none exceeds the limit.
    num_shards = -(-len(codes) // (limit - longest + 1))
    numbers: npt.NDArray[np.int64] = np.repeat(starts * num_shards // len(codes), lengths)
    # With shards of few images some would stay empty: number those that are not.
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)
