"""Photographs that kill what resizes them: found, rejected by name, and no other is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serengeti_etl.cluster import SerialRunner, open_runner
from serengeti_etl.config import ClusterSpec, ResizeSettings, SeasonPipeline
from serengeti_etl.convert.careful import CarefulResizer
from serengeti_etl.convert.resize import ResizedImage, resize_to_each
from serengeti_etl.convert.season import convert_season
from serengeti_etl.errors import ImageError
from serengeti_etl.stages import Stages
from tests.conftest import season_pipeline

ROOT = Path(__file__).parents[2]
WANTED = (ResizeSettings(size="96"), ResizeSettings(size="64x48"))

# Put into every Python that is started: what photographs with these last bytes do to it.
POISON = """
import multiprocessing, os, signal
from serengeti_etl.convert import resize

honest = resize.resize_to_each

def note(what):
    with open({deaths!r}, "a") as file:
        file.write(what)

def num_deaths():
    with open({deaths!r}) as file:
        return len(file.read())

def poisoned(photograph, wanted, stages):
    if photograph.endswith(b"FAULT"):
        note("F")
        os.kill(os.getpid(), signal.SIGSEGV)
    if photograph.endswith(b"GREED"):
        note("G")
        greed = bytearray(6 << 30)  # of addresses; no page of it is touched
        if multiprocessing.parent_process():  # in a worker, whose nanny would do that
            os.kill(os.getpid(), signal.SIGKILL)
    for signal_name, num_times in ((b"KILL", 4), (b"TERM", 4), (b"SEGV", 1), (b"KILL always", 99)):
        if photograph.endswith(b"SIG" + signal_name) and num_deaths() < num_times:
            note("C")
            os.kill(os.getpid(), getattr(signal, "SIG" + signal_name.decode().split()[0]))
    if photograph.endswith(b"MISTAKE"):
        raise KeyError("a mistake of ours")
    return honest(photograph, wanted, stages)

resize.resize_to_each = poisoned
"""


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Poison every Python that is started from here; the function tells what died so far."""
    file = tmp_path / "deaths"
    file.touch()
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "sitecustomize.py").write_text(POISON.format(deaths=str(file)))
    monkeypatch.setenv("PYTHONPATH", f"{poison}:{ROOT}")
    return lambda: "".join(sorted(file.read_text()))


def photographs(season: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((season / "images").rglob("*")) if path.is_file()]


def told(outcomes: tuple[ResizedImage | ImageError, ...]) -> list[object]:
    return [one if isinstance(one, ResizedImage) else one.args for one in outcomes]


def test_with_care_the_bytes_are_the_same(season: Path) -> None:
    """Good photographs and bad ones come out of the child as they do here."""
    contents = [*photographs(season)[:20], b"", b"no photograph", b"\xff\xd8\xff\xe0 cut"]
    with CarefulResizer(WANTED) as careful:
        for content in contents:
            assert told(careful.resize(content)) == told(resize_to_each(content, WANTED, Stages()))


@pytest.mark.parametrize("poison", [b"FAULT", b"GREED"])
def test_the_one_that_kills_is_rejected_alone(
    poison: bytes, season: Path, deaths: Callable[[], str]
) -> None:
    """It is tried twice, in a child of its own the second time; the next one is resized."""
    good = photographs(season)[0]
    with CarefulResizer(WANTED) as careful:
        assert told(careful.resize(good)) == told(resize_to_each(good, WANTED, Stages()))
        killed = careful.resize(good + poison)
        assert [one.reason for one in killed if isinstance(one, ImageError)] == ["killed"] * 2
        assert told(careful.resize(good)) == told(resize_to_each(good, WANTED, Stages()))
    assert deaths() == poison[:1].decode() * 2


@pytest.mark.parametrize(
    ("chance", "num_deaths"), [(b"SIGKILL", 4), (b"SIGTERM", 4), (b"SIGSEGV", 1)]
)
def test_a_death_by_chance_is_no_reject(
    chance: bytes,
    num_deaths: int,
    season: Path,
    deaths: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed from outside again and again, or of what another left: tried alone until it works."""
    monkeypatch.setattr("serengeti_etl.convert.careful._WAIT_SECONDS", 0.01)
    photograph = photographs(season)[0] + chance
    with CarefulResizer(WANTED) as careful:
        assert told(careful.resize(photograph)) == told(
            resize_to_each(photograph, WANTED, Stages())
        )
    assert deaths() == "C" * num_deaths


def test_one_whose_child_is_killed_each_time_is_rejected(
    season: Path, deaths: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph for which the system has no memory, ever, does not hold up the others."""
    monkeypatch.setattr("serengeti_etl.convert.careful._WAIT_SECONDS", 0.01)
    with CarefulResizer(WANTED) as careful:
        killed = careful.resize(photographs(season)[0] + b"SIGKILL always")
    assert [one.reason for one in killed if isinstance(one, ImageError)] == ["killed"] * 2
    assert deaths() == "C" * 5


def test_a_child_killed_while_it_waits_costs_no_photograph(season: Path) -> None:
    """The next photograph goes to a new one."""
    good = photographs(season)[0]
    with CarefulResizer(WANTED) as careful:
        first = told(careful.resize(good))
        assert careful._child is not None
        careful._child.kill()
        careful._child.wait()
        assert told(careful.resize(good)) == first


def test_a_mistake_is_no_reject(season: Path, deaths: Callable[[], str]) -> None:
    """An error of the code ends the task instead of blaming the photograph."""
    with (
        CarefulResizer(WANTED) as careful,
        pytest.raises(RuntimeError, match="its error is in the worker's log"),
    ):
        careful.resize(photographs(season)[0] + b"MISTAKE")
    assert deaths() == ""


def digests(output: Path) -> dict[str, str]:
    columns = pq.read_table(output / "index.parquet", columns=["image_id", "sha256"])
    rows = zip(*(columns[name].to_pylist() for name in columns.column_names), strict=True)
    return dict(rows)


@pytest.mark.slow
def test_poison_on_a_cluster_costs_one_worker_each(
    season: Path, pipeline: SeasonPipeline, tmp_path: Path, deaths: Callable[[], str]
) -> None:
    """Two photographs that kill are rejected by name; all others have the bytes that they had."""
    convert_season(pipeline, SerialRunner(), str(tmp_path / "well"))
    well = digests(tmp_path / "well")
    poisoned = tmp_path / "season"
    shutil.copytree(season, poisoned)
    names = {
        image["id"]: image["file_name"]
        for image in json.loads((season / "labels.json").read_text())["images"]
    }
    fatal = {sorted(well)[3]: b"FAULT", sorted(well)[-3]: b"GREED"}
    for image_id, poison in fatal.items():
        with (poisoned / "images" / names[image_id]).open("ab") as file:
            file.write(poison)
    spec = ClusterSpec(
        cluster="distributed:LocalCluster",
        options={"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"},
    )
    output = tmp_path / "ill"
    with open_runner(spec) as runner:
        made = convert_season(season_pipeline(str(poisoned)), runner, str(output))
    assert deaths() == "FFFGGG"  # one worker and two children each
    assert digests(output) == {key: well[key] for key in well if key not in fatal}
    rejects = pq.ParquetDataset(output / "rejects").read().to_pylist()
    killed = {row["image_id"]: row["stage"] for row in rejects if row["reason"] == "killed"}
    assert killed == dict.fromkeys(fatal, "resize")
    assert made.ledger.as_dict() != {}
