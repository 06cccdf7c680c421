"""The drawn season: same seed same bytes, files as cameras write them, labels as published."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serengeti_etl.errors import ConfigError
from serengeti_etl.sample import CATEGORIES, SampleSettings, draw_season, plan_season

SMALL = SampleSettings(num_sites=4, num_sequences=14, width=512, height=384, seed=3)
TINY = SampleSettings(num_sites=2, num_sequences=10, width=128, height=96)
EXIF_DETAIL = 0x8769


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small season drawn by one process."""
    folder = tmp_path_factory.mktemp("season")
    assert draw_season(folder, SMALL, num_processes=1) == folder / "labels.json"
    return folder


@pytest.fixture(scope="module")
def labels(season: Path) -> dict[str, Any]:
    """Its label file."""
    content: dict[str, Any] = json.loads((season / "labels.json").read_text())
    return content


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below the folder by its relative path."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def photographs(season: Path, labels: dict[str, Any]) -> list[Path]:
    """The files of the season that open and decode as JPEG."""
    good = []
    for row in labels["images"]:
        path = season / "images" / row["file_name"]
        if reason_of(path) == "good":
            good.append(path)
    return good


def reason_of(path: Path) -> str:
    """Why this file is no whole JPEG, or ``good``."""
    if not path.exists():
        return "missing"
    if path.stat().st_size == 0:
        return "no bytes"
    try:
        with Image.open(path) as photo:
            photo.load()
            return "good" if photo.format == "JPEG" else str(photo.format)
    except OSError:
        return "truncated"


def frame_header(jpeg: bytes) -> bytes:
    """The JPEG's start-of-frame segment from its marker on, found by walking the segments."""
    position = 2
    while jpeg[position + 1] not in range(0xC0, 0xC4):
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return jpeg[position : position + 19]


def test_same_seed_gives_the_same_bytes_with_one_and_with_two_processes(
    season: Path, tmp_path: Path
) -> None:
    """Every file is equal, however many processes drew it."""
    draw_season(tmp_path, SMALL, num_processes=2)
    assert files_of(tmp_path) == files_of(season)


def test_another_seed_gives_other_bytes(season: Path, tmp_path: Path) -> None:
    """No photograph and no label file is equal to the other season's."""
    draw_season(tmp_path, replace(SMALL, seed=4), num_processes=1)
    mine, theirs = files_of(season), files_of(tmp_path)
    assert not {body for body in mine.values() if body} & {body for body in theirs.values() if body}


def test_photographs_are_baseline_jpegs_with_half_the_colour_across(
    season: Path, labels: dict[str, Any]
) -> None:
    """Start of frame says baseline, the size asked for, and 2x1, 1x1, 1x1 sampling."""
    for path in photographs(season, labels):
        header = frame_header(path.read_bytes())
        assert header[1] == 0xC0
        assert int.from_bytes(header[5:7], "big") == 384
        assert int.from_bytes(header[7:9], "big") == 512
        assert [header[11], header[14], header[17]] == [0x21, 0x11, 0x11]


def test_exif_tells_camera_and_time(season: Path, labels: dict[str, Any]) -> None:
    """Make, model and both dates are there, and within seconds of the label file's time."""
    rows = {season / "images" / row["file_name"]: row for row in labels["images"]}
    for path in photographs(season, labels):
        with Image.open(path) as photo:
            exif = photo.getexif()
        assert exif[0x010F] in {"DLC", "BolyMedia"}
        assert exif[0x0110]
        assert exif[0x0132] == exif.get_ifd(EXIF_DETAIL)[0x9003]
        if rows[path]["datetime"] != "unknown":
            taken = datetime.strptime(exif[0x0132], "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007
            said = datetime.fromisoformat(rows[path]["datetime"])
            assert 0 <= (taken - said).total_seconds() <= 2


def test_rows_have_the_published_keys_in_the_published_order(labels: dict[str, Any]) -> None:
    """Images and annotations carry the fields of LILA v2.1, in its order."""
    assert list(labels) == ["info", "categories", "images", "annotations"]
    image_keys = (
        "id file_name frame_num seq_id width height corrupt location seq_num_frames datetime"
    )
    keys = (
        "sequence_level_annotation id category_id seq_id season datetime subject_id count standing"
        " resting moving interacting young_present image_id location"
    )
    assert {tuple(row) for row in labels["images"]} == {tuple(image_keys.split())}
    assert {tuple(row) for row in labels["annotations"]} == {tuple(keys.split())}
    assert [row["id"] for row in labels["categories"]] == list(range(61))
    assert labels["info"]["version"] == "2.1"


def test_label_file_is_indented_by_one_and_holds_bare_nan(
    season: Path, labels: dict[str, Any]
) -> None:
    """Strict parsers meet what they meet in the real file."""
    text = (season / "labels.json").read_text()
    assert text.startswith('{\n "info": {\n  "version"')
    assert '"count": NaN' in text
    names = {row["id"]: row["name"] for row in labels["categories"]}
    for row in labels["annotations"]:
        blank = names[row["category_id"]] in {"empty", "human"}
        assert (isinstance(row["count"], float) and math.isnan(row["count"])) == blank


def test_images_show_the_published_oddities(labels: dict[str, Any]) -> None:
    """Unknown rows, both endings, brackets, a site named like a season, and S11's prefix."""
    images = labels["images"]
    unknown = [row for row in images if row["width"] == -1]
    assert unknown
    assert {(row["location"], row["datetime"], row["height"]) for row in unknown} == {
        ("unknown", "unknown", -1)
    }
    names = [row["file_name"] for row in images]
    assert {Path(name).suffix for name in names} == {".jpg", ".JPG"}
    assert sum(" (2)." in name for name in names) == 1
    assert any(row["seq_id"].startswith("SER_S1#S10#1#") for row in images)
    late = [row for row in images if row["id"].startswith("SER_S11/")]
    assert 0 < len(late) < len(images) / 2
    assert all(row["seq_id"].startswith("SER_S11#") for row in late)
    assert all(row["file_name"].startswith("S1/") for row in images if row not in late)
    assert len({row["id"] for row in images}) == len(images)


def test_annotations_show_the_published_oddities(labels: dict[str, Any]) -> None:
    """Counts are strings but once, subjects are strings in S1 and whole numbers in S11."""
    annotations = labels["annotations"]
    seasons = {(row["season"], type(row["subject_id"])) for row in annotations}
    assert seasons == {("S1", str), ("SER_S11", int)}
    counts = {row["seq_id"]: row["count"] for row in annotations}
    assert "11-50" in counts.values()
    assert [count for count in counts.values() if count == 2.0] == [2.0]
    assert any(count == "1" for count in counts.values())


def test_labels_are_per_sequence_and_some_have_two_or_none(labels: dict[str, Any]) -> None:
    """Each frame repeats its sequence's labels: two species at times, and one has no label."""
    by_image: dict[str, list[int]] = defaultdict(list)
    for row in labels["annotations"]:
        by_image[row["image_id"]].append(row["category_id"])
    by_sequence: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for row in labels["images"]:
        by_sequence[row["seq_id"]].add(tuple(by_image[row["id"]]))
    assert all(len(said) == 1 for said in by_sequence.values())
    assert Counter(len(next(iter(said))) for said in by_sequence.values()) == {0: 1, 1: 15, 2: 1}


def test_frames_count_from_one(labels: dict[str, Any]) -> None:
    """The frames of a sequence are numbered 1, 2, 3 and their number is said."""
    frames: dict[str, list[int]] = defaultdict(list)
    for row in labels["images"]:
        frames[row["seq_id"]].append(row["frame_num"])
        assert row["seq_num_frames"] in {-1, 1, 2, 3}
    assert all(found == list(range(1, len(found) + 1)) for found in frames.values())


def test_broken_files_are_as_promised(season: Path, labels: dict[str, Any]) -> None:
    """One truncated, one 0-byte, one PNG by another name; two humans and one more have no file."""
    reasons = {
        row["id"]: reason_of(season / "images" / row["file_name"]) for row in labels["images"]
    }
    found = Counter(reasons.values())
    found.pop("good")
    assert found == {"truncated": 1, "no bytes": 1, "PNG": 1, "missing": 3}
    human = [row["image_id"] for row in labels["annotations"] if row["category_id"] == 1]
    assert [reasons[image] for image in human] == ["missing", "missing"]
    broken = [row["seq_id"] for row in labels["images"] if reasons[row["id"]] != "good"]
    assert len(set(broken)) == len(broken)


def test_without_broken_every_listed_file_is_a_photograph(tmp_path: Path) -> None:
    """``with_broken=False`` leaves nothing to reject."""
    path = draw_season(tmp_path, replace(TINY, with_broken=False), num_processes=1)
    rows = json.loads(path.read_text())["images"]
    assert {reason_of(tmp_path / "images" / row["file_name"]) for row in rows} == {"good"}


def test_missing_files_are_missing_where_a_whole_season_lay_before(tmp_path: Path) -> None:
    """Drawing into a used folder removes what the new season lists but must not have."""
    draw_season(tmp_path, replace(TINY, with_broken=False), num_processes=1)
    path = draw_season(tmp_path, TINY, num_processes=1)
    rows = json.loads(path.read_text())["images"]
    reasons = [reason_of(tmp_path / "images" / row["file_name"]) for row in rows]
    assert reasons.count("missing") == 3


def test_default_season_shows_every_category_at_every_site_or_nearly() -> None:
    """Any three of the twelve sites hold nearly everything that the others taught."""
    for seed in range(5):
        sites = defaultdict(set)
        sequences = plan_season(SampleSettings(seed=seed))
        for sequence in sequences:
            for label in sequence.labels:
                sites[label].add(sequence.location)
        assert len(sequences) == 123
        assert 220 <= sum(sequence.num_frames for sequence in sequences) <= 270
        assert set(sites) == {*CATEGORIES, "human"}
        assert min(len(sites[name]) for name in CATEGORIES) >= 10


@pytest.mark.parametrize("seed", range(20))
def test_smallest_season_still_has_every_oddity(seed: int) -> None:
    """Ten sequences are enough for each oddity to be there once."""
    sequences = plan_season(SampleSettings(num_sites=10, num_sequences=10, seed=seed))
    quirks = Counter(sequence.quirk for sequence in sequences if sequence.labels != ("human",))
    del quirks[""]
    assert set(quirks.values()) == {1}
    assert len(quirks) == 10


def test_site_names_do_not_repeat() -> None:
    """The largest season has as many site names as sites."""
    sequences = plan_season(SampleSettings(num_sites=200, num_sequences=200))
    assert len({sequence.location for sequence in sequences}) == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_sites", 0), ("num_sequences", 9), ("width", 127), ("height", 1.5), ("seed", -1)],
)
def test_impossible_settings_are_refused_by_name(field: str, value: float) -> None:
    """The message says which field, what it got and what it may be."""
    with pytest.raises(ConfigError, match=rf"{field} is {value}, but it must be a whole number"):
        SampleSettings(**{field: value})  # type: ignore[arg-type]


def test_no_processes_are_refused(tmp_path: Path) -> None:
    """Nothing is written when nobody may draw."""
    with pytest.raises(ConfigError, match="num_processes is 0"):
        draw_season(tmp_path / "season", SMALL, num_processes=0)
    assert not (tmp_path / "season").exists()
