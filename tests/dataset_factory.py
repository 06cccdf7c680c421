"""Small valid datasets for tests, made through ``dataset.index`` alone, without converting."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from serengeti_etl.dataset.index import (
    INDEX_SCHEMA,
    Dataset,
    DatasetIndex,
    ShardInfo,
    compact_index,
    index_part_name,
    write_table,
)
from serengeti_etl.storage import Store

CLASSES = ("empty", "giraffe", "zebra")
COLOURS = {"empty": 0, "giraffe": 1, "zebra": 2}
LABELS = (["empty"], ["zebra"], ["empty"], ["giraffe"], ["giraffe", "zebra"], ["human"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What the dataset holds.

    Attributes:
        sizes: samples of each shard of each split.
        height: of every photograph in px.
        width: of every photograph in px.
        seed: another seed gives other pixels and another plan hash.
        banner: brightness of the last eight rows of every photograph; None for no banner.
    """

    sizes: Mapping[str, Sequence[int]] = field(
        default_factory=lambda: {"train": (7, 0, 6, 9, 5), "val": (4, 5)}
    )
    height: int = 48
    width: int = 64
    seed: int = 0
    banner: int | None = None


def make_dataset(url: str, recipe: Recipe | None = None, **options: Any) -> Dataset:
    """A finished dataset at ``url``."""
    recipe = recipe or Recipe()
    store = Store(url=url, options=options)
    shards = []
    for split, sizes in recipe.sizes.items():
        number = 0
        for index, size in enumerate(sizes):
            name = f"{split}-{index:06d}"
            rows = [_row(split, name, number + k) for k in range(size)]
            shards.append(_write_shard(store, recipe, (split, name), rows))
            number += size
    _finish(store, shards, f"{recipe.sizes} {recipe.height} {recipe.width} {recipe.seed}")
    return Dataset(store)


def dataset_of_rows(url: str, rows: Sequence[Mapping[str, Any]], **options: Any) -> Dataset:
    """A finished dataset at ``url`` of these rows, which name their shards.

    A row has what ``INDEX_SCHEMA`` wants; the photograph and where it lies are made here.
    """
    store = Store(url=url, options=options)
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(dict(row))
    shards = [
        _write_shard(store, Recipe(), (some[0]["split"], name), some)
        for name, some in by_shard.items()
    ]
    _finish(store, shards, repr(rows))
    return Dataset(store)


def _finish(store: Store, shards: Sequence[ShardInfo], plan: str) -> None:
    compact_index(store, shards)
    DatasetIndex(
        name="tiny",
        classes=CLASSES,
        shards=tuple(shards),
        ledger={},
        settings={},
        versions={},
        plan_hash=hashlib.sha256(plan.encode()).hexdigest(),
    ).write(store)


def jpeg_of(labels: Sequence[str], key: str, recipe: Recipe) -> bytes:
    """A photograph whose colour channels tell its labels, over noise that tells its key."""
    digest = hashlib.blake2b(f"{recipe.seed} {key}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    coarse = rng.integers(0, 90, (recipe.height // 8, recipe.width // 8, 3), dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
    for label in labels:
        if label in COLOURS:
            pixels[..., COLOURS[label]] += 120
    if recipe.banner is not None:
        pixels[-8:] = recipe.banner  # a row of JPEG's blocks, which nothing above depends on
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=90))


def _row(split: str, shard: str, number: int) -> dict[str, Any]:
    sequence, frame = divmod(number, 2)
    labels = LABELS[sequence % len(LABELS)]
    return {
        "image_id": f"S1/{split} cam/PICT{number:04d} (2)",
        "seq_id": f"{split}#{sequence}",
        "frame_num": frame + 1,
        "site": f"{split}-site",
        "season": "S1",
        "datetime": None,
        "labels": labels,
        "split": split,
        "shard": shard,
    }


def _write_shard(
    store: Store, recipe: Recipe, place: tuple[str, str], rows: list[dict[str, Any]]
) -> ShardInfo:
    split, name = place
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            jpeg = jpeg_of(row["labels"], row["image_id"], recipe)
            size = {"width": recipe.width, "height": recipe.height}
            row.update(size, num_bytes=len(jpeg), sha256=hashlib.sha256(jpeg).hexdigest())
            row.update(source_width=1, source_height=1, source_num_bytes=1)
            _add(tar, f"{row['image_id']}.jpg", jpeg)
            row["offset"] = buffer.tell() - (-(-len(jpeg) // 512) * 512)
            known = ("image_id", "seq_id", "frame_num", "site", "season", "labels")
            value = {key: row[key] for key in known} | size | {"datetime": None}
            _add(tar, f"{row['image_id']}.json", json.dumps(value).encode())
    content = buffer.getvalue()
    info = ShardInfo(
        name=name,
        split=split,
        num_samples=len(rows),
        num_bytes=len(content),
        num_rejected=0,
        sha256=hashlib.sha256(content).hexdigest(),
        fingerprint="0" * 64,
    )
    store.write(info.tar_name, content)
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    write_table(store, index_part_name(name), table, report=info)
    return info


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
