"""Train and val: whole sequences on one side, and whole sites wherever that is asked for."""

import datetime as dt
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.rules import LabelCodes
from serengeti_etl.catalog.sequences import differs_within, sequence_starts
from serengeti_etl.catalog.stratify import choose_val
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.label_config import (
    ColumnSplit,
    FractionSplit,
    SeasonSplit,
    SiteListSplit,
    Split,
    TimeSplit,
)
from serengeti_etl.storage import Store

TRAIN, VAL = "train", "val"


def keyed_digest(text: str, *, purpose: str, seed: int) -> bytes:
    """Eight bytes that order things as if at random: same text and seed, same bytes for ever.

    Args:
        text: what is to be ordered, such as a seq_id.
        purpose: keeps orders made for different ends independent of each other.
        seed: another seed gives another order.
    """
    return blake2b(f"{purpose}:{seed}:{text}".encode(), digest_size=8).digest()


def split_images(
    images: pa.Table, split: Split, source: Store, known: pa.Table | None = None
) -> pa.ChunkedArray:
    """The split of each image: ``train``, ``val`` or another; null where it is in none.

    Args:
        images: rows of ``CATALOG_SCHEMA`` that are kept, in the order of the catalog.
        split: how to divide.
        source: where a site list is read from.
        known: columns ``site``, ``seq_id`` and ``split`` of images that were divided before. What
            a fraction chose is not chosen again: their sites, or sequences, stay where they are.

    Raises:
        ConfigError: train or val would be empty, or the label file does not tell what is needed.
        CatalogError: a site list cannot be read, or a sequence would be torn.
    """
    match split:
        case SiteListSplit():
            found = _by_group(images["site"], _listed_sites(source, split.url))
        case FractionSplit():
            found = _by_fraction(images, split, known)
        case SeasonSplit():
            found = _by_season(images["season"], split)
        case TimeSplit():
            found = _by_time(images, split)
        case ColumnSplit():
            found = _given(images)
    _refuse_torn(images["seq_id"], found)
    refuse_empty(found)
    return found


def refuse_empty(sides: pa.ChunkedArray) -> None:
    """Nothing, if images are in train and in val.

    Raises:
        ConfigError: otherwise; says which would be empty.
    """
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(sides).to_pylist()}
    for side in (TRAIN, VAL):
        if not counts.get(side):
            raise ConfigError(
                f"split {side!r} would hold no images: give it sites, seasons or times that occur "
                "among the images that the rules keep, or another fraction or seed"
            )


def shared_sites(images: pa.Table, sides: pa.ChunkedArray) -> list[str]:
    """The named sites whose images are in more than one split, sorted."""
    table = pa.table({"site": images["site"], "side": sides})
    table = table.filter(pc.and_(pc.is_valid(table["side"]), pc.not_equal(table["site"], "")))
    pairs = table.group_by(["site", "side"], use_threads=False).aggregate([])
    counts = pairs.group_by("site", use_threads=False).aggregate([([], "count_all")])
    return sorted(counts.filter(pc.field("count_all") > 1)["site"].to_pylist())


def _by_group(column: pa.ChunkedArray, sides: Mapping[str, str]) -> pa.ChunkedArray:
    """The side of each row by the name in ``column``; null for names in no side."""
    positions = pc.index_in(column, value_set=pa.array(list(sides), pa.string()))
    return pc.take(pa.array(list(sides.values()), pa.string()), positions)


def _listed_sites(source: Store, url: str) -> dict[str, str]:
    try:
        lists = source.at(url).read_json("")["splits"]
        sides = [(str(site), str(name)) for name, sites in lists.items() for site in sites]
    except FileNotFoundError:
        raise CatalogError(f"there is no site list {source.at(url).url}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError(
            f'{url} must hold {{"splits": {{"train": [sites], "val": [sites]}}}}: {error!r}'
        ) from error
    found: dict[str, str] = {}
    for site, name in sides:
        if found.setdefault(site, name) != name:
            raise CatalogError(f"{url} puts site {site!r} into {found[site]} and into {name}")
    return found


def _by_fraction(images: pa.Table, split: FractionSplit, known: pa.Table | None) -> pa.ChunkedArray:
    column = "site" if split.by == "site" else "seq_id"
    groups = pc.unique(images[column]).to_pylist()
    if column == "site" and "" in groups:
        raise ConfigError(
            "the label file does not name the site of every image, so sites cannot be kept apart: "
            'use FractionSplit(by="sequence") if images of one camera may be on both sides'
        )
    groups.sort(key=lambda name: (keyed_digest(name, purpose="split", seed=split.seed), name))
    pinned = _pinned(groups, column, known)
    if not split.stratify or len(groups) == 1:
        is_val = _first_ones(pinned, max(1, round(split.val_fraction * len(groups))))
    elif column == "site":
        is_val = choose_val(_counts(images, groups), _ppm(split.val_fraction), pinned)
    else:
        is_val = _evenly(images, groups, _ppm(split.val_fraction), pinned)
    sides = {name: VAL if val else TRAIN for name, val in zip(groups, is_val, strict=True)}
    return _by_group(images[column], sides)


def _pinned(groups: list[str], column: str, known: pa.Table | None) -> npt.NDArray[np.int8]:
    """1 for each group that is known to be in val, 0 for those in train, -1 for the others."""
    if known is None:
        return np.full(len(groups), -1, dtype=np.int8)
    names = known[column].combine_chunks()
    places = pc.index_in(pa.array(groups, pa.string()), value_set=names)
    is_val = pc.equal(known["split"], VAL).combine_chunks().take(places)
    pinned: npt.NDArray[np.int8] = pc.cast(is_val, pa.int8()).fill_null(-1).to_numpy()
    return pinned


def _first_ones(pinned: npt.NDArray[np.int8], num_val: int) -> npt.NDArray[np.bool_]:
    """True for those in val: all that are pinned there, and of the free ones the first."""
    is_val = pinned > 0
    free = np.flatnonzero(pinned < 0)
    is_val[free[: max(0, num_val - int(is_val.sum()))]] = True
    return is_val


def _ppm(fraction: float) -> int:
    return round(fraction * 1_000_000)


def _counts(images: pa.Table, sites: list[str]) -> Any:
    """Images of each category (columns) at each site (rows)."""
    labels = LabelCodes.of(images["labels"])
    at_site = pc.index_in(images["site"], value_set=pa.array(sites, pa.string())).to_numpy()
    num = len(labels.combinations)
    pairs = np.bincount(at_site.astype(np.int64) * num + labels.codes, minlength=len(sites) * num)
    bears = [[name in one for name in labels.categories] for one in labels.combinations]
    return pairs.reshape(len(sites), num) @ np.array(bears, dtype=np.int64).reshape(num, -1)


def _evenly(images: pa.Table, groups: list[str], val_ppm: int, pinned: npt.NDArray[np.int8]) -> Any:
    """True for the wanted share of ``groups``, evenly over the rarest category of each."""
    labels = LabelCodes.of(images["labels"])
    rank = _rank_by_rarity(labels)
    at_group = pc.index_in(images["seq_id"], value_set=pa.array(groups, pa.string())).to_numpy()
    stratum = np.full(len(groups), np.iinfo(np.int64).max)
    np.minimum.at(stratum, at_group, rank[labels.codes])
    # Within a stratum the order is the drawn one; every so many-th goes to val.
    order = np.argsort(stratum, kind="stable")
    order = order[pinned[order] < 0]
    # Counted on from those that are pinned, or a few at a time would never come to a whole one.
    steps = (np.arange(len(groups) - len(order), len(groups) + 1) * val_ppm) // 1_000_000
    is_val = pinned > 0
    is_val[order] = np.diff(steps) > 0
    if not is_val.any():
        is_val[0] = True
    return is_val


def _rank_by_rarity(labels: LabelCodes) -> Any:
    """For each combination the rank of its rarest category, the rarest of all being 0."""
    totals = labels.count()
    ranks = {name: at for at, name in enumerate(sorted(totals, key=lambda n: (totals[n], n)))}
    return np.array(
        [min((ranks[name] for name in one), default=len(ranks)) for one in labels.combinations]
    )


def _by_season(seasons: pa.ChunkedArray, split: SeasonSplit) -> pa.ChunkedArray:
    occurring = set(pc.unique(seasons).to_pylist()) - {""}
    unknown = sorted({*split.val, *(split.train or ())} - occurring)
    if unknown:
        raise ConfigError(
            f"the split names season {unknown[0]!r}, but the kept images are of "
            f"{sorted(occurring) or 'no named season'}"
        )
    train = split.train if split.train is not None else sorted(occurring - set(split.val))
    return _by_group(seasons, dict.fromkeys(train, TRAIN) | dict.fromkeys(split.val, VAL))


def _by_time(images: pa.Table, split: TimeSplit) -> pa.ChunkedArray:
    """By the first frame of each sequence, so that none is torn."""
    moments = _first_times(images)
    val_from = np.datetime64(dt.datetime.fromisoformat(split.val_from), "ms")
    until = dt.datetime.fromisoformat(split.train_until or split.val_from)
    sides = np.full(len(moments), None, dtype=object)
    # What has no time is neither earlier nor later.
    sides[moments < np.datetime64(until, "ms")] = TRAIN
    sides[moments >= val_from] = VAL
    return pa.chunked_array([pa.array(sides, pa.string())])


def _first_times(images: pa.Table) -> Any:
    """For each image the earliest time of its sequence; "not a time" where none has one."""
    starts = sequence_starts(images["seq_id"])
    firsts = np.fmin.reduceat(images["datetime"].to_numpy(), np.flatnonzero(starts))
    return firsts[np.cumsum(starts) - 1]


def _given(images: pa.Table) -> pa.ChunkedArray:
    given = images["given_split"]
    names = pc.unique(given).drop_null().to_pylist()
    if not names:
        raise ConfigError(
            "the label file gives no split: name its column with CsvColumns(given_split=...), or "
            "use another split"
        )
    bad = [name for name in names if not name.replace("_", "").isalnum()]
    if bad:
        raise CatalogError(f"split {bad[0]!r} of the label file must be of letters, digits and _")
    return given


def _refuse_torn(seq_ids: pa.ChunkedArray, sides: pa.ChunkedArray) -> None:
    is_torn = differs_within(pc.fill_null(sides, ""), sequence_starts(seq_ids))
    if is_torn.any():
        torn = pc.unique(seq_ids.filter(pa.array(is_torn))).to_pylist()
        raise CatalogError(
            f"{len(torn)} sequences would be torn between splits, such as {torn[0]!r}: give all "
            "frames of a sequence one split, season and site"
        )
