"""The files in ``pipelines/`` load, and say what the documentation says of them."""

from pathlib import Path

import pytest

from serengeti_etl.cli.options import load_cluster, load_pipeline
from serengeti_etl.config import ClusterSpec, SeasonPipeline
from serengeti_etl.demo import demo_pipeline

FOLDER = Path(__file__).parents[1] / "pipelines"
SEASONS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("train_"))


@pytest.mark.parametrize("path", SEASONS, ids=lambda path: path.stem)
def test_every_season_loads(path: Path) -> None:
    """Each season's file defines a pipeline whose settings are possible."""
    pipeline = load_pipeline(path, source="elsewhere", limit=3)
    assert isinstance(pipeline, SeasonPipeline)
    assert (pipeline.source, pipeline.max_sequences) == ("elsewhere", 3)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("clusters/*.py")), ids=lambda path: path.stem)
def test_every_cluster_loads(path: Path) -> None:
    """Each cluster's file defines a spec."""
    assert isinstance(load_cluster(str(path)), ClusterSpec)


def test_the_sample_pipeline_is_the_demo_s() -> None:
    """``pipelines/sample.py`` continues what the demo left: same settings, same bytes."""
    sample = load_pipeline(FOLDER / "sample.py", source=None, limit=None)
    assert sample == demo_pipeline("serengeti-demo/season")
