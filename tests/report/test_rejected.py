"""Rejected photographs: what is left of them, and why some are not shown."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert import resize
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import ImageError
from serengeti_etl.report.rejected import read_rejected
from serengeti_etl.report.thumbnails import SMALL
from tests.report_factory import captures_of, make_dataset


@pytest.fixture(scope="module")
def dataset(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Of the drawn season, with its rejects."""
    url = str(tmp_path_factory.mktemp("rejected") / "dataset")
    convert_season(pipeline, SerialRunner(), url)
    return open_dataset(url)


def test_what_is_left_of_a_truncated_photograph_is_shown(
    dataset: Dataset, pipeline: SeasonPipeline
) -> None:
    """Counts are those of the ledger; a photograph cut short has a picture, no file has none."""
    found = read_rejected(dataset, pipeline)
    assert {one.name: one.num_images for one in found.reasons} == dataset.info.ledger["rejected"]
    assert sum(found.by_site.values()) == sum(dataset.info.ledger["rejected"].values())
    shown = {one.name: len(one.thumbs) for one in found.reasons}
    assert shown["truncated"] == 1
    assert shown["missing"] == shown["empty_file"] == 0
    assert found.note == ""
    assert all(one.examples for one in found.reasons)


def test_without_a_pipeline_it_says_how_to_see_them(dataset: Dataset) -> None:
    """A dataset does not know where its photographs came from."""
    found = read_rejected(dataset, None)
    assert "--pipeline" in found.note
    assert not any(one.thumbs for one in found.reasons)


def test_archives_are_left_closed(dataset: Dataset, pipeline: SeasonPipeline) -> None:
    """To list one takes too long for a report."""
    found = read_rejected(dataset, replace(pipeline, images="images.zip"))
    assert "archives" in found.note


def test_a_source_that_is_away_is_a_note(
    dataset: Dataset, pipeline: SeasonPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error; the reasons are told as ever."""
    from serengeti_etl.convert import fetch

    def refuse(*_: object) -> bytes:
        raise OSError("it is away")

    monkeypatch.setattr(fetch, "_content", refuse)
    found = read_rejected(dataset, pipeline)
    assert "it is away" in found.note
    assert len(found.reasons) == 3


def test_a_photograph_that_killed_a_worker_is_not_touched(
    tmp_path: Path, pipeline: SeasonPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only reasons that leave something to see are tried again."""
    rejects = [{"site": "a", "file_name": "bad.jpg", "reason": "killed"}]
    made = make_dataset(str(tmp_path / "dataset"), captures_of(20), rejects=rejects)
    monkeypatch.setattr("serengeti_etl.report.rejected.fetch_in_order", None)
    found = read_rejected(made, pipeline)
    assert [(one.name, one.num_images) for one in found.reasons] == [("killed", 1)]


def test_a_preview_shows_half_a_photograph_and_obeys_the_limits(
    shared_data: Path, tmp_path: Path
) -> None:
    """Truncated and corrupt files give what they have; bombs and no pictures stay refused."""
    cut = shared_data / "odd" / "truncated" / "serengeti_truncated_at_600000.jpg"
    shutil.copy(cut, tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    with pytest.raises(ImageError, match="truncated"):
        resize.resize_jpeg(content, SMALL)
    shown = resize.preview_jpeg(content, SMALL)
    assert max(shown.width, shown.height) == SMALL.side
    with pytest.raises(ImageError, match="not_an_image"):
        resize.preview_jpeg(b"no picture at all, only words", SMALL)
    with pytest.raises(ImageError, match="too_many_pixels"):
        resize.preview_jpeg(content, replace(SMALL, max_pixels=1000))
