"""Camtrap DP becomes the catalog, is validated against its schemas, and is written."""

import json
import random
import re
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog import checks
from serengeti_etl.catalog.camtrap_dp.reader import read_camtrap_dp
from serengeti_etl.catalog.camtrap_dp.schema import validate_camtrap_dp
from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.writer import write_camtrap_dp
from serengeti_etl.catalog.checks import Finding
from serengeti_etl.catalog.database import Database
from serengeti_etl.catalog.join import join_rows, read_images
from serengeti_etl.catalog.rows import ANNOTATION_ROWS, IMAGE_ROWS, UNKNOWN, RowWriter
from serengeti_etl.catalog.table import BEHAVIOURS
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.storage import Store

PROFILE = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/camtrap-dp-profile.json"
BROKEN = "mica_parsing_issues/datapackage_for_parsing_issues.json"
BBOX = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What a package came to.

    Attributes:
        images: the catalog.
        annotations: the rows beside it.
        findings: what is odd, by name.
    """

    images: pa.Table
    annotations: pa.Table
    findings: dict[str, Finding]

    def image(self, image_id: str) -> dict[str, Any]:
        """The row of one image."""
        (row,) = self.images.filter(pc.field("image_id") == image_id).to_pylist()
        return dict(row)

    def labels(self) -> Counter[str]:
        """Number of images of each category."""
        return Counter(label for labels in self.images["labels"].to_pylist() for label in labels)


def joined(fill: Callable[[RowWriter], tuple[Finding, ...]]) -> Read:
    """The catalog of the rows that ``fill`` writes."""
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        with RowWriter(scratch) as rows:
            found = fill(rows)
        with Database(scratch) as database:
            join_rows(database, scratch, 60)
            odd = checks.find_all(database, ())
        annotations = pq.ParquetFile(scratch / "annotations.parquet").read(use_threads=False)
        return Read(
            images=read_images(scratch),
            annotations=annotations,
            findings={one.name: one for one in (*found, *odd)},
        )


def read(source: Path | str, name: str = "") -> Read:
    return joined(lambda rows: read_camtrap_dp(Store(url=str(source)), name, rows))


def texts(rows: list[dict[str, Any]]) -> str:
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\r\n").lstrip()


MEDIA = {
    "mediaID": "m1",
    "deploymentID": "d1",
    "timestamp": "2020-05-30T04:57:37+02:00",
    "filePath": "a/m1.jpg",
    "fileMediatype": "image/jpeg",
    "exifData": "",
}
OBSERVATION = {
    "observationID": "o1",
    "deploymentID": "d1",
    "mediaID": "m1",
    "eventID": "e1",
    "eventStart": "2020-05-30T02:57:37Z",
    "eventEnd": "2020-05-30T02:57:47Z",
    "observationLevel": "media",
    "observationType": "animal",
    "scientificName": "Vulpes vulpes",
    "count": "2",
    "observationTags": "",
}
EVENT = OBSERVATION | {"observationID": "o2", "mediaID": "", "observationLevel": "event"}
HEADER = f"{','.join(OBSERVATION)}\r\n"  # of a table without rows
DEPLOYMENT = {
    "deploymentID": "d1",
    "locationID": "loc1",
    "locationName": "",
    "deploymentGroups": "",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """The rows of a made package, to be changed and written.

    Attributes:
        deployments: rows of deployments.csv.
        media: rows of media.csv.
        observations: rows of observations.csv.
        description: of datapackage.json.
    """

    deployments: list[dict[str, Any]]
    media: list[dict[str, Any]]
    observations: list[dict[str, Any]]
    description: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """The folder, after the package was put there."""
        folder.mkdir(parents=True, exist_ok=True)
        for table in ("deployments", "media", "observations"):
            (folder / f"{table}.csv").write_text(texts(getattr(self, table)) or HEADER)
        (folder / "datapackage.json").write_text(json.dumps(self.description))
        return folder


def package(
    media: list[dict[str, Any]] | None = None,
    observations: list[dict[str, Any]] | None = None,
    deployments: list[dict[str, Any]] | None = None,
) -> Package:
    """A package of one medium and one observation, or of these rows."""
    return Package(
        deployments=[DEPLOYMENT] if deployments is None else deployments,
        media=[MEDIA] if media is None else media,
        observations=[OBSERVATION] if observations is None else observations,
        description={
            "profile": PROFILE,
            "resources": [
                {"name": table, "path": f"{table}.csv"}
                for table in ("deployments", "media", "observations")
            ],
        },
    )


@pytest.fixture
def camtrap_data(shared_data: Path) -> Path:
    return shared_data / "formats" / "camtrap_dp"


# Published packages.


def test_the_published_example(camtrap_data: Path) -> None:
    """All media with their labels, sites and seasons; media of one event share its seq_id."""
    found = read(camtrap_data, "example")
    assert found.images.num_rows == 423
    assert found.annotations.num_rows == 548  # of 549, one is unclassified
    assert found.findings == {}
    assert found.labels() == {
        "Anas platyrhynchos": 157,
        "empty": 112,
        "human": 33,
        "Ardea cinerea": 30,
        "Rattus norvegicus": 28,
        "Ardea": 20,
        "vehicle": 20,
        "Anas strepera": 16,
        "Aves": 11,
        "unknown": 11,
        "Martes foina": 10,
        "Mustela putorius": 9,
        "Vulpes vulpes": 6,
    }
    seen = pd.read_csv(camtrap_data / "example" / "observations.csv").dropna(subset="mediaID")
    events = dict(zip(seen["mediaID"], seen["eventID"], strict=True))
    rows = found.images.to_pylist()
    assert all(row["seq_id"] == events[row["image_id"]] for row in rows)
    assert Counter((row["site"], row["season"]) for row in rows) == {
        ("e254a13c", "spring"): 180,
        ("2df5259b", "summer"): 120,
        ("ff1535c0", "summer"): 63,
        ("ce943ced", "spring"): 60,
    }
    first = found.image("07840dcc")
    assert str(first["datetime"]) == "2020-05-30 04:57:37"  # as the camera showed it
    assert first["file_name"].startswith("https://multimedia.agouti.eu/assets/07840dcc")


def test_observations_keep_what_they_say(camtrap_data: Path) -> None:
    """Count, life stage, sex, behaviour and probability stand beside the labels."""
    rows = {
        row["annotation_id"]: row for row in read(camtrap_data, "example").annotations.to_pylist()
    }
    one = rows["401386c7_1"]
    names = ("image_id", "count", "life_stage", "sex", "behavior", "is_of_sequence")
    assert [one[name] for name in names] == [
        *("401386c7", "1", "adult", "female", "foraging"),
        False,
    ]
    assert rows["705e6036"]["image_id"] is None  # all of its frames have their own
    assert rows["705e6036"]["is_of_sequence"]
    assert {row["probability"] for row in rows.values()} >= {0.71, 0.9, None}


def test_a_small_package_with_a_video_and_an_empty_event(camtrap_data: Path) -> None:
    """A video is left out and counted, as are labels of it and of an event without media."""
    found = read(camtrap_data, "zamba_small")
    assert found.images["image_id"].to_pylist() == ["m1", "m2", "m3", "m4"]
    assert found.findings["not an image"].count == 1
    assert found.findings["not an image"].examples == ("skip_me.mp4",)
    without = found.findings["label without image"]
    assert without.examples == ("evt6: Felis catus", "m5: Bos")
    # Two events name m1; the first by name is its sequence, and both labels stay.
    assert found.image("m1")["seq_id"] == "evt1"
    boxes = {
        row["annotation_id"]: [row[side] for side in BBOX] for row in found.annotations.to_pylist()
    }
    assert boxes["obs1"] == [0.1, 0.2, 0.3, 0.4]
    assert boxes["obs7"] == [None] * 4
    units = found.annotations["bbox_unit"].to_pylist()
    assert Counter(units) == {"share": 4, None: 1}


def test_a_package_of_version_0_1(camtrap_data: Path) -> None:
    """Sequences of media carry the labels of their sequence to each frame."""
    found = read(camtrap_data, "mica")
    assert found.images.num_rows == 283
    assert len(found.images["seq_id"].unique()) == 27
    assert found.labels() == {
        "Anas platyrhynchos": 60,
        "Anas strepera": 30,
        "Mustela putorius": 30,
        "Ardea": 20,
        "unknown": 20,
        "empty": 13,
        **dict.fromkeys(("Ardea cinerea", "Castor fiber", "Martes foina", "human"), 10),
        "Vulpes vulpes": 10,
    }
    assert found.findings["no label"].count == 60  # of sequences that are unclassified
    assert pc.all(found.annotations["is_of_sequence"]).as_py()
    assert set(found.annotations["sex"].to_pylist()) == {None, "female", "male"}


def test_broken_times_are_findings(camtrap_data: Path) -> None:
    """A package with times that cannot be read gives its images all the same."""
    found = read(camtrap_data, BROKEN)
    assert found.images.num_rows == 4
    assert found.findings["impossible date"].examples == (
        "dbfba6c1-ec77-4048-9b3b-aac3ace43c24: 2020-07-29TTT05:29:42Z",
    )
    assert found.findings["label without image"].count == 3


@pytest.mark.parametrize("folder", ["", "package/"])
def test_folder_zip_and_json_are_the_same(camtrap_data: Path, tmp_path: Path, folder: str) -> None:
    """A package reads alike as its folder, its datapackage.json, and a zip of either shape."""
    there = read(camtrap_data, "example")
    assert read(camtrap_data, "example/datapackage.json") == there
    assert read(camtrap_data / "example" / "datapackage.json") == there
    with zipfile.ZipFile(tmp_path / "example.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (camtrap_data / "example").iterdir():
            archive.write(path, folder + path.name)
        if not folder:
            archive.writestr("draft/datapackage.json", "{}")  # the one at the root counts
    assert read(tmp_path, "example.zip") == there


def test_a_zip_in_a_bucket(make_bucket: Callable[[str], str], tmp_path: Path) -> None:
    """A package in a bucket reads as one on disk, as a folder and as a zip."""
    folder = package().write(tmp_path / "dp")
    zipped = shutil.make_archive(str(tmp_path / "dp"), "zip", folder)
    bucket = Store(url=make_bucket("camtrap"))
    bucket.upload(Path(zipped), "labels/dp.zip")
    for path in folder.iterdir():
        bucket.upload(path, f"labels/dp/{path.name}")
    there = read(tmp_path, "dp")
    assert read(bucket.url, "labels/dp.zip") == read(bucket.url, "labels/dp") == there


# What rules decide.


def test_a_medium_without_observation_is_of_the_event_during_which_it_was_taken(
    tmp_path: Path,
) -> None:
    """Zones count, ends belong to an event, and of several the latest to start is taken."""
    times = {
        "before": "2020-05-30T04:57:36+02:00",
        "first": "2020-05-30T04:57:37+02:00",
        "within": "2020-05-30T02:57:40Z",
        "both": "2020-05-30T02:58:00Z",
        "last": "2020-05-30T03:00:00Z",
        "after": "2020-05-30T03:00:01Z",
        "broken": "2020-05-30TT03:00:00Z",
    }
    media = [MEDIA | {"mediaID": key, "timestamp": time} for key, time in times.items()]
    media.append(MEDIA | {"mediaID": "elsewhere", "deploymentID": "d2"})
    long = EVENT | {"eventID": "long", "eventEnd": "2020-05-30T03:00:00Z"}
    short = EVENT | {"observationID": "o3", "eventID": "short", "observationType": "unclassified"}
    short |= {"eventStart": "2020-05-30T02:57:50Z", "eventEnd": "2020-05-30T02:58:00Z"}
    nested = short | {"observationID": "o4", "eventID": "nested"}
    nested |= {"eventStart": "2020-05-30T02:57:55Z", "eventEnd": "2020-05-30T02:57:56Z"}
    deployments = [DEPLOYMENT, DEPLOYMENT | {"deploymentID": "d2", "locationID": "loc2"}]
    found = read(package(media, [short, nested, long], deployments).write(tmp_path))
    seq_ids = {row["image_id"]: row["seq_id"] for row in found.images.to_pylist()}
    assert {key for key, seq_id in seq_ids.items() if seq_id == "long"} == {
        "first",
        "within",
        "last",
    }
    assert seq_ids["both"] == "short"
    assert seq_ids["before"].startswith("loc1#")  # made from site and time
    assert seq_ids["elsewhere"].startswith("loc2#")


def test_an_event_without_id_or_in_two_deployments_is_told_apart(tmp_path: Path) -> None:
    """One id at two deployments is two sequences; an event without id is named by its start."""
    deployments = [DEPLOYMENT, DEPLOYMENT | {"deploymentID": "d2", "locationID": "loc2"}]
    media = [MEDIA, MEDIA | {"mediaID": "m2", "deploymentID": "d2"}]
    media.append(MEDIA | {"mediaID": "m3", "timestamp": "2021-01-01T00:00:00Z"})
    observations = [OBSERVATION, EVENT | {"deploymentID": "d2"}]
    times = {"eventStart": "2021-01-01T00:00:00Z", "eventEnd": "2021-01-01T00:00:09Z"}
    observations.append(EVENT | times | {"observationID": "o3", "eventID": ""})
    found = read(package(media, observations, deployments).write(tmp_path))
    assert {row["image_id"]: row["seq_id"] for row in found.images.to_pylist()} == {
        "m1": "d1#e1",
        "m2": "d2#e1",
        "m3": "d1#2021-01-01T00:00:00Z",
    }
    assert found.labels() == {"Vulpes vulpes": 3}


@pytest.mark.parametrize(
    ("change", "site"),
    [
        ({}, "loc1"),
        ({"locationID": "", "locationName": "Site A"}, "Site A"),
        ({"locationID": "NA"}, "d1"),
        ({"locationID": "Unknown"}, ""),
    ],
)
def test_the_site_is_the_location_or_the_deployment(
    tmp_path: Path, change: dict[str, str], site: str
) -> None:
    """locationID, else locationName, else deploymentID is the site; "unknown" is none."""
    found = read(package(deployments=[DEPLOYMENT | change]).write(tmp_path))
    assert found.images["site"].to_pylist() == [site]


@pytest.mark.parametrize(
    ("change", "category"),
    [
        ({}, "Vulpes vulpes"),
        ({"scientificName": "nan"}, "animal"),
        ({"observationType": "human", "scientificName": "Homo sapiens"}, "human"),
        ({"observationType": "vehicle", "scientificName": ""}, "vehicle"),
        ({"observationType": "blank", "scientificName": ""}, "empty"),
        ({"observationType": "unknown", "scientificName": ""}, "unknown"),
        ({"observationType": "unclassified", "scientificName": ""}, None),
    ],
)
def test_the_category_is_the_type_or_the_name(
    tmp_path: Path, change: dict[str, str], category: str | None
) -> None:
    """Animals are called by their name; unclassified media have no label, but their event."""
    found = read(package(observations=[OBSERVATION | change]).write(tmp_path))
    assert found.images["labels"].to_pylist() == [[category] if category else []]
    assert found.images["seq_id"].to_pylist() == ["e1"]


def test_exif_gives_frame_and_size(tmp_path: Path) -> None:
    """In exifData are frame and size, also in groups; what is no JSON or no such number is null."""
    exif = {
        "m1": {"frame_num": 7, "ImageWidth": 2048, "ImageHeight": 1536},
        "m2": {"EXIF": {"ImageWidth": 10, "frame_num": True}, "ImageHeight": -1},
        "m3": {"ImageWidth": 2**40, "ImageHeight": "20"},
    }
    media = [MEDIA | {"mediaID": key, "exifData": json.dumps(one)} for key, one in exif.items()]
    media += [MEDIA | {"mediaID": "m4", "exifData": "ISO 200"}, MEDIA | {"mediaID": "m5"}]
    media.append(MEDIA | {"mediaID": "m6", "exifData": "[1]"})
    rows = read(package(media, []).write(tmp_path)).images.to_pylist()
    sizes = {row["image_id"]: (row["width"], row["height"]) for row in rows}
    assert sizes.pop("m1") == (2048, 1536)
    assert sizes.pop("m2") == (10, None)
    assert set(sizes.values()) == {(None, None)}
    assert next(row["frame_num"] for row in rows if row["image_id"] == "m1") == 7


def test_tags_of_others_do_no_harm(tmp_path: Path) -> None:
    """A tag that only looks like one of ours neither overrides a column nor stops the reading."""
    tags = "count:many | standing:left|category:fox | bbox_unit:px | probability:high|50%"
    row = OBSERVATION | {"observationTags": tags}
    (found,) = read(package(observations=[row]).write(tmp_path)).annotations.to_pylist()
    assert (found["count"], found["category"]) == ("2", "Vulpes vulpes")
    assert [found[name] for name in ("standing", "probability", "bbox_unit")] == [None] * 3


def test_odd_observations_and_media_are_counted(tmp_path: Path) -> None:
    """Observations of nothing and events without times are findings; a blank type goes by name."""
    nothing = EVENT | {"eventID": "", "eventStart": ""}
    timeless = EVENT | {"observationID": "o3", "eventStart": "yesterday"}
    media = [MEDIA | {"fileMediatype": ""}]
    media.append(MEDIA | {"mediaID": "m2", "fileMediatype": "", "filePath": "a.mp4"})
    found = read(package(media, [OBSERVATION, nothing, timeless]).write(tmp_path))
    assert found.findings["label of nothing"].examples == ("o2",)
    assert found.findings["unreadable event time"].examples == ("o3",)
    assert found.findings["not an image"].examples == ("a.mp4",)
    assert found.images["image_id"].to_pylist() == ["m1"]


def test_blank_lines_and_short_rows_are_read(tmp_path: Path) -> None:
    """A byte order mark, blank lines, quoted line ends and rows that are short lack nothing."""
    folder = package().write(tmp_path)
    rows = 'deploymentID,locationID,note\nd0,"a\r\nb"\n\nd1,loc1\n\n'
    (folder / "deployments.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert read(folder).images["site"].to_pylist() == ["loc1"]


def test_the_order_of_rows_in_a_package_does_not_matter(camtrap_data: Path, tmp_path: Path) -> None:
    """Tables with their rows shuffled give the same catalog and annotations."""
    for name in ("example", "mica"):
        there = read(camtrap_data, name)
        folder = tmp_path / name
        shutil.copytree(camtrap_data / name, folder, copy_function=shutil.copyfile)
        for seed in range(3):
            for path in sorted(folder.glob("*.csv")):
                header, *lines = path.read_text().splitlines()
                random.Random(seed).shuffle(lines)  # noqa: S311
                path.write_text("\n".join([header, *lines, ""]))
            assert read(folder) == there


# Packages that contradict themselves.


def without(table: str, column: str) -> Callable[[Package, Path], None]:
    def change(made: Package, folder: Path) -> None:
        rows = [{k: v for k, v in row.items() if k != column} for row in getattr(made, table)]
        (folder / f"{table}.csv").write_text(texts(rows))

    return change


def described(**change: Any) -> Callable[[Package, Path], None]:
    def write(made: Package, folder: Path) -> None:
        (folder / "datapackage.json").write_text(json.dumps(made.description | change))

    return write


def written(file: str, text: str | bytes) -> Callable[[Package, Path], None]:
    def write(_: Package, folder: Path) -> None:
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def rowed(table: str, *rows: dict[str, Any]) -> Callable[[Package, Path], None]:
    return written(f"{table}.csv", texts(list(rows)))


RESOURCES: list[dict[str, Any]] = package().description["resources"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            described(profile=PROFILE.replace("1.0.2", "2.1")),
            "is of Camtrap DP 2.1, but 1.0 and 0.1",
        ),
        (described(profile="tabular-data-package"), "'tabular-data-package' names no version"),
        (described(resources="none"), "has no list of resources"),
        (described(resources=RESOURCES[:2]), "has no resource 'observations', only ['deployments'"),
        (
            described(resources=[*RESOURCES[:2], {"name": "observations"}]),
            "is None, but it must be",
        ),
        (
            described(resources=[*RESOURCES[:2], {"name": "observations", "path": "../o.csv"}]),
            "'../o.csv', but it must be one file below",
        ),
        (
            described(resources=[*RESOURCES[:2], {"name": "observations", "path": "o.csv"}]),
            "o.csv: give a Camtrap DP with its datapackage.json and tables",
        ),
        (written("datapackage.json", '{"profile": "htt'), "is no JSON, or is cut (Unterminated"),
        (written("datapackage.json", "[]"), "holds no JSON object"),
        (without("deployments", "deploymentID"), "deployments.csv has no column 'deploymentID'"),
        (without("media", "filePath"), "media.csv has no column 'filePath', only ['mediaID'"),
        (without("observations", "eventID"), "observations.csv has no column 'eventID'"),
        (rowed("media", MEDIA, MEDIA), "media.csv, rows 2 and 3: both have mediaID 'm1'"),
        (
            rowed("observations", EVENT, OBSERVATION, EVENT),
            "rows 2 and 4: both have observationID 'o2'",
        ),
        (rowed("deployments", DEPLOYMENT, DEPLOYMENT), "rows 2 and 3: both have deploymentID 'd1'"),
        (
            rowed("media", MEDIA, MEDIA | {"mediaID": "m2", "deploymentID": "d9"}),
            "media.csv, row 3: deploymentID 'd9' is not in deployments.csv",
        ),
        (
            rowed("observations", OBSERVATION | {"deploymentID": "d9"}),
            "observations.csv, row 2: deploymentID 'd9' is not in deployments.csv",
        ),
        (rowed("media", MEDIA | {"mediaID": "NaN"}), "media.csv, row 2 has no mediaID"),
        (rowed("media", MEDIA | {"filePath": ""}), "media.csv, row 2 has no filePath"),
        (
            rowed("observations", OBSERVATION | {"observationType": "bird"}),
            "row 2: observationType is 'bird', but it must be one of animal,",
        ),
        (
            rowed("observations", EVENT, OBSERVATION | {"bboxX": "left"}),
            "observations.csv, row 3: bboxX is 'left', but it must be a number",
        ),
        (written("media.csv", ""), "media.csv is empty"),
        (written("media.csv", texts([MEDIA]) + "\n,d1,,,,\n"), "media.csv, row 4 has no mediaID"),
        (
            written("media.csv", texts([MEDIA]) + "m2,d1"),
            "ends in the middle of a row: 2 of 6 cells",
        ),
        (
            written("media.csv", texts([MEDIA]) + "1,2,3,4,5,6,7\n"),
            "Expected 6 fields in line 3, saw 7",
        ),
        (written("media.csv", texts([MEDIA]) + 'm2,"d1'), "EOF inside string"),
        (written("media.csv", "mediaID,deploymentID\na,b,c\n"), "Length of header"),
        (written("media.csv", b"mediaID,\xe8\n1,2\n"), "media.csv is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_package_is_one_clear_line(
    tmp_path: Path, damage: Callable[[Package, Path], None], message: str
) -> None:
    """Each error names the file, and where there is one the row and the value."""
    made = package()
    folder = made.write(tmp_path / "dp")
    damage(made, folder)
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, "dp")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "dp" in str(caught.value)


def test_what_is_no_package_is_one_clear_line(tmp_path: Path) -> None:
    """A place without a package, and zips that are damaged or hold none, name themselves."""
    for name in ("nowhere", "nowhere.zip", "nowhere.json"):
        with pytest.raises(CatalogError, match=rf"there is no .*{name}"):
            read(tmp_path, name)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for folder in ("a", "b"):
            archive.writestr(f"{folder}/datapackage.json", "{}")
    with pytest.raises(CatalogError, match=r"two\.zip must hold one datapackage\.json"):
        read(tmp_path, "two.zip")
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("datapackage.json", json.dumps(package().description))
    with pytest.raises(CatalogError, match=r"bare\.zip: deployments\.csv is not in the zip"):
        read(tmp_path, "bare.zip")
    made = package().write(tmp_path / "dp")
    whole = Path(shutil.make_archive(str(made), "zip", made)).read_bytes()
    for cut in range(1, len(whole), 97):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        with pytest.raises(CatalogError, match=r"cut\.zip is a damaged zip"):
            read(tmp_path, "cut.zip")
    at = whole.index(b"PK\x03\x04", 4) - 20
    (tmp_path / "bits.zip").write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    with pytest.raises(CatalogError, match=r"bits\.zip.*(damaged|no JSON)"):
        read(tmp_path, "bits.zip")


# Validation against the schemas.


def test_the_published_example_is_valid(camtrap_data: Path) -> None:
    """The example has nothing against the schemas of its version."""
    source = Store(url=str(camtrap_data))
    assert validate_camtrap_dp(source, "example", source.at("schema_1.0.2")) == ()


def test_what_is_against_a_schema_is_found_by_table_and_kind(camtrap_data: Path) -> None:
    """Each kind of error is one finding with its count and three places."""
    source = Store(url=str(camtrap_data))
    schemas = source.at("schema_1.0.2")
    (short,) = validate_camtrap_dp(source, "zamba_small", schemas)
    assert (short.name, short.unit, short.count) == ("deployments: missing-cell", "cells", 2)
    assert short.examples[0] == "deployments.csv row 2: deploymentComments '': missing cell"
    found = {one.name: one for one in validate_camtrap_dp(source, BROKEN, schemas)}
    (example,) = found["media: type-error"].examples
    assert example == (
        "media_parsing_issues.csv row 3: timestamp '2020-07-29TTT05:29:42Z': type is "
        '"datetime/%Y-%m-%dT%H:%M:%S%z"'
    )
    assert found["media: constraint-error"].count == 4
    assert len(found["media: constraint-error"].examples) == 3
    assert found["media: missing-label"].unit == "columns"


def test_ids_are_validated_over_tables(camtrap_data: Path, tmp_path: Path) -> None:
    """A repeated id and a reference to nothing are found, in a zip too."""
    rows = [OBSERVATION, OBSERVATION | {"mediaID": "m9"}]
    folder = package(observations=rows).write(tmp_path / "dp")
    shutil.make_archive(str(folder), "zip", folder)
    found = validate_camtrap_dp(
        Store(url=str(tmp_path)), "dp.zip", Store(url=str(camtrap_data / "schema_1.0.2"))
    )
    names = {one.name for one in found}
    assert {"observations: unique-error", "observations: foreign-key"} <= names
    assert {"observations: primary-key"} <= names


def test_what_could_not_be_validated_is_said(
    camtrap_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without schemas, with bad ones, or without frictionless there is one finding that says so."""
    source = Store(url=str(tmp_path))
    made = package()
    made.write(tmp_path)

    def meaning(schemas: Store | None = None) -> str:
        (found,) = validate_camtrap_dp(source, "", schemas)
        assert found.name == "not validated"
        assert "\n" not in found.meaning
        return found.meaning

    assert "names no schema of deployments: give" in meaning()
    assert "FileNotFoundError" in meaning(source.at("nowhere"))
    written("deployments-table-schema.json", "{")(made, tmp_path)
    assert "is no JSON" in meaning(source)
    for table in ("deployments", "media", "observations"):
        written(f"{table}-table-schema.json", '{"fields": 3}')(made, tmp_path)
    assert "the schema of deployments is none" in meaning(source)
    monkeypatch.setitem(sys.modules, "frictionless", None)
    assert "pip install 'serengeti-etl[camtrap]'" in meaning(Store(url=str(camtrap_data)))


def test_schemas_come_from_the_package_itself(camtrap_data: Path, tmp_path: Path) -> None:
    """A schema that stands in the package, beside it, or at an address is taken from there."""
    folder = package().write(tmp_path)
    schemas = camtrap_data / "schema_1.0.2"
    files = [f"{one['name']}-table-schema.json" for one in RESOURCES]
    shutil.copyfile(schemas / files[1], folder / files[1])
    where = [json.loads((schemas / files[0]).read_text()), files[1], f"file://{schemas}/{files[2]}"]
    resources = [one | {"schema": at} for one, at in zip(RESOURCES, where, strict=True)]
    described(resources=resources)(package(), folder)
    found = {one.name for one in validate_camtrap_dp(Store(url=str(folder)), "")}
    assert found == {"deployments: missing-label", "media: missing-label"}


# Written packages.

SETTINGS = CamtrapDpSettings(
    name="My season",
    title="My season",
    created="2024-05-01T12:00:00Z",
    latitude=-2.5,
    longitude=34.75,
    site_places={"D04": (-2.25, 34.5)},
    contributor="Snapshot Serengeti",
    licence="CC-BY-4.0",
)


def write(found: Read, folder: Path, given: CamtrapDpSettings = SETTINGS) -> int:
    return write_camtrap_dp(
        found.images, iter(found.annotations.to_batches()), Store(url=str(folder)), given
    )


def rows_of(folder: Path, table: str) -> list[dict[str, Any]]:
    frame = pd.read_csv(folder / f"{table}.csv", dtype=str, keep_default_na=False)
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def made_catalog(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Read:
    """The catalog of these rows, as a reader would hand them over."""

    def fill(rows: RowWriter) -> tuple[Finding, ...]:
        for add, schema, given_rows in (
            (rows.add_images, IMAGE_ROWS, images),
            (rows.add_annotations, ANNOTATION_ROWS, annotations),
        ):
            columns: dict[str, object] = {
                field.name: pa.array([row.get(field.name) for row in given_rows], field.type)
                for field in schema
            }
            if given_rows:
                add(columns)
        return ()

    return joined(fill)


IMAGE = {
    "key": "i1",
    "image_id": "i1",
    "seq_id": "s1",
    "frame_num": 2,
    "file_name": "S1/D04/i1.JPG",
    "site": "D04",
    "season": "S1",
    "datetime": "2010-08-19 18:24:57.25",
    "width": 200,
    "height": 100,
}
LABEL = {"key": "i1", "category": "zebra", "is_of_sequence": False}


@pytest.mark.parametrize("name", ["example", "zamba_small", "mica"])
def test_published_packages_survive_being_written(
    camtrap_data: Path, tmp_path: Path, name: str
) -> None:
    """What was read of a package, written and read again, is the same, and valid."""
    there = read(camtrap_data, name)
    assert write(there, tmp_path) == 0
    again = read(tmp_path)
    assert again.images == there.images
    assert again.annotations == there.annotations
    source = Store(url=str(tmp_path))
    assert validate_camtrap_dp(source, "", Store(url=str(camtrap_data / "schema_1.0.2"))) == ()


def test_a_written_package_says_what_the_format_demands(tmp_path: Path) -> None:
    """Deployments, media and observations have their values where the format wants them."""
    night = IMAGE | {"key": "i2", "image_id": "i2", "frame_num": 1, "file_name": "x.png"}
    night |= {"datetime": "2010-08-19 18:24:58"}
    bare = IMAGE | {"key": "i3", "image_id": "i3", "seq_id": "s2", "site": None, "season": None}
    box = dict(zip(BBOX, (20.0, 10.0, 100.0, 50.0), strict=True)) | {"bbox_unit": "px"}
    labels = [
        LABEL | box | {"count": "11-50", "standing": 0.625, "subject_id": "ASG1", "sex": "hen"},
        {"key": "i2", "category": "human", "is_of_sequence": True, "count": "3"},
    ]
    assert write(made_catalog([IMAGE, night, bare], labels), tmp_path) == 0
    unknown, known = rows_of(tmp_path, "deployments")
    assert (unknown["deploymentID"], unknown["locationName"], unknown["latitude"]) == (
        *("#", "unknown", "-2.5"),
    )
    assert (known["deploymentID"], known["locationID"], known["latitude"]) == (
        *("S1#D04", "D04", "-2.25"),
    )
    assert known["deploymentGroups"] == "season:S1"
    assert known["deploymentStart"] == "2010-08-19T18:24:57+03:00"
    assert known["deploymentEnd"] == "2010-08-19T18:24:58+03:00"
    media = {row["mediaID"]: row for row in rows_of(tmp_path, "media")}
    assert media["i1"]["timestamp"] == "2010-08-19T18:24:57+03:00"
    assert [media[key]["filePublic"] for key in ("i1", "i2")] == ["true", "false"]
    assert [media[key]["fileMediatype"] for key in ("i1", "i2")] == ["image/jpeg", "image/png"]
    assert json.loads(media["i1"]["exifData"]) == {
        "frame_num": 2,
        "ImageWidth": 200,
        "ImageHeight": 100,
        "SubSecTimeOriginal": "250",
    }
    seen = {row["mediaID"]: row for row in rows_of(tmp_path, "observations")}
    zebra, human, nothing = seen["i1"], seen["i2"], seen["i3"]
    assert (zebra["eventID"], zebra["eventEnd"]) == ("s1", "2010-08-19T18:24:58+03:00")
    assert (zebra["observationType"], zebra["scientificName"]) == ("animal", "zebra")
    assert [zebra[f"bbox{side}"] for side in ("X", "Y", "Width", "Height")] == [
        *("0.1", "0.1", "0.5", "0.5"),
    ]
    assert zebra["observationTags"] == (
        "annotation_id: | count:11-50 | sex:hen | standing:0.625 | subject_id:ASG1"
    )
    assert (human["observationType"], human["count"]) == ("human", "3")
    assert human["observationTags"] == "annotation_id: | is_of_sequence:true"
    assert (nothing["observationType"], nothing["eventID"]) == ("unclassified", "s2")
    boxes = read(tmp_path).annotations.filter(pc.field("category") == "zebra").to_pylist()
    assert [boxes[0][side] for side in (*BBOX, "bbox_unit")] == [0.1, 0.1, 0.5, 0.5, "share"]


def test_a_written_datapackage_fits_its_profile(camtrap_data: Path, tmp_path: Path) -> None:
    """datapackage.json has what the profile requires, each of the kind that it requires."""
    jsonschema = pytest.importorskip("jsonschema")
    write(made_catalog([IMAGE], [LABEL, LABEL | {"category": "empty"}]), tmp_path)
    description = json.loads((tmp_path / "datapackage.json").read_text())
    profile = json.loads((camtrap_data / "schema_1.0.2" / "camtrap-dp-profile.json").read_text())
    own = profile["allOf"][1]
    del own["properties"]["spatial"]["$ref"]  # lies on the network
    jsonschema.validate(description, own | {"$defs": profile["$defs"]})
    assert description["name"] == "my-season"
    assert description["taxonomic"] == [{"scientificName": "zebra"}]
    assert description["temporal"] == {"start": "2010-08-19", "end": "2010-08-19"}
    assert description["spatial"] == {"type": "MultiPoint", "coordinates": [[34.5, -2.25]]}
    assert description["licenses"][0] == {"name": "CC-BY-4.0", "scope": "data"}


def test_seasons_and_sites_that_look_alike_are_deployments_of_their_own(tmp_path: Path) -> None:
    """Names with the sign that joins season and site do not make two deployments one."""
    places = [("a#b", "c"), ("a", "b#c"), (None, "a#c"), ("a", "c"), ("a%23b", "c")]
    images = [
        IMAGE | {"key": f"i{at}", "image_id": f"i{at}", "season": season, "site": site}
        for at, (season, site) in enumerate(places)
    ]
    found = made_catalog(images, [])
    write(found, tmp_path)
    assert len(rows_of(tmp_path, "deployments")) == len(places)
    assert read(tmp_path).images == found.images


def test_what_a_column_may_not_hold_goes_into_a_tag(camtrap_data: Path, tmp_path: Path) -> None:
    """Boxes without area or beyond the edge, and odd words and numbers, leave a package valid."""
    values = [(0.1, 0.1, 0.0, 0.5), (-0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 1.5)]
    odd = {"count": "007", "sex": "hen", "life_stage": "pup", "probability": 1.5}
    labels = [
        LABEL | odd | dict(zip(BBOX, box, strict=True)) | {"bbox_unit": "share"} for box in values
    ]
    labels.append(LABEL | dict(zip(BBOX, (1.0, 2.0, 3.0, 4.0), strict=True)) | {"bbox_unit": "px"})
    found = made_catalog([IMAGE | {"width": None}], labels)
    write(found, tmp_path)
    assert read(tmp_path).annotations == found.annotations
    schemas = Store(url=str(camtrap_data / "schema_1.0.2"))
    assert validate_camtrap_dp(Store(url=str(tmp_path)), "", schemas) == ()


def test_images_without_a_time_are_left_out_and_counted(tmp_path: Path) -> None:
    """Images without date are not written, nor what is said of them; none at all is an error."""
    timeless = IMAGE | {"key": "i2", "image_id": "i2", "datetime": None}
    found = made_catalog([IMAGE, timeless], [LABEL, LABEL | {"key": "i2", "annotation_id": "a"}])
    assert write(found, tmp_path) == 1
    assert [row["mediaID"] for row in rows_of(tmp_path, "media")] == ["i1"]
    assert [row["mediaID"] for row in rows_of(tmp_path, "observations")] == ["i1"]
    with pytest.raises(CatalogError, match="none of 1 images has a date"):
        write(made_catalog([timeless], []), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_site_without_place_is_refused(tmp_path: Path) -> None:
    """Without coordinates of a site nothing is written, and the flags are named."""
    nowhere = CamtrapDpSettings(name="a", title="a", created=SETTINGS.created)
    with pytest.raises(ConfigError, match=r"site 'D04' .*--latitude.*--sites"):
        write(made_catalog([IMAGE], []), tmp_path / "none", nowhere)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utc_offset": "3"}, "utc_offset is '3'"),
        ({"latitude": 91.0, "longitude": 0.0}, "latitude, longitude"),
        ({"latitude": 1.0}, "longitude is None"),
        ({"site_places": {"D04": (0.0, 181.0)}}, "place of site 'D04'"),
        ({"created": "today"}, "created is 'today'"),
        ({"created": "2024-05-01T12:00:00"}, "created is"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(change: dict[str, Any], message: str) -> None:
    """A setting that the format cannot hold is named when it is given."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        CamtrapDpSettings(**({"name": "a", "title": "a", "created": SETTINGS.created} | change))


def test_the_same_catalog_gives_the_same_bytes(camtrap_data: Path, tmp_path: Path) -> None:
    """Written twice, in other parts, a package has the same bytes."""
    found = read(camtrap_data, "example")
    write(found, tmp_path / "a")
    batches = found.annotations.to_batches(max_chunksize=7)
    write_camtrap_dp(found.images, batches, Store(url=str(tmp_path / "b")), SETTINGS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_datapackage_json_is_written_last(tmp_path: Path) -> None:
    """A package that could not be finished has no datapackage.json."""
    (tmp_path / "observations.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write(made_catalog([IMAGE], [LABEL]), tmp_path)
    assert (tmp_path / "media.csv").is_file()
    assert not (tmp_path / "datapackage.json").exists()


# Any text but what means "not known" to a reader.
WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1d"), min_size=1)
WORD = WORD.filter(lambda word: word.strip().lower() not in UNKNOWN)
PLACE = st.one_of(st.none(), st.sampled_from(["D04", "a#b", "%", "a|b", " x "]), WORD)
CATEGORY = st.one_of(st.sampled_from(["empty", "human", "animal", "unknown", "NA", "zebra"]), WORD)
SHARE = st.floats(0, 1, allow_nan=False)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


@st.composite
def image_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Images with all that a catalog knows, at times of four digits for the year."""
    times = st.datetimes(min_value=pd.Timestamp("1000-01-01").to_pydatetime())
    size = maybe(st.integers(1, 2**31 - 1))
    return [
        {
            "key": f"i{number}",
            "image_id": f"i{number}",
            "seq_id": draw(st.sampled_from(["s1", "s2", "a#b", "s|3"])),
            "frame_num": draw(st.integers(1, 5)),
            "file_name": draw(WORD),
            "site": draw(PLACE),
            "season": draw(PLACE),
            "datetime": draw(times).isoformat(sep=" ", timespec="milliseconds"),
            "given_split": draw(maybe(WORD)),
            "width": draw(size),
            "height": draw(size),
            "content_hash": draw(maybe(WORD)),
        }
        for number in range(draw(st.integers(1, 5)))
    ]


@st.composite
def annotation_row(draw: st.DrawFn) -> dict[str, Any]:
    """What may be said of an image or a sequence."""
    row = {name: draw(maybe(NUMBER)) for name in BEHAVIOURS}
    words = ("annotation_id", "behavior", "life_stage", "individual_id", "subject_id")
    row |= {name: draw(maybe(WORD)) for name in words}
    if draw(st.booleans()):
        row |= dict(zip(BBOX, draw(st.tuples(*[st.one_of(SHARE, NUMBER)] * 4)), strict=True))
        row |= {"bbox_unit": "share"}
    seq_id = draw(maybe(st.sampled_from(["s1", "s2", "a#b", "s|3"])))
    return row | {
        "key": f"i{draw(st.integers(0, 4))}" if seq_id is None else None,
        "seq_id": seq_id,
        "is_of_sequence": draw(st.booleans()) or seq_id is not None,
        "category": draw(CATEGORY),
        "count": draw(maybe(st.one_of(st.sampled_from(["1", "11-50", "007", "51+"]), WORD))),
        "sex": draw(maybe(st.one_of(st.just("female"), WORD))),
        "probability": draw(maybe(st.one_of(SHARE, NUMBER))),
    }


@settings(max_examples=25, deadline=None)
@given(image_rows(), st.lists(annotation_row(), max_size=6), st.randoms(use_true_random=False))
def test_what_was_written_reads_back_the_same(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], rng: random.Random
) -> None:
    """A catalog with times, written and read, is the same, whatever the order of its rows."""
    there = made_catalog(images, annotations)
    with TemporaryDirectory() as folder:
        write(there, Path(folder))
        again = read(folder)
        assert again.images == there.images
        assert again.annotations == there.annotations
        for table in ("deployments", "media", "observations"):
            rows = rows_of(Path(folder), table)
            rng.shuffle(rows)
            Path(folder, f"{table}.csv").write_bytes(texts(rows).encode())
        shuffled = read(folder)
        assert (shuffled.images, shuffled.annotations) == (again.images, again.annotations)
