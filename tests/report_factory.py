"""Datasets and evaluated runs of one's own making, for tests of reports."""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from serengeti_etl.dataset.index import (
    REJECT_SCHEMA,
    Dataset,
    DatasetIndex,
    ShardInfo,
    compact_index,
    rejects_name,
    write_table,
)
from serengeti_etl.evaluate.captures import PredictedSplit, read_captures
from serengeti_etl.evaluate.files import EVALUATION_FILE, IMAGES_FILE, SEQUENCES_FILE
from serengeti_etl.evaluate.judge import Evaluation, Model, judge
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.storage import Store
from serengeti_etl.train.predictions import Predictions
from serengeti_etl.train.sequences import aggregate_sequences
from tests import dataset_factory

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
CLASSES = ("empty", "gazellegrants", "gazellethomsons", "zebra")


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """One sequence.

    Attributes:
        split: it is in.
        site: where.
        labels: of each of its frames.
        moment: of all of them.
        season: of the survey.
    """

    split: str
    site: str
    labels: Sequence[Sequence[str]]
    moment: dt.datetime | None = None
    season: str = "S1"


def captures_of(num: int, seed: int = 0) -> list[Capture]:
    """Sequences of one to three frames by chance; three of ten in val, at sites of their own."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num):
        split = "val" if number % 10 < 3 else "train"
        label = str(rng.choice(CLASSES, p=(0.4, 0.2, 0.2, 0.2)))
        frames = [[label]] * int(rng.integers(1, 4))
        if label == "zebra" and len(frames) > 1:
            frames = [["zebra", "gazellegrants"], *[["zebra"]] * (len(frames) - 1)]
        elif label == "gazellethomsons" and len(frames) > 1:
            frames[-1] = ["empty"]  # it has gone
        hour = int(rng.integers(0, 24))
        day = int(rng.integers(1, 28))
        moment = None if number % 17 == 0 else dt.datetime(2011, 5, day, hour, 30)  # noqa: DTZ001 - as cameras have it
        site = f"{split}-{rng.integers(0, 3 if split == 'val' else 7)}"
        season = "S1" if number % 4 else "S2"
        found.append(Capture(split=split, site=site, labels=frames, moment=moment, season=season))
    return found


def make_dataset(
    url: str,
    captures: Sequence[Capture],
    *,
    per_shard: int = 40,
    rejects: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Dataset:
    """A finished dataset of these sequences at ``url``; ``more`` is for ``DatasetIndex``."""
    store, shards = Store(url=url), []
    for split in ("train", "val"):
        rows = _rows(split, captures)
        for number, first in enumerate(range(0, len(rows), per_shard)):
            name = f"{split}-{number:06d}"
            shards.append(_shard(store, split, name, rows[first : first + per_shard]))
    if rejects:
        shards[0] = _with_rejects(store, shards[0], rejects)
    compact_index(store, shards)
    num_images = sum(shard.num_samples for shard in shards)
    ledger: dict[str, Any] = {"num_images": num_images, "num_in_shards": num_images}
    ledger |= {"rejected": {}, "excluded": {}, "duplicates": {}}
    values: dict[str, Any] = {
        "name": "made",
        "classes": CLASSES,
        "ledger": ledger,
        "settings": {},
        "versions": {"encoder": "none"},
        "plan_hash": hashlib.sha256(url.encode()).hexdigest(),
    }
    DatasetIndex(shards=tuple(shards), **(values | more)).write(store)
    return Dataset(store)


def _rows(split: str, captures: Sequence[Capture]) -> list[dict[str, Any]]:
    rows = []
    for number, one in enumerate(captures):
        if one.split != split:
            continue
        for frame, labels in enumerate(one.labels):
            rows.append({
                "image_id": f"{split}/{number:04d}-{frame}",
                "seq_id": f"{split}#{number}",
                "frame_num": frame + 1,
                "site": one.site,
                "season": one.season,
                "datetime": one.moment,
                "labels": list(labels),
                "split": split,
            })  # fmt: skip
    return rows


def _shard(store: Store, split: str, name: str, rows: list[dict[str, Any]]) -> ShardInfo:
    for row in rows:
        row["shard"] = name
    recipe = dataset_factory.Recipe()
    return dataset_factory._write_shard(store, recipe, (split, name), rows)


def _with_rejects(
    store: Store, shard: ShardInfo, rejects: Sequence[Mapping[str, Any]]
) -> ShardInfo:
    fixed = {"seq_id": "s", "season": "S1", "shard": shard.name, "state": "rejected"}
    fixed |= {"stage": "resize", "message": "it is broken"}
    rows = [fixed | {"image_id": f"r{at}"} | dict(one) for at, one in enumerate(rejects)]
    write_table(store, rejects_name(shard.name), pa.Table.from_pylist(rows, schema=REJECT_SCHEMA))
    return dataclasses.replace(shard, num_rejected=len(rows))


def evaluate(run: str, dataset: Dataset, *, strength: float = 2.0, seed: int = 0) -> Evaluation:
    """What ``evaluate`` leaves in ``run`` of a model that tells the classes with noise."""
    table = dataset.index("val")
    rng = np.random.default_rng(seed)
    shown = [[name in labels for name in dataset.classes] for labels in table["labels"].to_pylist()]
    targets_NC = np.array(shown, dtype=np.float64)
    logits_NC = strength * (targets_NC - 0.5) + rng.normal(size=targets_NC.shape) - 1
    images = Predictions(
        names=tuple(table["image_id"].to_pylist()),
        seq_ids=tuple(table["seq_id"].to_pylist()),
        targets_NC=targets_NC,
        probabilities_NC=1 / (1 + np.exp(-logits_NC)),
    )
    captures = read_captures(dataset, "val", images.names)
    split = PredictedSplit(split="val", images=images, captures=captures)
    model = Model(classes=dataset.classes, means_C=np.full(len(dataset.classes), 0.2))
    made = judge(split, split, model, EvaluationSettings(num_resamples=50))
    store = Store(url=run)
    write_table(store, IMAGES_FILE, _table(images, dataset.classes, {"image_id": images.names}))
    sequences = aggregate_sequences(images, model.empty)
    write_table(store, SEQUENCES_FILE, _table(sequences, dataset.classes, {}))
    on = {"dataset": dataset.store.url, "plan_hash": dataset.plan_hash}
    store.write_json(EVALUATION_FILE, dataclasses.asdict(made) | on)
    return made


def _table(
    predictions: Predictions, classes: Sequence[str], ids: Mapping[str, Sequence[str]]
) -> pa.Table:
    columns: dict[str, Any] = {name: list(values) for name, values in ids.items()}
    columns["seq_id"] = list(predictions.seq_ids)
    for at, name in enumerate(classes):
        columns[name] = np.ascontiguousarray(predictions.probabilities_NC[:, at])
    return pa.table(columns)
