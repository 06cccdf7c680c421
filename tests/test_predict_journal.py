"""A prediction that was killed goes on, and leaves the bytes of an undisturbed one."""

import dataclasses
import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.fetch import Wanted, fetch_in_order
from serengeti_etl.errors import ImageError
from serengeti_etl.lease import Holder, lease_file
from serengeti_etl.predict import journal as journal_module
from serengeti_etl.predict import run as run_module
from serengeti_etl.predict import settings as settings_module
from serengeti_etl.predict.journal import Journal
from serengeti_etl.predict.photographs import Source
from serengeti_etl.predict.rows import PredictedImage
from serengeti_etl.predict.run import PredictionReport, predict_photographs
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.predict.text import prediction_text
from serengeti_etl.storage import Store
from tests.conftest import files_below
from tests.model_factory import write_model

CLASSES = ("empty", "giraffe", "zebra")
PLACE = {
    "utc_offset": "+03:00",
    "latitude": -2.3,
    "longitude": 34.8,
    "sites": None,
    "contributor": "nobody",
    "sampling_design": "simpleRandom",
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "csv": {"output": "images.csv", "sequences": "sequences.parquet"},
    "parquet": {"output": "images.parquet", "sequences": "sequences.csv"},
    "megadetector": {"output": "images.json"},
    "camtrap_dp": {"output": "package", "kind": "camtrap_dp", "place": PLACE},
}
PART = 6
"""Photographs written at once in these tests: two batches of three."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "PART_SIZE", PART)
    monkeypatch.setattr(journal_module, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a random model. Read only."""
    return write_model(tmp_path_factory.mktemp("run"), CLASSES, ResizeSettings(size="96"))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photographs each call asked for."""
    numbers: list[int] = []

    def noted(store: Store, wanted: Sequence[Wanted]) -> Iterator[bytes | ImageError]:
        numbers.append(len(wanted))
        return fetch_in_order(store, wanted)

    monkeypatch.setattr(run_module, "fetch_in_order", noted)
    return numbers


def settings_in(folder: Path, kind: str, **more: Any) -> PredictSettings:
    """Settings that write into the folder."""
    given: dict[str, Any] = {"device": "cpu", "batch_size": 3} | OUTPUTS[kind]
    for name in ("output", "sequences"):
        if name in given:
            given[name] = f"{folder}/{given[name]}"
    return PredictSettings(**(given | more))


def of(season: Path) -> Source:
    """All photographs, and the files that are none."""
    return Source(url=str(season / "images"))


def undated(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files, without the moment that a Camtrap DP says it was made at."""
    return {name: re.sub(rb'"created": "[^"]*"', b"", one) for name, one in files.items()}


class StopError(Exception):
    """The prediction is stopped here."""


def stopped_after(number: int) -> Callable[[PredictionReport], None]:
    """A callback that stops when so many photographs are written."""

    def stop(report: PredictionReport) -> None:
        if report.num_done >= number:
            raise StopError

    return stop


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_stopped_prediction_goes_on(
    kind: str, model: str, season: Path, tmp_path: Path, fetched: list[int]
) -> None:
    """Stopped three times, each time further: nothing is predicted twice, and bytes agree."""
    wanted = predict_photographs(model, of(season), settings_in(tmp_path / "whole", kind))
    expected = files_below(tmp_path / "whole")
    assert not any(".predicted" in name for name in expected)
    settings = settings_in(tmp_path / "stopped", kind)
    total = wanted.num_done
    # The part in which it was stopped is not kept.
    for number in (1, 3 * PART, 6 * PART):
        with pytest.raises(StopError):
            predict_photographs(model, of(season), settings, stopped_after(number))
        assert all(".predicted/" in name for name in files_below(tmp_path / "stopped"))
    found = predict_photographs(model, of(season), settings)
    assert undated(files_below(tmp_path / "stopped")) == undated(expected)
    assert fetched == [total, total, total, total - 2 * PART, total - 5 * PART]
    assert (found.num_done, found.num_before) == (total, 5 * PART)
    assert (found.failures, found.categories) == (wanted.failures, wanted.categories)
    assert found.examples == wanted.examples
    assert f"{5 * PART} of them were predicted before it was stopped" in prediction_text(found)
    assert "predicted before" not in prediction_text(wanted)


KILLED = """
import json, os, signal, sys
import torch
from serengeti_etl.predict import journal, run
from serengeti_etl.predict import settings as room
from serengeti_etl.predict.photographs import Source
torch.set_num_threads(1)
journal.SECONDS, room.PART_SIZE = 0.0, 6
def kill(report):
    if report.num_done >= 18:
        os.kill(os.getpid(), signal.SIGKILL)
model, photographs, settings = sys.argv[1:]
settings = room.PredictSettings(**json.loads(settings))
run.predict_photographs(model, Source(url=photographs), settings, kill)
"""


def kill_in(model: str, season: Path, settings: PredictSettings) -> None:
    """Predict in a process that is killed after three parts."""
    arguments = [model, str(season / "images"), json.dumps(dataclasses.asdict(settings))]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_package_goes_on(
    model: str, season: Path, tmp_path: Path, fetched: list[int]
) -> None:
    """As a table does: of a Camtrap DP too the bytes are the same, and nothing else is left."""
    wanted = predict_photographs(model, of(season), settings_in(tmp_path / "whole", "camtrap_dp"))
    settings = settings_in(tmp_path / "killed", "camtrap_dp")
    kill_in(model, season, settings)
    names = {path.name.split(".")[1] for path in Path(settings.output).glob(".*.partial")}
    assert names == {"media", "observations"}
    assert not list(Path(settings.output).glob("[!.]*.csv"))
    predict_photographs(model, of(season), settings)
    assert fetched == [wanted.num_done, wanted.num_done - 2 * PART]
    found = undated(files_below(tmp_path / "killed"))
    assert found == undated(files_below(tmp_path / "whole"))
    assert set(found) == {
        f"package/{name}"
        for name in ("datapackage.json", "deployments.csv", "media.csv", "observations.csv")
    }


@pytest.mark.slow
def test_a_killed_prediction_goes_on(
    model: str, season: Path, tmp_path: Path, fetched: list[int]
) -> None:
    """After SIGKILL the same call leaves the same bytes, and none of the unfinished files."""
    wanted = predict_photographs(model, of(season), settings_in(tmp_path / "whole", "csv"))
    folder = tmp_path / "killed"
    kill_in(model, season, settings_in(folder, "csv"))
    assert len(list(folder.glob(".*.partial"))) == 2
    assert len(list(folder.glob(".images.csv.predicted/*"))) == 2
    for name in ("images.csv", "sequences.parquet"):
        assert Holder.from_bytes((folder / lease_file(name)).read_bytes()).pid != os.getpid()
    # As a kill leaves it while the lease is renewed.
    (folder / f".{lease_file('images.csv')}.0123.partial").write_bytes(b"")
    # Another's unfinished file is left alone.
    (folder / ".other.csv.0123.partial").write_bytes(b"")
    predict_photographs(model, of(season), settings_in(folder, "csv"))
    assert fetched == [wanted.num_done, wanted.num_done - 2 * PART]
    (folder / ".other.csv.0123.partial").unlink()
    assert files_below(folder) == files_below(tmp_path / "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "sequences.parquet"]


@pytest.mark.slow
def test_another_prediction_starts_anew(
    model: str, season: Path, tmp_path: Path, fetched: list[int]
) -> None:
    """With another model, list, gap, mirror or batch nothing of the journal is taken."""
    source = of(season)
    names = [one.file_name for one in source.find()]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names[:-1]))
    fewer = Source(url=f"{tmp_path}/list.txt", folder=str(season / "images"))
    with torch.random.fork_rng():
        other = write_model(tmp_path / "other", CLASSES, ResizeSettings(size="96", quality=60))
    plain = settings_in(tmp_path, "csv")
    cases = [
        (other, source, plain),
        (model, fewer, plain),
        (model, source, settings_in(tmp_path, "csv", gap_seconds=4.0)),
        (model, source, settings_in(tmp_path, "csv", with_mirror=True)),
        (model, source, settings_in(tmp_path, "csv", batch_size=2)),
    ]
    for one in cases:
        with pytest.raises(StopError):
            predict_photographs(model, source, plain, stopped_after(4 * PART))
        with pytest.raises(StopError):
            predict_photographs(*one, stopped_after(1))
        assert fetched.pop() == len(one[1].find())
    # Of the same list under another name all is taken.
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    with pytest.raises(StopError):
        predict_photographs(model, source, plain, stopped_after(4 * PART))
    report = predict_photographs(model, fewer, plain)
    assert report.num_before == 3 * PART


@pytest.mark.parametrize("damage", ["cut", "gone", "foreign"])
def test_a_damaged_journal_is_taken_up_to_there(
    damage: str, model: str, season: Path, tmp_path: Path, fetched: list[int]
) -> None:
    """What follows a part that is cut, gone or of something else is predicted again: same bytes."""
    predict_photographs(model, of(season), settings_in(tmp_path / "whole", "csv"))
    folder, settings = tmp_path / "killed", settings_in(tmp_path / "killed", "csv")
    with pytest.raises(StopError):
        predict_photographs(model, of(season), settings, stopped_after(6 * PART))
    part = folder / ".images.csv.predicted" / "000002.arrow"
    if damage == "gone":
        part.unlink()
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-200])
    else:
        part.write_bytes((part.parent / "000004.arrow").read_bytes())
    predict_photographs(model, of(season), settings)
    assert fetched[-1] == fetched[0] - 2 * PART
    assert files_below(folder) == files_below(tmp_path / "whole")


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Every bit of probabilities, times, absent values and failures, in their order."""
    rows = [
        PredictedImage(
            file_name="ä/1.jpg",
            seq_id="s",
            site="",
            time=dt.datetime.fromisoformat("2015-01-02 03:04:05.678"),
            probabilities_C=np.array([1 / 3, 5e-324, 1 - 1e-16]),
            failure=None,
        ),
        PredictedImage(
            file_name="2.jpg",
            seq_id="2",
            site="K1",
            time=None,
            probabilities_C=None,
            failure=ImageError("truncated", "it ends: too soon"),
        ),
    ]
    store = Store(url=str(tmp_path))
    journal = Journal(store, ".j", "key")
    assert list(journal.read()) == []
    journal.add(rows[:1])
    journal.add(rows[1:])
    again = Journal(store, ".j", "key")
    found = list(again.read())
    assert again.num_read == 2
    for one, two in zip(rows, found, strict=True):
        assert [str(getattr(one, name)) for name in one.__slots__] == [
            str(getattr(two, name)) for name in two.__slots__
        ]
    assert found[0].probabilities_C is not None
    assert rows[0].probabilities_C is not None
    assert found[0].probabilities_C.tobytes() == rows[0].probabilities_C.tobytes()
    assert list(Journal(store, ".j", "other").read()) == []
    again.remove()
    assert list(tmp_path.iterdir()) == []
    again.remove()


def test_parts_are_written_now_and_then_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before their time, unless many photographs wait."""
    monkeypatch.setattr(journal_module, "SECONDS", 1e9)
    monkeypatch.setattr(journal_module, "MAX_ROWS", 5)
    failure = ImageError("missing", "there is none")

    def row(number: int) -> PredictedImage:
        return PredictedImage(
            file_name=f"{number}",
            seq_id="",
            site="",
            time=None,
            probabilities_C=None,
            failure=failure,
        )

    journal = Journal(Store(url=str(tmp_path)), ".j", "key")
    for first in range(0, 14, 2):
        journal.add([row(first), row(first + 1)])
    assert len(list((tmp_path / ".j").iterdir())) == 2
    found = list(Journal(Store(url=str(tmp_path)), ".j", "key").read())
    assert [one.file_name for one in found] == [f"{number}" for number in range(12)]


def test_a_prediction_into_a_bucket_goes_on(
    model: str,
    season: Path,
    tmp_path: Path,
    make_bucket: Callable[[str], str],
    fetched: list[int],
) -> None:
    """The journal lies in the bucket until the output is whole; the bytes are those of a folder."""
    predict_photographs(model, of(season), settings_in(tmp_path, "parquet"))
    bucket = Store(url=make_bucket("journal"))
    settings = PredictSettings(
        output=f"{bucket.url}/images.parquet",
        sequences=f"{bucket.url}/sequences.csv",
        device="cpu",
        batch_size=3,
    )
    with pytest.raises(StopError):
        predict_photographs(model, of(season), settings, stopped_after(4 * PART))
    assert len(bucket.find("")) == 3
    predict_photographs(model, of(season), settings)
    assert fetched[-1] == fetched[0] - 3 * PART
    assert {name: bucket.read(name) for name in bucket.find("")} == files_below(tmp_path)


def test_a_package_in_a_bucket_goes_on(
    model: str, season: Path, tmp_path: Path, make_bucket: Callable[[str], str]
) -> None:
    """A Camtrap DP goes there as its rows come; stopped and begun again, it is that of a folder."""
    predict_photographs(model, of(season), settings_in(tmp_path, "camtrap_dp"))
    bucket = Store(url=f"{make_bucket('package')}/p")
    settings = settings_in(tmp_path, "camtrap_dp", output=bucket.url)
    with pytest.raises(StopError):
        predict_photographs(model, of(season), settings, stopped_after(4 * PART))
    assert all(name.startswith(".predicted/") for name in bucket.find(""))
    predict_photographs(model, of(season), settings)
    found = {name: bucket.read(name) for name in bucket.find("")}
    assert undated(found) == undated(files_below(tmp_path / "package"))


@pytest.mark.parametrize(("batch_size", "part_size"), [(1, 6), (4, 4), (5, 5), (6, 6), (7, 7)])
def test_parts_are_whole_batches(batch_size: int, part_size: int) -> None:
    """What a kill leaves ends where a batch ends, so that those that follow are the same."""
    assert PredictSettings(output="x.csv", batch_size=batch_size).part_size == part_size
