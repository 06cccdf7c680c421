"""Two predictions of one output: the second is refused, and the first ends as if alone."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from serengeti_etl import lease
from serengeti_etl.config import ResizeSettings
from serengeti_etl.errors import ConfigError, OutputHeld
from serengeti_etl.lease import LEASE_FILE, Holder, hold, lease_file
from serengeti_etl.predict import journal as journal_module
from serengeti_etl.predict import settings as settings_module
from serengeti_etl.predict.run import PredictionReport, predict_photographs
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.storage import Store
from tests.conftest import files_below
from tests.hosts import wait_for
from tests.model_factory import write_model
from tests.test_predict_journal import (
    CLASSES,
    OUTPUTS,
    PART,
    StopError,
    of,
    settings_in,
    stopped_after,
    undated,
)

LEASES = {
    "csv": {lease_file("images.csv"), lease_file("sequences.parquet")},
    "parquet": {lease_file("images.parquet"), lease_file("sequences.csv")},
    "megadetector": {lease_file("images.json")},
    "camtrap_dp": {f"package/{LEASE_FILE}"},
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(settings_module, "PART_SIZE", PART)
    monkeypatch.setattr(journal_module, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a random model. Read only."""
    return write_model(tmp_path_factory.mktemp("run"), CLASSES, ResizeSettings(size="96"))


def leases_in(store: Store) -> set[str]:
    return {name for name in store.find("") if name.endswith(LEASE_FILE)}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_second_is_refused_and_the_first_not_disturbed(
    kind: str, model: str, season: Path, tmp_path: Path
) -> None:
    """Tried after each part of the first, whose bytes are those of one that was alone."""
    predict_photographs(model, of(season), settings_in(tmp_path / "alone", kind))
    settings, seen = settings_in(tmp_path / "out", kind), []

    def second(_: PredictionReport) -> None:
        with pytest.raises(OutputHeld, match=f"{settings.output} is being written by process"):
            predict_photographs(model, of(season), settings)
        seen.append(leases_in(Store(url=str(tmp_path / "out"))))

    report = predict_photographs(model, of(season), settings, second)
    assert seen == [LEASES[kind]] * (2 + (report.num_done - 1) // PART)
    assert undated(files_below(tmp_path / "out")) == undated(files_below(tmp_path / "alone"))


def test_in_a_bucket_the_second_is_refused_too(
    model: str, season: Path, make_bucket: Callable[[str], str]
) -> None:
    """The lease lies in the bucket while the first works there, and not after it."""
    bucket = Store(url=make_bucket("held"))
    settings = PredictSettings(output=f"{bucket.url}/a/images.csv", device="cpu")
    seen: list[set[str]] = []

    def second(_: PredictionReport) -> None:
        with pytest.raises(OutputHeld, match=f"{settings.output} is being written by process"):
            predict_photographs(model, of(season), settings)
        seen.append(leases_in(bucket))

    predict_photographs(model, of(season), settings, second)
    assert len(seen) > 1
    assert all(one == {f"a/{lease_file('images.csv')}"} for one in seen)
    assert bucket.find("") == ("a/images.csv",)


def test_outputs_side_by_side_are_two(model: str, season: Path, tmp_path: Path) -> None:
    """Another file of the same folder is written meanwhile; one that both write is refused."""
    first, other = (settings_in(tmp_path, kind) for kind in ("csv", "megadetector"))
    shared = replace(other, sequences=first.sequences)

    def meanwhile(report: PredictionReport) -> None:
        if report.num_done != PART:
            return
        predict_photographs(model, of(season), other)
        with pytest.raises(OutputHeld, match=f"{first.sequences} is being written"):
            predict_photographs(model, of(season), shared)
        # What it held before it was refused is free.
        assert leases_in(Store(url=str(tmp_path))) == LEASES["csv"]

    predict_photographs(model, of(season), first, meanwhile)
    assert set(files_below(tmp_path)) == {"images.csv", "images.json", "sequences.parquet"}


def test_one_file_is_not_two_outputs(tmp_path: Path) -> None:
    """Photographs and sequences into one file are refused before there is any work."""
    name = f"{tmp_path}/images.csv"
    with pytest.raises(ConfigError, match=r"sequences is .* another file than the output"):
        PredictSettings(output=name, sequences=name)


@pytest.fixture
def _short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.3)


@pytest.mark.usefixtures("_short_lives")
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("is_last", [False, True], ids=["early", "last"])
def test_one_that_was_taken_over_gives_nothing_its_name(
    kind: str,
    model: str,
    season: Path,
    tmp_path: Path,
    *,
    is_last: bool,
) -> None:
    """It says who has the output now; what is done stays in the journal, and the other's lease."""
    other = Holder.here().renewed()
    end = other.expires_at + timedelta(minutes=10)
    other = replace(other, host="far-away", machine="another", expires_at=end)
    name, seen, others = max(LEASES[kind]), [], renewers()
    at = len(of(season).find()) if is_last else 2 * PART

    def is_lost() -> bool:
        # Again each time, for a renewal under way may have written over it.
        Store(url=str(tmp_path)).write(name, other.as_bytes())
        return len(renewers() - others) < len(LEASES[kind])

    def taken_over(report: PredictionReport) -> None:
        seen.append(report.num_done)
        if report.num_done == at:
            wait_for(is_lost, "the lease looked")

    with pytest.raises(OutputHeld, match=r"was taken over by process .* on far-away"):
        predict_photographs(model, of(season), settings_in(tmp_path, kind), taken_over)
    assert seen[-1] == at
    left = files_below(tmp_path)
    assert left.pop(name) == other.as_bytes()
    assert left
    assert all(".predicted/" in one for one in left)


def renewers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "lease"}


def test_a_failure_leaves_no_lease(model: str, season: Path, tmp_path: Path) -> None:
    """What stopped may be called again at once, from anywhere."""
    settings = settings_in(tmp_path, "csv")
    with pytest.raises(StopError):
        predict_photographs(model, of(season), settings, stopped_after(3 * PART))
    assert leases_in(Store(url=str(tmp_path))) == set()
    with pytest.raises(ConfigError, match="no photographs"):
        predict_photographs(model, of(tmp_path), settings)
    assert leases_in(Store(url=str(tmp_path))) == set()


def command(model: str, photographs: str, output: Path) -> list[str]:
    program = [sys.executable, "-m", "serengeti_etl", "predict", model, "--device", "cpu"]
    return [*program, "--photographs", photographs, "--output", str(output)]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_command_is_refused_while_another_writes(
    model: str, season: Path, tmp_path: Path
) -> None:
    """A second predict is one line that names the first one's process, and exit 4."""
    arguments = command(model, str(season / "images"), tmp_path / "images.csv")
    with hold(Store(url=str(tmp_path)), "images.csv"):
        shown = subprocess.run(
            arguments, check=False, capture_output=True, text=True, env=ONE_THREAD
        )
    assert shown.returncode == 4, shown.stderr
    assert f"images.csv is being written by process {os.getpid()} on " in shown.stderr
    assert "Wait until it has finished, or stop it" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_lease(
    number: signal.Signals, model: str, season: Path, tmp_path: Path
) -> None:
    """Stopped while a photograph never comes: exit 3, and the output is free."""
    names = sorted(path.name for path in (season / "images").rglob("*.JPG"))[:1]
    os.mkfifo(tmp_path / "never.jpg")
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in [*names, "never.jpg"]))
    output = tmp_path / "out" / "images.csv"
    process = subprocess.Popen(
        command(model, str(tmp_path / "list.txt"), output),
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
    )
    try:
        wait_for(lambda: any(output.parent.glob(".images.csv.*.partial")), "the work", seconds=120)
        assert [path.name for path in output.parent.glob("*lease*")] == [lease_file("images.csv")]
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 3, said
    assert list(output.parent.iterdir()) == []
