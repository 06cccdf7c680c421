"""Train and val: whole sites (and so whole sequences) on one side."""

from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.config import FractionSplit, SiteListSplit
from serengeti_etl.errors import CatalogError, ConfigError
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


def split_catalog(
    catalog: pa.Table, split: SiteListSplit | FractionSplit, source: Store
) -> pa.ChunkedArray:
    """The split of each catalog row: ``train``, ``val``, or null where its site is in neither.

    Args:
        catalog: rows of ``CATALOG_SCHEMA``.
        split: how to divide.
        source: where a site list is read from.

    Raises:
        ConfigError: a split would be empty, or the label file names no sites.
        CatalogError: the site list cannot be read.
    """
    if isinstance(split, SiteListSplit):
        column, sides = "site", _listed_sites(source, split.url)
    else:
        column = "site" if split.by == "site" else "seq_id"
        sides = _fraction(catalog, column, split)
    names = pa.array(list(sides), pa.string())
    positions = pc.index_in(catalog[column], value_set=names)
    found = pc.take(pa.array(list(sides.values()), pa.string()), positions)
    _refuse_empty(found)
    return found


def _listed_sites(source: Store, url: str) -> dict[str, str]:
    try:
        splits = source.at(url).read_json("")["splits"]
        train, val = list(splits[TRAIN]), list(splits[VAL])
    except FileNotFoundError:
        raise CatalogError(f"there is no site list {source.at(url).url}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogError(
            f'{url} must hold {{"splits": {{"train": [sites], "val": [sites]}}}}: {error!r}'
        ) from error
    both = sorted(set(train) & set(val))
    if both:
        raise CatalogError(f"{url} puts site {both[0]!r} into train and into val")
    return dict.fromkeys(train, TRAIN) | dict.fromkeys(val, VAL)


def _fraction(catalog: pa.Table, column: str, split: FractionSplit) -> dict[str, str]:
    groups = pc.unique(catalog[column]).to_pylist()
    if column == "site" and "" in groups:
        raise ConfigError(
            "the label file does not name the site of every image, so sites cannot be kept apart: "
            'use FractionSplit(by="sequence") if images of one camera may be on both sides'
        )
    groups.sort(key=lambda name: (keyed_digest(name, purpose="split", seed=split.seed), name))
    num_val = max(1, round(split.val_fraction * len(groups)))
    return {name: VAL if at < num_val else TRAIN for at, name in enumerate(groups)}


def _refuse_empty(found: pa.ChunkedArray) -> None:
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(found).to_pylist()}
    for side in (TRAIN, VAL):
        if not counts.get(side):
            raise ConfigError(
                f"split {side!r} would hold no images: give it sites that occur, or another "
                "fraction or seed"
            )
