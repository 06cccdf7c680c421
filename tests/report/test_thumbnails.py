"""Thumbnails: within the room of a page, and no reason to give up when one cannot be read."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import simplejpeg

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.report import thumbnails
from serengeti_etl.report.figures import count_figures
from serengeti_etl.report.samples import Photograph
from serengeti_etl.report.thumbnails import Sheet, Thumbnail, describe, fill_album
from serengeti_etl.storage import Store
from tests.report_factory import HOSTILE, captures_of, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Of 60 sequences."""
    return make_dataset(str(tmp_path / "dataset"), captures_of(60))


@pytest.fixture
def sheets(dataset: Dataset) -> list[Sheet]:
    """One of each category."""
    found = count_figures(dataset).by_category
    return [
        Sheet(name=name, note="", photographs=some, caption=describe)
        for name, some in found.items()
    ]


def test_every_photograph_is_shown_where_there_is_room(
    dataset: Dataset, sheets: list[Sheet]
) -> None:
    """Each is the JPEG of the index, made small, and says what it is."""
    album = fill_album(dataset.store, sheets, 10**9)
    assert album.num_left_out == 0
    assert album.problems == ()
    for sheet, shown in zip(sheets, album.sheets, strict=True):
        assert len(shown.thumbs) == len(sheet.photographs)
        for one, thumb in zip(sheet.photographs, shown.thumbs, strict=True):
            jpeg = base64.b64decode(thumb.uri.removeprefix("data:image/jpeg;base64,"))
            height, width, _ = simplejpeg.decode_jpeg(jpeg).shape
            assert (width, height) == (thumb.width, thumb.height)
            assert sheet.name in thumb.alt
            assert one.site in thumb.alt


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_what_has_no_room_is_left_out_and_counted(
    dataset: Dataset, sheets: list[Sheet], share: float
) -> None:
    """The first of every sheet come before the second of any; none is lost from the count."""
    everything = fill_album(dataset.store, sheets, 10**9)
    total = sum(thumb.num_bytes for sheet in everything.sheets for thumb in sheet.thumbs)
    room = int(total * share)
    album = fill_album(dataset.store, sheets, room)
    shown = [len(sheet.thumbs) for sheet in album.sheets]
    assert sum(thumb.num_bytes for sheet in album.sheets for thumb in sheet.thumbs) <= room
    assert sum(shown) + album.num_left_out == sum(len(sheet.photographs) for sheet in sheets)
    assert max(shown) - min(shown) <= 1 or share == 0.9
    assert album.num_left_out > 0


def test_a_damaged_photograph_is_said_and_passed_over(
    dataset: Dataset, sheets: list[Sheet]
) -> None:
    """Its neighbours are shown all the same."""
    broken: Photograph = replace(sheets[1].photographs[0], num_bytes=200)
    sheets[1] = replace(sheets[1], photographs=(broken, *sheets[1].photographs[1:]))
    album = fill_album(dataset.store, sheets, 10**9)
    assert len(album.problems) == 1
    assert broken.image_id in album.problems[0]
    assert "truncated" in album.problems[0]
    assert len(album.sheets[1].thumbs) == len(sheets[1].photographs) - 1


def test_a_store_that_is_away_is_asked_a_few_times_only(
    dataset: Dataset, sheets: list[Sheet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some faults the rest is left out and counted."""
    asked = []

    def refuse(_store: Store, name: str, *_: object) -> bytes:
        asked.append(name)
        raise OSError("it is away")

    monkeypatch.setattr(Store, "read_range", refuse)
    album = fill_album(dataset.store, sheets * 20, 10**9)
    num_wanted = 20 * sum(len(sheet.photographs) for sheet in sheets)
    assert len(asked) < 30 < num_wanted
    assert "again and again" in album.problems[-1]
    assert album.num_left_out > num_wanted - 30


def test_words_around_a_picture_count_too() -> None:
    """What has to be escaped takes as much room as it will in the page."""
    plain = Thumbnail(uri="data:,", width=1, height=1, alt="a" * 60, caption="")
    hostile = replace(plain, alt="<" * 60)
    assert hostile.num_bytes >= plain.num_bytes + 180
    assert len(thumbnails._cut(HOSTILE * 9)) <= 120
