"""The board tells what a run is at, survives its store, and costs the run nothing."""

import faulthandler
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest

from serengeti_etl.buckets.bucket import open_bucket
from serengeti_etl.buckets.place import place_of
from serengeti_etl.cli.boards import logged_on
from serengeti_etl.errors import Incomplete, OutputHeld, RunError, TooManyFailures
from serengeti_etl.runs import board as board_module
from serengeti_etl.runs import notes
from serengeti_etl.runs.board import Board, BoardSettings, Sample
from serengeti_etl.runs.pace import Pace
from serengeti_etl.runs.records import Records
from serengeti_etl.runs.status import State, Status
from serengeti_etl.storage import Store
from tests.fault_proxy import fault_proxy
from tests.fault_server import Refusal
from tests.servers import S3_CREDENTIALS

FAST = BoardSettings(kind="train", name="r1", heartbeat_seconds=0.02)
JPEG = bytes.fromhex("ffd8ffd9")


def status_of(store: Store) -> Status:
    return Status.from_json(store.read_json("status.json"), "status.json")


def events_of(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read("events.jsonl").decode().splitlines()]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def opened(store: Store, settings: BoardSettings = FAST, **more: Any) -> Iterator[Board]:
    board = Board(store, settings)
    board.open(**more)
    try:
        yield board
    finally:
        board.close("done")


@pytest.fixture(params=["folder", "bucket"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, make_bucket: Callable[[str], str]
) -> Store:
    """An empty prefix in a folder, and one in a bucket."""
    if request.param == "folder":
        return Store(url=str(tmp_path / "run"))
    return Store(url=f"{make_bucket('board')}/run")


def test_a_run_is_told_in_its_prefix(place: Store) -> None:
    """Status, events, metrics and both pages are there, the same in folder and bucket."""
    settings = BoardSettings(kind="convert", name="s1", heartbeat_seconds=0.05, hourly_rate=36.0)
    with Board(place, settings) as board:
        board.open(num_steps=10)
        board.progress(4, stage="shards")
        board.record({"images_per_second": 12.5, "rejected": 1})
        board.event("resume", "2 images were there already")
        until(lambda: place.exists("index.html") and status_of(place).step == 4)
        assert status_of(place).state(time.time()) is State.RUNNING
        board.progress(10)
    status = status_of(place)
    assert (status.said, status.step, status.num_steps, status.stage) == ("done", 10, 10, "shards")
    assert status.values == {"images_per_second": 12.5, "rejected": 1}
    assert status.cost == pytest.approx(status.seconds / 100)
    assert [(one["kind"], one["level"], one["step"]) for one in events_of(place)] == [
        ("resume", "info", 4),
        ("done", "info", 10),
    ]
    (row,) = [json.loads(line) for line in place.read("metrics.jsonl").decode().splitlines()]
    assert (row["step"], row["images_per_second"]) == (4, 12.5)
    pages = {name: place.read(name).decode() for name in ("index.html", "report.html")}
    assert all("2 images were there already" in page for page in pages.values())
    assert 'data-reload="5"' in pages["index.html"]
    assert 'data-reload="0"' in pages["report.html"]


@pytest.mark.parametrize(
    ("error", "kind", "said", "reason"),
    [
        (RunError("the loss is"), "train", "failed", "RunError: the loss is"),
        (TooManyFailures("12 of 20"), "convert", "failed", "TooManyFailures: 12 of 20"),
        (OSError("no space"), "train", "failed", "OSError: no space"),
        (Incomplete("stopped at step 3"), "train", "stopped", "stopped at step 3"),
        (Incomplete("3 shards failed"), "convert", "failed", "Incomplete: 3 shards failed"),
        (KeyboardInterrupt(), "convert", "stopped", "interrupted"),
    ],
)
def test_the_end_is_told_with_its_reason(
    tmp_path: Path, error: BaseException, kind: Any, said: str, reason: str
) -> None:
    """What ends the block passes, and is the board's last word; critical if the run failed."""
    store = Store(url=str(tmp_path))
    settings = BoardSettings(kind=kind, name="r", heartbeat_seconds=0.02)

    def work() -> None:
        with Board(store, settings) as board:
            board.open()
            raise error

    with pytest.raises(type(error)):
        work()
    status = status_of(store)
    assert (status.said, status.reason) == (said, reason)
    assert events_of(store)[-1]["text"] == reason
    assert (events_of(store)[-1]["level"] == "critical") == (said == "failed")


def test_a_run_that_was_refused_says_nothing(tmp_path: Path) -> None:
    """Without ``open`` no file is written, whatever ends the block."""
    store = Store(url=str(tmp_path))

    def work() -> None:
        with Board(store, FAST) as board:
            board.progress(1)
            board.event("start", "started")
            raise RunError("refused")

    with pytest.raises(RunError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_board_that_is_not_open_watches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is told before it opens and after it closes, no watchdog of its own is armed."""
    armed: list[float] = []

    def arm(seconds: float, **_: object) -> None:
        armed.append(seconds)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", arm)
    board = Board(Store(url=str(tmp_path)), FAST)

    def tell() -> None:
        board.progress(1)
        board.pause()
        board.start_from(2)

    tell()
    assert armed == []
    board.open()
    assert len(armed) == 1
    board.close("done")
    board._hang._armed_at = float("-inf")
    tell()
    assert len(armed) == 1


def test_who_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    """After ``OutputHeld`` the status is the other process's."""
    store = Store(url=str(tmp_path))

    def work() -> None:
        with Board(store, FAST) as board:
            board.open()
            until(lambda: store.exists("index.html"))
            raise OutputHeld("it was taken over")

    with pytest.raises(OutputHeld):
        work()
    until(lambda: "board" not in {thread.name for thread in threading.enumerate()})
    assert status_of(store).said == "running"
    assert not store.exists("report.html")


def test_what_was_told_before_a_restart_stays(tmp_path: Path) -> None:
    """Events and the board's own metrics are added to, and times and costs are summed."""
    store = Store(url=str(tmp_path))
    for number in range(3):
        with opened(store) as board:
            board.progress(number)
            board.record({"value": number})
            board.event("note", f"process {number}")
            time.sleep(0.05)
    texts = [one["text"] for one in events_of(store)]
    assert texts == [
        *("process 0", "done: 0 steps"),
        *("process 1", "done: 1 steps"),
        *("process 2", "done: 2 steps"),
    ]
    rows = [json.loads(line) for line in store.read("metrics.jsonl").decode().splitlines()]
    assert [row["value"] for row in rows] == [0, 1, 2]
    assert status_of(store).seconds_before >= 0.1


def test_another_run_begins_anew(tmp_path: Path) -> None:
    """Of a run with another id neither events nor times are taken up."""
    store = Store(url=str(tmp_path))
    for run_id in ("a", "b"):
        with opened(store, run_id=run_id) as board:
            board.event("note", f"run {run_id}")
    assert [one["text"] for one in events_of(store)] == ["run b", "done: 0 steps"]
    assert (status_of(store).run_id, status_of(store).seconds_before) == ("b", 0.0)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "serengeti-status/1"}'])
def test_a_damaged_status_keeps_nothing_back(tmp_path: Path, damage: str) -> None:
    """Where the old status cannot be read, the run is told all the same, and old events stay."""
    store = Store(url=str(tmp_path))
    with opened(store, run_id="a") as board:
        board.event("note", "old")
    store.write("status.json", damage.encode())
    with opened(store, run_id="a") as board:
        board.event("note", "new")
    assert [one["text"] for one in events_of(store)] == [
        *("old", "done: 0 steps"),
        *("new", "done: 0 steps"),
    ]
    assert status_of(store).said == "done"


def test_figures_that_are_no_numbers_break_nothing(tmp_path: Path) -> None:
    """NaN and infinity are left out of the status and null in metrics; the page is drawn."""
    store = Store(url=str(tmp_path))
    with opened(store) as board:
        board.record({"loss": math.nan, "score": math.inf, "data_wait": 0.5, "what": "text"})
        board.show({"loss": -math.inf})
        board._metrics.records.append({"step": 1, "loss": math.nan, "score": 0.25})
    assert status_of(store).values == {"data_wait": 0.5}
    rows = [json.loads(line) for line in store.read("metrics.jsonl").decode().splitlines()]
    assert (rows[1]["loss"], rows[1]["score"]) == (None, 0.25)
    assert "50.0 %" in store.read("index.html").decode()


def test_the_same_event_is_told_once(tmp_path: Path) -> None:
    """Repeats are dropped, and so is a flood; what is critical comes through."""
    store = Store(url=str(tmp_path))
    with opened(store) as board:
        for _ in range(5):
            board.event("log", "slow down")
        for number in range(notes._MOST_EVENTS):
            board.event("log", f"warning {number}")
        board.event("hang", "it hangs", "critical")
    found = events_of(store)
    assert sum(one["text"] == "slow down" for one in found) == 1
    assert len(found) == notes._MOST_EVENTS + 1
    assert any(one["text"] == "it hangs" for one in found)


def test_a_pause_is_progress_but_not_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation keeps a run from stalling, leaves the rate alone, and lengthens what is left."""
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    board = Board(Store(url=str(tmp_path)), FAST)
    board.notes.pace = Pace(0, now)
    board.notes.num_steps = 300
    for _ in range(100):
        now += 1.0
        board.progress(board.notes.step + 1)
    for _ in range(25):
        now += 2.0
        board.pause("validation")
    assert board.notes.progress_at == now
    paused = now - (board.notes.paused_at or 0.0)
    assert paused == 48.0
    board.notes.pace.note(100, board.notes.progress_at, paused)
    assert board.notes.pace.rate == pytest.approx(100 / 102)
    assert board.notes.pace.seconds_left(200, now, paused) == pytest.approx(204 * (1 + 48 / 102))


def test_what_was_done_before_is_no_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of an earlier process count as done, but not for the rate."""
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    board = Board(Store(url=str(tmp_path)), FAST)
    board.start_from(5000, num_steps=6000)
    now += 10.0
    board.progress(5020)
    board.notes.pace.note(5020, now, 0.0)
    assert board.notes.pace.rate == 2.0
    assert board.notes.num_steps == 6000
    assert board.notes.pace.seconds_left(980, now, 0.0) == 490.0


def num_failures(board: Board) -> int:
    """Of late, to write the status."""
    with board.notes.lock:
        return sum("could not be written" in line for _, line in board.notes.log)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is set, every store refuses to publish."""
    is_away = threading.Event()
    original = Store.publish

    def publish(self: Store, name: str, content: bytes, content_type: str) -> None:
        if is_away.is_set():
            raise ConnectionRefusedError("the store is away")
        original(self, name, content, content_type)

    monkeypatch.setattr(Store, "publish", publish)
    return is_away


def test_a_store_that_was_away_catches_up(tmp_path: Path, away: threading.Event) -> None:
    """What was told meanwhile is there afterwards, and that it could not be written."""
    store = Store(url=str(tmp_path))
    started = time.monotonic()
    away.set()
    with opened(store) as board:
        board.event("note", "unseen")
        until(lambda: num_failures(board) > 1)
        board.progress(7)
        assert not store.exists("status.json")
        away.clear()
        until(lambda: store.exists("events.jsonl") and len(events_of(store)) > 1)
        assert status_of(store).step == 7
    unseen, told = events_of(store)[:2]
    assert unseen["text"] == "unseen"
    assert (told["kind"], told["level"]) == ("away", "warning")
    found = re.fullmatch(r"status could not be written for (\d+) s \((\d+) tries\)", told["text"])
    assert found
    assert int(found[1]) <= time.monotonic() - started + 1
    assert int(found[2]) > 1


def test_a_store_that_stays_away_keeps_no_run_from_its_end(
    tmp_path: Path, away: threading.Event
) -> None:
    """``close`` returns in time and raises nothing."""
    away.set()
    started = time.monotonic()
    with opened(Store(url=str(tmp_path))) as board:
        board.progress(1)
    assert time.monotonic() - started < 2 * board_module._CLOSE_SECONDS


def test_a_store_that_hangs_keeps_no_run_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``close`` waits for an answer as long as it says, no longer."""
    ended, in_store = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        in_store.set()
        ended.wait(60)

    monkeypatch.setattr(Store, "publish", hang)
    monkeypatch.setattr(board_module, "_CLOSE_SECONDS", 0.2)
    with opened(Store(url=str(tmp_path))):
        assert in_store.wait(20)
    assert not ended.is_set()
    ended.set()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_a_bucket_is_down_for_a_while(
    s3_endpoint: str, make_bucket: Callable[[str], str], seconds: float
) -> None:
    """Calls of the loop go on meanwhile; once it is back, nothing that was told is missing."""
    bucket = make_bucket("down")
    settings = BoardSettings(kind="train", name="r", heartbeat_seconds=0.2)
    with fault_proxy(s3_endpoint) as proxy:
        options = {
            "endpoint_url": proxy.url,
            "key": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        }
        store = Store(url=f"{bucket}/run", options=options)
        with opened(store, settings) as board:
            until(lambda: Store(url=f"{bucket}/run").exists("status.json"))
            proxy.choose = lambda _: Refusal(status=503, code="SlowDown")
            end, step = time.monotonic() + seconds, 0
            while time.monotonic() < end or num_failures(board) < 2:
                step += 1
                board.progress(step)
                board.record({"loss": 1.0 / step})
                board.event("note", f"step {step}")
                time.sleep(0.05)
            proxy.choose = lambda _: None
            until(lambda: status_of(store).step == step)
            until(lambda: any(one["kind"] == "away" for one in events_of(store)))
        texts = [one["text"] for one in events_of(store)]
        assert [text for text in texts if text.startswith("step ")] == [
            f"step {number + 1}" for number in range(step)
        ]
        rows = store.read("metrics.jsonl").decode().splitlines()
        assert len(rows) == step


def test_browsers_are_told_to_keep_no_copy(make_bucket: Callable[[str], str]) -> None:
    """Each file of a bucket is answered with ``no-store`` and with what it is."""
    url = make_bucket("headers")
    store = Store(url=url)
    with opened(store) as board:
        board.record({"loss": 1.0})
    found = place_of(url)
    assert found is not None
    client = open_bucket(found[0], {})._client
    kinds = {
        "status.json": "application/json",
        "metrics.jsonl": "application/x-ndjson; charset=utf-8",
        "events.jsonl": "application/x-ndjson; charset=utf-8",
        "index.html": "text/html; charset=utf-8",
        "report.html": "text/html; charset=utf-8",
    }
    for name, kind in kinds.items():
        attributes = obstore.get(client, name).attributes
        assert attributes["Cache-Control"] == "no-store", name
        assert attributes["Content-Type"] == kind, name


def test_no_file_is_ever_seen_torn(tmp_path: Path) -> None:
    """Whoever reads while it is written finds whole JSON, whole lines, and never fewer of them."""
    store = Store(url=str(tmp_path))
    settings = BoardSettings(kind="convert", name="r", heartbeat_seconds=0.001)
    num_events = num_rows = 0
    with opened(store, settings) as board:
        until(lambda: store.exists("index.html"))
        for number in range(1000):
            board.progress(number)
            board.record({"images_per_second": float(number)})
            board.event("note", f"event {number}")
            assert status_of(store).said == "running"
            assert store.read("index.html").endswith(b"</html>\n")
            if number:
                before = num_events, num_rows
                until(lambda: store.exists("events.jsonl"))
                num_events = len(events_of(store))
                rows = store.read("metrics.jsonl").decode().splitlines()
                num_rows = len([json.loads(row) for row in rows])
                assert num_events >= before[0]
                assert num_rows >= before[1]
    assert len(events_of(store)) == 1001
    assert len(store.read("metrics.jsonl").splitlines()) == 1000


def test_records_of_a_checkpoint_are_never_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow side thread that began before a checkpoint's records does not end after them."""
    records = Records(Store(url=str(tmp_path)), "metrics.jsonl")
    in_store, go_on = threading.Event(), threading.Event()
    original = Store.publish

    def slow(self: Store, name: str, content: bytes, content_type: str) -> None:
        in_store.set()
        go_on.wait(20)
        original(self, name, content, content_type)

    monkeypatch.setattr(Store, "publish", slow)
    records.records.append({"step": 1})
    side = threading.Thread(target=records.publish)
    side.start()
    assert in_store.wait(20)
    records.records.append({"step": 2})
    main = threading.Thread(target=records.write)
    main.start()
    main.join(0.1)  # a writer that did not wait would be done by now
    go_on.set()
    main.join()
    side.join()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_long_file_is_not_put_at_every_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its size asks for it is waited, but not at the end."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    records = Records(Store(url=str(tmp_path)), "metrics.jsonl")
    records.records.append({"text": "x" * 400_000})
    records.publish()
    for later, num_lines in ((3.0, 1), (5.0, 2)):
        now = 100.0 + later
        records.records.append({"step": 1})
        records.publish()
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == num_lines + (later > 4)
    records.records.append({"step": 1})
    records.publish(is_last=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_the_report_is_written_with_each_validation(tmp_path: Path) -> None:
    """With new samples the page for pre-signed links is there, while the run goes on."""
    store = Store(url=str(tmp_path))
    sample = Sample(name="i1", jpeg=JPEG, truth=("zebra",), predicted=(("zebra", 0.7),))
    with opened(store) as board:
        until(lambda: store.exists("index.html"))
        assert not store.exists("report.html")
        board.show({"score": 0.3}, [sample])
        until(lambda: store.exists("report.html"))
        assert "zebra" in store.read("report.html").decode()


def test_warnings_of_the_package_are_events(tmp_path: Path) -> None:
    """What is logged in the block stands in the log; what warns is an event too."""
    store, logger = Store(url=str(tmp_path)), logging.getLogger("serengeti_etl.load")
    with opened(store) as board:
        with logged_on(board):
            logger.warning("the store is slow: %d s", 7)
        logger.warning("said outside")
        assert [line for _, line in board.notes.log] == ["the store is slow: 7 s"]
    told = [(one["text"], one["level"]) for one in events_of(store)]
    assert told == [("the store is slow: 7 s", "warning"), ("done: 0 steps", "info")]
    assert logging.getLogger("serengeti_etl").handlers == []
