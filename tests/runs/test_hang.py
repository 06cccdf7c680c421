"""A step that hangs is found, and named with its stack."""

import faulthandler
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serengeti_etl.runs import hang
from serengeti_etl.runs.board import Board, BoardSettings
from serengeti_etl.runs.hang import Dump, HangWatch
from serengeti_etl.runs.notes import Notes
from serengeti_etl.runs.scribe import Scribe
from serengeti_etl.storage import Store
from tests.runs.test_board import events_of, until


@pytest.fixture
def watch() -> Iterator[HangWatch]:
    """A watchdog of half a second, ended with the test."""
    made = HangWatch(0.5)
    yield made
    made.end()


def a_loader_that_blocks(event: threading.Event) -> None:
    event.wait(20)


@pytest.fixture(params=[0, 150])
def _beside_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """So many threads that wait, as a machine of many cores has them."""
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(request.param)]
    for thread in threads:
        thread.start()
    yield
    end.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("_beside_threads")
def test_where_the_main_thread_stands_is_written_down(watch: HangWatch) -> None:
    """Without progress for its time, the dump names what blocks, the innermost call first."""
    found: list[Dump] = []
    go_on = threading.Event()

    def look() -> None:
        while not found:
            dump = watch.dump()
            if dump is not None:
                found.append(dump)
            time.sleep(0.02)
        go_on.set()

    looker = threading.Thread(target=look)
    watch.touch()
    looker.start()
    a_loader_that_blocks(go_on)
    looker.join()
    (dump,) = found
    at = next(at for at, one in enumerate(dump.frames) if one.startswith("a_loader_that_blocks "))
    assert "(test_hang.py:" in dump.frames[at]
    assert dump.frames[0].startswith("wait (threading.py:")
    assert "look" not in " ".join(dump.frames)
    assert "look" in dump.text


def test_progress_puts_it_off(watch: HangWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is touched in time nothing is written, and little is armed."""
    monkeypatch.setattr(hang, "_ARM_AGAIN_SECONDS", 0.1)
    armed, touched = list[float](), [time.monotonic()]
    original: Any = faulthandler.dump_traceback_later

    def arm(*args: object, **kwargs: object) -> None:
        armed.append(time.monotonic())
        original(*args, **kwargs)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", arm)
    end = time.monotonic() + 1.2
    while time.monotonic() < end or len(armed) < 2:
        watch.touch()
        touched.append(time.monotonic())
        time.sleep(0.002)
    most = 1 + (touched[-1] - touched[0]) / 0.1
    dumps = watch.dump(), watch.dump()
    touched.append(time.monotonic())
    # A machine that is busy may not have touched it in time.
    longest = max(later - sooner for sooner, later in itertools.pairwise(touched))
    assert longest > 0.4 or dumps == (None, None)
    assert 2 <= len(armed) <= most


def test_the_board_tells_of_a_hang_and_that_it_goes_on(tmp_path: Path) -> None:
    """A critical event with the frames, the whole stack beside it, and later the good news."""
    store = Store(url=str(tmp_path))
    settings = BoardSettings(
        kind="train", name="r", heartbeat_seconds=0.05, stall_after_seconds=0.5
    )
    with Board(store, settings) as board:
        board.open()
        board.progress(1)
        until(lambda: store.exists("stack.txt"))
        board.progress(2)
        until(lambda: any(one["kind"] == "goes_on" for one in events_of(store)))
    hung = next(one for one in events_of(store) if one["kind"] == "hang")
    assert hung["level"] == "critical"
    assert "the main thread stands in" in hung["text"]
    assert "until (test_board.py:" in hung["text"]
    assert "test_hang.py" in store.read("stack.txt").decode()


def test_a_hang_after_a_hang_does_not_hide_that_it_went_on_between(tmp_path: Path) -> None:
    """Both hangs and the good news are told, though nobody looked in the meantime."""
    watch: Any = SimpleNamespace(dump=lambda: Dump(text="", frames=(), written_at=2000.0))
    notes = Notes(progress_at=1000.0)
    settings = BoardSettings(kind="train", name="r")
    scribe = Scribe(Store(url=str(tmp_path)), settings, notes, watch)
    scribe._look_for_hang()
    notes.progress_at = 1007.0
    scribe._look_for_hang()
    assert [one["kind"] for one in notes.events] == ["hang", "goes_on", "hang"]
    assert "after 7 s" in notes.events[1]["text"]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 300.0])
def test_what_came_on_before_its_stack_was_read_is_told_as_it_was(
    tmp_path: Path, seconds: float
) -> None:
    """The hang is told with its own time, and that it is over; one that lasts is not over."""
    hung = [Dump(text="", frames=(), written_at=1000.0)]
    watch: Any = SimpleNamespace(dump=lambda: hung.pop() if hung else None)
    settings = BoardSettings(kind="train", name="r", stall_after_seconds=600)
    # The clock of the day and that of the watchdog may differ by a little.
    notes = Notes(progress_at=400.1)
    scribe = Scribe(Store(url=str(tmp_path)), settings, notes, watch)
    if seconds:
        notes.progress_at = 1000.0 + seconds
    scribe._look_for_hang()
    scribe._look_for_hang()
    kinds = [one["kind"] for one in notes.events]
    assert kinds == (["hang", "goes_on"] if seconds else ["hang"])
    assert not seconds or f"after {600 + seconds:.0f} s" in notes.events[1]["text"]


def test_a_dump_says_when_it_was_written(watch: HangWatch) -> None:
    """By the clock of the day, after its time without progress."""
    started = time.time()
    watch.touch()
    dump: list[Dump] = []

    def is_there() -> bool:
        dump.extend(filter(None, [watch.dump()]))
        return bool(dump)

    until(is_there)
    assert started + 0.5 < dump[0].written_at <= time.time()
