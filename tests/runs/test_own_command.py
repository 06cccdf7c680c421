"""What a supervisor knows of a command by its words: where its run lies, and how soon it writes."""

import sys
from pathlib import Path
from typing import Any

import click
import pytest

from serengeti_etl.cli import supervision
from serengeti_etl.cli.own_command import is_same_place, run_of
from serengeti_etl.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "run"),
    [
        ("serengeti-etl train URL --run r", "r"),
        ("/venv/bin/serengeti-etl train URL --run=s3://b/r --recipe x", "s3://b/r"),
        ("python3.11 -u -m serengeti_etl train --run q --run r URL", "r"),
        ("torchrun --nproc-per-node 8 -m serengeti_etl -- train URL --run r", "r"),
        ("python -m torch.distributed.run --standalone -m serengeti_etl -- train --run r U", "r"),
        ("serengeti-etl convert s1.py --output out", "out/run"),
        ("serengeti-etl convert s1.py --output s3://b/out/", "s3://b/out/run"),
        # No run is written, or when it begins is not for us to know.
        ("serengeti-etl train --help", None),
        ("serengeti-etl verify out --output out", None),
        ("serengeti-etl", None),
        ("srun serengeti-etl train URL --run r", None),
        ("python train.py --run r", None),
        ("sleep 100", None),
    ],
)
def test_the_run_of_our_own_commands_is_known(command: str, run: str | None) -> None:
    """Of ``train`` and ``convert``, under torchrun too; nothing is guessed of others."""
    assert run_of(command.split()) == run


def test_places_are_the_same_however_they_are_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative and absolute folders, with and without a last slash; other buckets are others."""
    monkeypatch.chdir(tmp_path)
    assert is_same_place("runs/r1", f"{tmp_path}/runs/./r1/")
    assert is_same_place("runs/r1", f"file://{tmp_path}/runs/r1")
    assert is_same_place("s3://b/r/", "s3://b/r")
    assert not is_same_place("s3://b/r", "s3://c/r")
    assert not is_same_place("out", "out/run")


def test_only_what_is_known_to_write_has_to_write_in_time() -> None:
    """Half an hour for our own, no limit for others, and whatever is asked for."""
    place = supervision._place_and_minutes
    own, other = ["serengeti-etl", "convert", "s1.py", "--output", "out"], ["sleep", "100"]
    assert place(None, own, None) == ("out/run", 30.0)
    assert place("./out/run", own, 5.0) == ("./out/run", 5.0)
    assert place("r", other, None) == ("r", None)
    assert place("r", other, 5.0) == ("r", 5.0)
    with pytest.raises(ConfigError, match="writes its run to out/run: leave it out"):
        place("out", own, None)
    with pytest.raises(click.UsageError, match="Give --run"):
        place(None, other, None)


@pytest.mark.parametrize(("given", "minutes"), [(None, "30.0"), (7.0, "7.0")])
def test_what_supervises_itself_has_to_write_in_time(
    monkeypatch: pytest.MonkeyPatch, given: float | None, minutes: str
) -> None:
    """However it was started, its supervisor is told so."""
    became: list[list[str]] = []
    monkeypatch.setattr(supervision, "_become", became.append)
    monkeypatch.setattr(sys, "argv", ["run.py", "convert", "s1.py", "--supervise"])
    names = ("on_finish", "on_give_up", "max_restarts", "max_hours", "max_cost")
    options: dict[str, Any] = dict.fromkeys(names)
    options |= {"supervise": True, "supervised": False, "start_within": given}
    options |= {"alerts": (), "alert_level": "info", "alert_quiet": 10.0}
    supervision.take_supervision("out/run", options, None)
    [command] = became
    assert command[command.index("--start-within") + 1] == minutes
    assert command[command.index("--") + 1 :] == ["run.py", "convert", "s1.py", "--supervised"]
