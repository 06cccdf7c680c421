"""Looks at runs whose store may not answer."""

import threading
import time
from pathlib import Path

import pytest

from serengeti_etl.runs import look
from serengeti_etl.runs.look import Look, look_anew
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
