"""A drawn dataset of Snapshot Serengeti's size: dataset.json and index.parquet, no photographs."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import INDEX_SCHEMA, DatasetIndex, ShardInfo, write_index
from serengeti_etl.sample import PUBLISHED_CATEGORIES
from serengeti_etl.storage import Store

NUM_IMAGES, NUM_SHARDS, NUM_SITES, NUM_SEASONS = 7_178_440, 10_000, 225, 11
FRAME_SHARES = (0.12, 0.06, 0.82)
"""Shares of sequences with one, two and three frames: 2.7 on average."""
EMPTY_SHARE, NEXT_SHARE, TWO_SPECIES_SHARE = 0.75, 0.8, 0.01
"""Blank sequences; each category's frequency, of the one before it: 35 of 53 are below 0.1 %."""
SITE_SPREAD = 0.8
"""Of the logarithm of how much a camera sees."""
JPEG_BYTES, TAR_OVERHEAD = 60_000, 1_800
CLASSES = tuple(name for name in PUBLISHED_CATEGORIES if name != "human")[:54]

Int = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What is drawn of each image, in the order of the shards.

    Attributes:
        season_N: number of the season, from 0.
        site_N: number of the site, from 0.
        sequence_N: number of the sequence within season and site, from 0.
        frame_N: number of the frame within its sequence, from 0.
        picture_N: number of the picture within season and site, from 0.
        kind_N: position in ``CLASSES`` of what is shown.
        second_N: position of a second species; -1 for none.
        shard_N: number of the shard.
    """

    season_N: Int
    site_N: Int
    sequence_N: Int
    frame_N: Int
    picture_N: Int
    kind_N: Int
    second_N: Int
    shard_N: Int


def draw_index(folder: Path, num_images: int = NUM_IMAGES) -> str:
    """The url of a dataset of that many images in train, drawn once into ``folder``."""
    target = folder / f"index-{num_images}"
    if not (target / "dataset.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        num_shards = max(1, round(num_images * NUM_SHARDS / NUM_IMAGES))
        generator = np.random.default_rng(0)
        drawn = draw(generator, num_images, num_shards)
        _write(target, drawn, generator)
    return str(target)


def draw(generator: np.random.Generator, num_images: int, num_shards: int) -> Drawn:
    """Whole bursts of busy and quiet cameras, laid into shards in an order of chance."""
    frames_Q = generator.choice((1, 2, 3), p=FRAME_SHARES, size=num_images)
    frames_Q = frames_Q[: int(np.searchsorted(np.cumsum(frames_Q), num_images)) + 1]
    frames_Q[-1] -= int(frames_Q.sum()) - num_images
    num = len(frames_Q)
    weights = np.exp(generator.normal(0, SITE_SPREAD, NUM_SITES))
    site_Q = generator.choice(NUM_SITES, p=weights / weights.sum(), size=num)
    season_Q = generator.integers(0, NUM_SEASONS, num)
    # As cameras wrote them: season by season, site by site.
    order_Q = np.lexsort((site_Q, season_Q))
    site_Q, season_Q, frames_Q = site_Q[order_Q], season_Q[order_Q], frames_Q[order_Q]
    place_Q = season_Q * NUM_SITES + site_Q
    starts_Q = np.concatenate([[0], np.flatnonzero(np.diff(place_Q)) + 1])
    first_Q = np.repeat(starts_Q, np.diff(np.append(starts_Q, num)))
    ends_Q = np.cumsum(frames_Q)
    picture_Q = ends_Q - frames_Q - (ends_Q - frames_Q)[first_Q]
    kind_Q, second_Q = _kinds(generator, num)
    # As a plan lays them: sequences in a keyed order, one after the other.
    laid_Q = generator.permutation(num)
    of_N = np.repeat(laid_Q, frames_Q[laid_Q])
    laid_ends = np.cumsum(frames_Q[laid_Q])
    frame_N = np.arange(num_images) - np.repeat(laid_ends - frames_Q[laid_Q], frames_Q[laid_Q])
    shard_Q = (laid_ends - frames_Q[laid_Q]) * num_shards // num_images
    return Drawn(
        season_N=season_Q[of_N],
        site_N=site_Q[of_N],
        sequence_N=of_N - first_Q[of_N],
        frame_N=frame_N,
        picture_N=picture_Q[of_N] + frame_N,
        kind_N=kind_Q[of_N],
        second_N=second_Q[of_N],
        shard_N=np.repeat(shard_Q, frames_Q[laid_Q]),
    )


def _kinds(generator: np.random.Generator, num: int) -> tuple[Int, Int]:
    """What each sequence shows, and what else."""
    empty = CLASSES.index("empty")
    animals = np.array([at for at in range(len(CLASSES)) if at != empty])
    shares = NEXT_SHARE ** np.arange(len(animals))
    kinds = generator.choice(animals, p=shares / shares.sum(), size=num)
    kinds[generator.random(num) < EMPTY_SHARE] = empty
    second = generator.choice(animals, p=shares / shares.sum(), size=num)
    lone = (generator.random(num) >= TWO_SPECIES_SHARE) | (kinds == empty) | (second == kinds)
    second[lone] = -1
    return kinds, second


# --- As a dataset ---------------------------------------------------------------------------------


def _write(folder: Path, drawn: Drawn, generator: np.random.Generator) -> None:
    """index.parquet as a conversion writes it; dataset.json."""
    num = len(drawn.shard_N)
    sizes_N = generator.integers(JPEG_BYTES * 3 // 4, JPEG_BYTES * 5 // 4, num)
    bounds = np.searchsorted(drawn.shard_N, np.arange(drawn.shard_N[-1] + 2))
    shards: list[ShardInfo] = []

    def parts() -> Iterator[pa.Table]:
        for at, (start, end) in enumerate(pairwise(bounds.tolist())):
            part = slice(start, end)
            of_part = {
                field.name: getattr(drawn, field.name)[part] for field in dataclasses.fields(Drawn)
            }
            shards.append(_info(f"train-{at:06d}", sizes_N[part]))
            yield _table(Drawn(**of_part), shards[-1].name, sizes_N[part], generator)

    write_index(Store(url=str(folder)), parts())
    DatasetIndex(
        name="drawn",
        classes=CLASSES,
        shards=tuple(shards),
        ledger={},
        settings={},
        versions={},
        plan_hash=hashlib.sha256(b"drawn").hexdigest(),
    ).write(Store(url=str(folder)))


def _info(name: str, sizes_N: Int) -> ShardInfo:
    return ShardInfo(
        name=name,
        split="train",
        num_samples=len(sizes_N),
        num_bytes=int(sizes_N.sum()) + TAR_OVERHEAD * len(sizes_N),
        num_rejected=0,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        fingerprint=hashlib.blake2b(name.encode(), digest_size=32).hexdigest(),
    )


_SITES = pa.array([f"{chr(66 + at // 13)}{at % 13:02d}" for at in range(NUM_SITES)])
_SEASONS = pa.array([f"S{at + 1}" for at in range(NUM_SEASONS)])


def _table(drawn: Drawn, shard: str, sizes_N: Int, generator: np.random.Generator) -> pa.Table:
    """The rows of one shard, with published ids: S1/B04/B04_R1/S1_B04_R1_PICT0001."""
    num = len(sizes_N)
    season, site = _SEASONS.take(pa.array(drawn.season_N)), _SITES.take(pa.array(drawn.site_N))
    roll = _text(drawn.picture_N // 9999 + 1)
    picture = pc.utf8_lpad(_text(drawn.picture_N % 9999 + 1), 4, "0")
    folder = _joined([season, "/", site, "/", site, "_R", roll, "/"])
    ids = _joined([folder, season, "_", site, "_R", roll, "_PICT", picture])
    columns: dict[str, Any] = {
        "image_id": ids,
        "seq_id": _joined(["SER_", season, "#", site, "#", roll, "#", _text(drawn.sequence_N + 1)]),
        "frame_num": drawn.frame_N + 1,
        "site": site,
        "season": season,
        "datetime": 1_300_000_000_000 + drawn.picture_N * 60_000,
        "labels": _labels(drawn),
        "split": pa.repeat("train", num),
        "shard": pa.repeat(shard, num),
        "offset": _offsets(sizes_N),
        "num_bytes": sizes_N,
        "sha256": [generator.bytes(32).hex() for _ in range(num)],
    }
    sides = {"width": 512, "height": 384, "source_width": 2048, "source_height": 1536}
    columns |= {name: np.full(num, side) for name, side in sides.items()}
    columns["source_num_bytes"] = sizes_N * 11
    arrays = [pa.array(columns[field.name]).cast(field.type, safe=False) for field in INDEX_SCHEMA]
    return pa.table(arrays, schema=INDEX_SCHEMA)


def _text(numbers: Int) -> Any:
    return pc.cast(pa.array(numbers), pa.string())


def _joined(parts: list[Any]) -> Any:
    return pc.binary_join_element_wise(*parts, "")


def _labels(drawn: Drawn) -> pa.Array:
    """One category for each image, or two."""
    codes = np.stack([drawn.kind_N, drawn.second_N], axis=1)
    kept = codes >= 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    names = pa.array(CLASSES).take(pa.array(codes[kept]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)


def _offsets(sizes_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of photographs in a tar: each behind a header, and before a small JSON with its own."""
    padded_N = -(-sizes_N // 512) * 512
    ends_N = np.cumsum(padded_N + 3 * 512)
    return (ends_N - padded_N - 2 * 512).astype(np.int64)
