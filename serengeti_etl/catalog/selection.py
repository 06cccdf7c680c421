"""Which images of a catalog go on, into which split, and what keeps out each of the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.exclusions import Exclusions
from serengeti_etl.catalog.rules import LabelCodes, apply_rules
from serengeti_etl.catalog.sequences import Mask, differs_within, num_runs, sequence_starts
from serengeti_etl.catalog.splits import (
    TRAIN,
    keyed_digest,
    refuse_empty,
    shared_sites,
    split_images,
)
from serengeti_etl.catalog.table import CATALOG_SCHEMA
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.errors import ConfigError
from serengeti_etl.label_config import EMPTY, ColumnSplit, SeasonSplit, TimeSplit
from serengeti_etl.storage import Store

SELECTED_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        *(CATALOG_SCHEMA.field(name) for name in CATALOG_SCHEMA.names[:8]),
    ]
)

SPLITS_FILE = "splits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What the rules and the split made of a catalog.

    Attributes:
        images: rows of ``SELECTED_SCHEMA`` in catalog order, with the labels that rules give them.
        excluded: the other rows of the catalog, with ``state``, ``reason`` and ``message``.
        priors: share of each category among the sequences of train, ``before`` and ``after``
            thinning; probabilities of a model trained on the thinned ones are corrected by them.
    """

    images: pa.Table
    excluded: pa.Table
    priors: Mapping[str, Any]


def select_images(
    catalog: pa.Table, pipeline: SeasonPipeline, known: pa.Table | None = None
) -> Selection:
    """The selection of ``pipeline`` from ``catalog``; every image is in it once.

    Args:
        catalog: rows of ``CATALOG_SCHEMA``.
        pipeline: its rules, split, seed and limit.
        known: columns ``site``, ``seq_id`` and ``split`` of images that were selected from a
            smaller catalog: draws keep their sequences first, and leave them where they are.

    Raises:
        ConfigError: nothing is left, a split would be empty, or sites would be on both sides.
        CatalogError: the label file does not tell what the split needs.
    """
    exclusions = Exclusions(catalog.num_rows)
    images = _kept_by_rules(catalog, pipeline, exclusions)
    images = _with_split(images, pipeline, exclusions, known)
    kept = frozenset() if known is None else frozenset(pc.unique(known["seq_id"]).to_pylist())
    before = _limited(images, pipeline, exclusions, kept)
    images = _thinned(before, pipeline, exclusions, kept)
    return Selection(
        images=images.select(SELECTED_SCHEMA.names).cast(SELECTED_SCHEMA),
        excluded=_name_originals(exclusions.rows(catalog), catalog),
        priors=_priors(before, images),
    )


def _kept_by_rules(catalog: pa.Table, pipeline: SeasonPipeline, exclusions: Exclusions) -> pa.Table:
    """The images that no rule keeps out, with their new labels."""
    _exclude_repeats(catalog, exclusions)
    labels = apply_rules(catalog, pipeline.rules, exclusions)
    exclusions.exclude(
        _is_at_two_sites(catalog), "two_sites", "its sequence lies at more than one site"
    )
    names = [*SELECTED_SCHEMA.names[1:], "given_split"]
    images = catalog.select(names).set_column(names.index("labels"), "labels", labels)
    images = _filter(images, exclusions.kept)
    if images.num_rows == 0:
        raise ConfigError("no images are left: every one is excluded by a rule of the pipeline")
    return images


def splits_json(selection: Selection, pipeline: SeasonPipeline) -> dict[str, Any]:
    """The split, written out: sites of each side, as ``SiteListSplit`` reads them.

    ``sites_are_disjoint`` tells whether they are; where they are not, the split of each image
    stands in the plan and the index only.
    """
    table = selection.images
    sides: dict[str, list[str]] = {}
    for name in sorted(pc.unique(table["split"]).to_pylist()):
        sites = pc.unique(table["site"].filter(pc.equal(table["split"], name))).to_pylist()
        sides[name] = sorted(sites)
    settings = pipeline.deciding_settings()["split"]
    is_disjoint = not shared_sites(table, table["split"]) and all(
        "" not in s for s in sides.values()
    )
    return {"splits": sides, "made_by": settings, "sites_are_disjoint": is_disjoint}


def _filter(table: pa.Table, mask: Any) -> pa.Table:
    flags = np.asarray(mask)
    return table if flags.all() else table.filter(pa.array(flags))


def _exclude_repeats(catalog: pa.Table, exclusions: Exclusions) -> None:
    """Leave out images that repeat another; the message of each becomes the one it repeats."""
    is_repeat = pc.is_valid(catalog["duplicate_of"])
    exclusions.exclude(is_repeat, "same_content", "", state="duplicate")


def _name_originals(excluded: pa.Table, catalog: pa.Table) -> pa.Table:
    """The excluded rows, where a duplicate tells what it repeats, and in what."""
    is_duplicate = pc.equal(excluded["state"], "duplicate")
    if not pc.any(is_duplicate).as_py():
        return excluded
    originals = excluded["duplicate_of"]
    files = catalog["file_name"].take(pc.index_in(originals, value_set=catalog["image_id"]))
    is_same_file = pc.fill_null(pc.equal(files, excluded["file_name"]), False)  # noqa: FBT003
    reasons = pc.if_else(pc.and_(is_duplicate, is_same_file), "same_file", excluded["reason"])
    messages = pc.if_else(is_duplicate, originals, excluded["message"])
    for name, values in (("reason", reasons), ("message", messages)):
        excluded = excluded.set_column(excluded.column_names.index(name), name, values)
    return excluded


def _is_at_two_sites(catalog: pa.Table) -> Mask:
    """True for the images of sequences that lie at more than one site."""
    return differs_within(catalog["site"], sequence_starts(catalog["seq_id"]))


def _with_split(
    images: pa.Table, pipeline: SeasonPipeline, exclusions: Exclusions, known: pa.Table | None
) -> pa.Table:
    source = Store(url=pipeline.source, options=pipeline.storage_options)
    images = images.append_column("split", split_images(images, pipeline.split, source, known))
    is_nowhere = pc.is_null(images["split"])
    exclusions.exclude(is_nowhere, "no_split", "its site, season or time is in no split")
    images = _filter(images, pc.invert(is_nowhere))
    if not isinstance(pipeline.split, SeasonSplit | TimeSplit | ColumnSplit):
        return images
    return _kept_apart(images, pipeline.split, exclusions)


def _kept_apart(
    images: pa.Table, split: SeasonSplit | TimeSplit | ColumnSplit, exclusions: Exclusions
) -> pa.Table:
    """The images, after doing with sites on both sides what the split says."""
    if split.shared_sites == "allow":
        return images
    shared = shared_sites(images, images["split"])
    if shared and split.shared_sites == "refuse":
        raise ConfigError(
            f"{len(shared)} sites would be in more than one split, such as {shared[0]!r}, and val "
            'would not tell how a model does at new places: set shared_sites="exclude" to leave '
            'their images out of train, or "allow" if that is what you want to know'
        )
    is_shared = pc.and_(
        pc.is_in(images["site"], value_set=pa.array(shared, pa.string())),
        pc.equal(images["split"], TRAIN),
    )
    exclusions.exclude(is_shared, "shared_site", "its site is in another split too")
    images = _filter(images, pc.invert(is_shared))
    refuse_empty(images["split"])
    return images


def _limited(
    images: pa.Table, pipeline: SeasonPipeline, exclusions: Exclusions, kept: frozenset[str]
) -> pa.Table:
    """The images of at most ``max_sequences`` sequences."""
    if pipeline.max_sequences is None:
        return images
    chosen = _drawn(images["seq_id"], "limit", pipeline, kept)[: pipeline.max_sequences]
    is_beyond = pc.invert(pc.is_in(images["seq_id"], value_set=pa.array(chosen, pa.string())))
    exclusions.exclude(is_beyond, "limit", "beyond max_sequences")
    return _filter(images, pc.invert(is_beyond))


def _thinned(
    images: pa.Table, pipeline: SeasonPipeline, exclusions: Exclusions, kept: frozenset[str]
) -> pa.Table:
    """The images without what is too much of ``empty`` in train; whole sequences go."""
    share = pipeline.rules.max_empty_share
    if share is None:
        return images
    is_train = pc.equal(images["split"], TRAIN).to_numpy()
    is_empty = LabelCodes.of(images["labels"]).where(lambda one: one == (EMPTY,))
    in_train = images["seq_id"].filter(pa.array(is_train))
    # A sequence is empty when all its frames are.
    others = pc.unique(in_train.filter(pa.array(~is_empty[is_train])))
    all_in_train = pc.unique(in_train)
    empties = all_in_train.filter(pc.invert(pc.is_in(all_in_train, value_set=others)))
    num_kept = int(len(others) * share / (1 - share))
    chosen = _drawn(empties, "thin", pipeline, kept)[num_kept:]
    # Sequences are of one split, so none of val is among them.
    is_out = pc.is_in(images["seq_id"], value_set=pa.array(chosen, pa.string()))
    message = f"train keeps empty sequences up to a share of {share}"
    exclusions.exclude(is_out, "thinned", message)
    return _filter(images, pc.invert(is_out))


def _drawn(seq_ids: Any, purpose: str, pipeline: SeasonPipeline, kept: frozenset[str]) -> list[str]:
    """The distinct sequences in a keyed order, after those of ``kept``."""
    names: list[str] = pc.unique(seq_ids).to_pylist()
    seed = pipeline.shards.seed

    def rank(name: str) -> tuple[bool, bytes, str]:
        return name not in kept, keyed_digest(name, purpose=purpose, seed=seed), name

    return sorted(names, key=rank)


def _priors(before: pa.Table, after: pa.Table) -> dict[str, Any]:
    shares = _shares(before)
    thinned = shares if after is before else _shares(after)
    return {"unit": "sequences of train", "before": shares, "after": thinned}


def _shares(images: pa.Table) -> dict[str, Any]:
    """Number of sequences of train, and the share of them that has each category on any frame."""
    is_train = pc.equal(images["split"], TRAIN).to_numpy()
    numbers = np.cumsum(sequence_starts(images["seq_id"]), dtype=np.int32)
    labels = LabelCodes.of(images["labels"])
    num_sequences = num_runs(numbers[is_train])
    counts = {name: num_runs(numbers[is_train & labels.having(name)]) for name in labels.categories}
    shares = {name: count / num_sequences for name, count in counts.items() if count}
    return {"num_sequences": num_sequences, "shares": shares}
