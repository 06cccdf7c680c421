"""Looks at runs whose store may not answer."""

import threading
import time
from pathlib import Path

import pytest

from serengeti_etl.runs import look
from serengeti_etl.runs.look import Look, Looker, look_anew
from serengeti_etl.storage import Store
from tests.runs.status_factory import STATUS, say


def test_a_look_leaves_no_thread(tmp_path: Path) -> None:
    """A supervisor looks twice for each of a thousand starts."""
    say(tmp_path, STATUS)
    assert look_anew(Store(url=str(tmp_path)), 30).status == STATUS
    for thread in threading.enumerate():
        if thread.name == "look anew at the run":
            thread.join(30)
            assert not thread.is_alive()


def test_a_store_that_does_not_answer_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for so long and no longer."""
    answers = threading.Event()

    def hangs(*_: object, **__: object) -> Look:
        answers.wait(30)
        return Look()

    monkeypatch.setattr(look, "look_at", hangs)
    begun = time.monotonic()
    assert look_anew(Store(url=str(tmp_path)), 0.1).fault == "no answer"
    assert not answers.is_set()
    assert time.monotonic() - begun < 20
    answers.set()


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Its time."""
        return self.now


def next_look(looker: Looker) -> Look:
    """The next one that is taken, waited for by the real clock."""
    end = time.monotonic() + 30
    while (found := looker.take()) is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def test_a_watcher_that_was_held_looks_again_before_it_judges() -> None:
    """Stopped for an hour, as by Ctrl-Z, it takes no look of before for one of now."""
    clock, steps = Clock(), iter(range(1, 10))
    looker = Looker(lambda: Look(step=next(steps)), 30.0, clock=clock)
    assert next_look(looker).step == 1
    clock.now += 30
    assert looker.take() is None  # asks for the second
    assert looker._coming is not None
    looker._coming.result(30)
    clock.now += 3600
    held = looker.take()
    assert held is not None
    assert "was held" in held.fault
    assert looker.latest().fault == held.fault
    assert next_look(looker).step == 3
    assert looker.latest().step == 3
