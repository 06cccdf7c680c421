"""A step that hangs is found, and named with its stack."""

import faulthandler
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.runs import hang
from serengeti_etl.runs.board import Board, BoardSettings
from serengeti_etl.runs.hang import Dump, HangWatch
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
    armed: list[float] = []
    original: Any = faulthandler.dump_traceback_later

    def arm(*args: object, **kwargs: object) -> None:
        armed.append(time.monotonic())
        original(*args, **kwargs)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", arm)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        watch.touch()
        time.sleep(0.002)
    assert watch.dump() is None
    assert watch.dump() is None
    assert 2 <= len(armed) <= 13


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


HELD = """
import ctypes, sys
from pathlib import Path
from serengeti_etl.runs.hang import HangWatch

watch = HangWatch(0.5, with_exit=True, path=Path(sys.argv[1]))
watch.touch()
def holds_the_lock():
    ctypes.PyDLL(None).sleep(60)
holds_the_lock()
"""


def test_a_process_that_holds_the_lock_can_be_ended(tmp_path: Path) -> None:
    """With ``with_exit`` even a call that never gives Python's lock back ends, and is named."""
    path = tmp_path / "stack.txt"
    ended = subprocess.run(
        [sys.executable, "-c", HELD, str(path)], timeout=30, check=False, capture_output=True
    )
    assert ended.returncode == 1
    assert "in holds_the_lock" in path.read_text()


def test_what_earlier_processes_wrote_is_no_news(tmp_path: Path) -> None:
    """A file that is there already is added to, and only what comes is a dump."""
    path = tmp_path / "stack.txt"
    path.write_text("Timeout (0:00:01)!\n")
    watch = HangWatch(600, path=path)
    assert watch.dump() is None
    with path.open("a") as file:
        file.write('Thread 0x01 (most recent call first):\n  File "a.py", line 1 in f\n')
    assert watch.dump() is None  # more may come
    dump = watch.dump()
    assert dump is not None
    assert dump.frames == ()
    assert dump.text.startswith("Thread 0x01")
