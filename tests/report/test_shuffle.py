"""Shuffle quality: the loader's own order, and what a true shuffle would come to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.report.figures import count_figures
from serengeti_etl.report.shuffle import MIN_IMAGES, WINDOW, _expected, shuffle_quality
from tests.report_factory import captures_of, make_dataset


def test_the_order_is_that_of_the_loader(tmp_path: Path) -> None:
    """Distinct sites of batches that a loader truly hands out."""
    captures = [
        replace(one, site=f"{one.split}-{at % 90}") for at, one in enumerate(captures_of(200))
    ]
    dataset = make_dataset(str(tmp_path / "dataset"), captures, per_shard=25)
    train = count_figures(dataset).train
    assert train is not None
    found = shuffle_quality(dataset, train)
    assert found is not None
    assert LoaderSettings().window == WINDOW
    site_of = dict(
        zip(
            *(dataset.index("train")[name].to_pylist() for name in ("image_id", "site")),
            strict=True,
        )
    )
    settings = LoaderSettings(image_size=(32, 32), num_threads=1)
    with ShardLoader(
        dataset, split="train", batch_size=found.batch_size, settings=settings
    ) as loader:
        distinct = [len({site_of[name] for name in batch.image_ids}) for batch in loader]
    assert len(distinct) == found.num_batches
    assert found.loader == pytest.approx(np.mean(distinct))
    assert 0.8 < found.share < 1.2


def test_what_is_expected_is_what_drawing_gives() -> None:
    """The mean of many batches drawn without replacement."""
    counts = np.array([50, 3, 1, 20, 0, 126])
    sites = np.repeat(np.arange(6), counts)
    rng = np.random.default_rng(0)
    drawn = [len(np.unique(rng.choice(sites, 30, replace=False))) for _ in range(4000)]
    assert _expected(counts, 30) == pytest.approx(np.mean(drawn), abs=0.03)
    assert _expected(counts, 200) == pytest.approx(5)
    assert _expected(counts, 1) == pytest.approx(1)


def test_very_few_images_have_no_shuffle(tmp_path: Path) -> None:
    """Of less than a batch or two nothing is said."""
    dataset = make_dataset(str(tmp_path / "dataset"), captures_of(20))
    train = count_figures(dataset).train
    assert train is not None
    assert len(train.sites_N) < MIN_IMAGES
    assert shuffle_quality(dataset, train) is None
