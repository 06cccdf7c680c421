"""That something is learned: better than class means at sites never seen, and not from noise."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, ShardSettings
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.load.batch import Batch
from serengeti_etl.sample import SampleSettings, draw_season
from serengeti_etl.train import loop
from serengeti_etl.train.feed import on_device
from serengeti_etl.train.loop import train
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import TrainResult, TrainSettings
from tests.conftest import season_pipeline

RECIPE = Recipe(
    model="resnet18",
    stages=(
        Stage(
            name="small",
            epochs=6,
            image_size=(48, 64),
            batch_size=16,
            learning_rate=1e-3,
            backbone_rate=1.0,
        ),
    ),
)
"""Random weights at 64 px: 22 s of CPU for six epochs."""

MARGIN = 0.8
"""Share of the class means' score that the model must stay below."""


def shuffled_targets(dataset: Dataset) -> dict[str, torch.Tensor]:
    """For each training sequence the targets of another one, of some site."""
    rows = dataset.index("train").to_pylist()
    names = sorted({row["seq_id"] for row in rows})
    dealt = random.Random(1).sample(names, len(names))  # noqa: S311 - no secret
    labels_of = {row["seq_id"]: row["labels"] for row in rows}
    targets = {}
    for name, other in zip(names, dealt, strict=True):
        targets[name] = torch.zeros(len(dataset.classes))
        for label in labels_of[other]:
            targets[name][dataset.class_index[label]] = 1
    return targets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a drawn season whose training and validation sites are others."""
    folder = tmp_path_factory.mktemp("season")
    draw_season(folder, SampleSettings(width=256, height=192, num_sequences=120, num_sites=12))
    output = str(tmp_path_factory.mktemp("dataset"))
    pipeline = replace(
        season_pipeline(str(folder)),
        resize=ResizeSettings(size="96"),
        shards=ShardSettings(max_samples=32),
    )
    convert_season(pipeline, SerialRunner(), output)
    sites = [
        set(open_dataset(output).index(split)["site"].to_pylist()) for split in ("train", "val")
    ]
    assert not sites[0] & sites[1]
    return output


def share_of_class_means(result: TrainResult) -> float:
    """Last score as a share of the class means' score; below 1 is better than they."""
    assert result.score is not None
    assert result.class_means_score is not None
    return result.score / result.class_means_score


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_learns_and_a_control_does_not(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At held-out sites it beats class means by the margin; with shuffled labels not at all."""
    settings = TrainSettings(device="cpu", num_threads=1)
    learned = share_of_class_means(train(dataset, str(tmp_path / "run"), RECIPE, settings=settings))
    targets = shuffled_targets(open_dataset(dataset))

    def misled(batches: Iterable[Batch], *where: Any) -> Iterator[Batch]:
        for batch in on_device(batches, *where):
            # Validation keeps its own targets.
            dealt = [targets.get(name) for name in batch.seq_ids]
            known = [one for one in dealt if one is not None]
            targets_BC = torch.stack(known) if known else batch.targets_BC
            yield replace(batch, targets_BC=targets_BC)

    monkeypatch.setattr(loop, "on_device", misled)
    control = share_of_class_means(train(dataset, str(tmp_path / "no"), RECIPE, settings=settings))
    assert learned < MARGIN
    assert control > 1
