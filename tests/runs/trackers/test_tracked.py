"""Trackers beside a run: what they are given, and that their faults stay theirs."""

import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import pytest

from serengeti_etl.errors import ConfigError
from serengeti_etl.runs.last_word import Ended
from serengeti_etl.runs.trackers import choose, tracked
from serengeti_etl.runs.trackers.choose import choose_tracker
from serengeti_etl.runs.trackers.tensorboard import TensorBoardTracker
from serengeti_etl.runs.trackers.tracked import Tracked
from serengeti_etl.runs.trackers.tracker import TrackedRun

RUN = TrackedRun(run_id="r1", name="lions", step=5, config={"device": "cpu"})


class Fake:
    """A tracker that keeps what it is given, and fails or hangs where it is told to."""

    def __init__(self, fails: Callable[[str], bool] = lambda _: False) -> None:
        self.got: list[str] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self._fails = fails

    def start(self, run: TrackedRun) -> None:
        """See ``Tracker``."""
        self._take(f"start {run.name}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._take(f"log {step} {values['loss']}")

    def finish(self, ended: Ended) -> None:
        """See ``Tracker``."""
        self._take(f"finish {ended}")

    def _take(self, what: str) -> None:
        self.may_go.wait(30)
        self.got.append(what)
        if self._fails(what):
            raise SystemExit(f"cannot {what}\nmore")


def run_with(fake: Fake, num_logs: int, limit: int = 1000) -> list[str]:
    """What is told of a run with so many logs."""
    told: list[str] = []
    beside = Tracked("fake", fake, told.append, limit)
    beside.start(RUN)
    for step in range(num_logs):
        beside.log(step, {"loss": 0.5})
    beside.finish("done")
    return told


def test_all_calls_arrive_in_order() -> None:
    """From its start to its end, with nothing told."""
    fake = Fake()
    assert run_with(fake, 2) == []
    assert fake.got == ["start lions", "log 0 0.5", "log 1 0.5", "finish done"]


def test_a_tracker_is_given_up_after_failures_in_a_row() -> None:
    """Three, with one line told; what works in between starts the count again."""
    fake = Fake(lambda what: what.startswith("log") and what != "log 2 0.5")
    assert run_with(fake, 20) == ["tracker fake is given up: SystemExit: cannot log 5 0.5"]
    assert fake.got[-1] == "log 5 0.5"


def test_one_that_cannot_start_is_given_up_at_once() -> None:
    """Nothing more is asked of it, not even to finish."""
    fake = Fake(lambda what: what.startswith("start"))
    assert run_with(fake, 5) == ["tracker fake is given up: SystemExit: cannot start lions"]
    assert fake.got == ["start lions"]


def test_one_that_hangs_does_not_hold_up_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls return; what is too much is dropped and counted; the end is in time."""
    monkeypatch.setattr(tracked, "_FINISH_SECONDS", 0.1)
    fake = Fake()
    fake.may_go.clear()
    began = time.monotonic()
    told = run_with(fake, 50, limit=10)
    assert time.monotonic() - began < 10
    assert told[0] == "tracker fake did not finish in time"
    assert told[1] in {f"tracker fake was too slow for {number} calls" for number in (40, 41)}
    fake.may_go.set()


def test_one_that_is_behind_still_finishes() -> None:
    """With a full queue too the last call is kept."""
    fake = Fake()
    fake.may_go.clear()
    threading.Timer(0.2, fake.may_go.set).start()
    run_with(fake, 50, limit=10)
    assert fake.got[-1] == "finish done"


def test_trackers_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a value or without; unknown ones, missing packages and buckets are refused."""
    name, tracker = choose_tracker("tensorboard=/logs", "s3://bucket/run")
    assert (name, isinstance(tracker, TensorBoardTracker)) == ("tensorboard", True)
    with pytest.raises(ConfigError, match="'neptune', but it must be one of tensorboard, trackio"):
        choose_tracker("neptune", "run")
    with pytest.raises(ConfigError, match="--tracker tensorboard=FOLDER"):
        choose_tracker("tensorboard", "s3://bucket/run")
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    for kind in choose.KINDS:
        with pytest.raises(ConfigError, match=rf"pip install 'serengeti-etl\[{kind}\]'"):
            choose_tracker(f"{kind}=x", "run")


@pytest.mark.parametrize("kind", choose.KINDS)
def test_choosing_loads_nothing(kind: str) -> None:
    """A tracker's package is imported in its thread, when it starts."""
    if find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    assert choose_tracker(kind, "run")[0] == kind
