"""What a training says of itself, seen from elsewhere: alive, killed, hung, failed, finished."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.runs.board import Board, BoardSettings
from serengeti_etl.runs.records import Records
from serengeti_etl.runs.status import State, Status
from serengeti_etl.storage import Store
from serengeti_etl.train import showcase
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.predictions import Predictions
from serengeti_etl.train.settings import Event, TrainSettings
from serengeti_etl.train.showcase import Showcase
from serengeti_etl.train.telling import BoardTeller
from tests.browser import PHONE, Browser
from tests.dataset_factory import CLASSES, Recipe, make_dataset
from tests.fault_proxy import fault_proxy
from tests.fault_server import Refusal
from tests.runs.test_board import num_failures
from tests.runs.test_page import AT_A_TIME
from tests.servers import S3_CREDENTIALS
from tests.train import tiny
from tests.train.test_stop import ROOT, command_of

SETTINGS = TrainSettings(device="cpu", num_threads=1, checkpoint_every=4, log_every=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch)


def status_of(run: Path) -> Status:
    return Status.from_json(json.loads((run / "status.json").read_text()), "status.json")


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def training(
    dataset: str, folder: Path, *options: str, holds_at: int = 0, more: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A real ``serengeti-etl train`` whose board writes every half second."""
    command = [*command_of(dataset, folder, 0, holds_at=holds_at), *options]
    fast = "from serengeti_etl.runs import notes\nnotes._HEARTBEAT_SECONDS['folder'] = 0.5\n"
    with (folder / "my recipes" / "tiny.py").open("a") as recipe:
        recipe.write(fast + more)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def has_done(run: Path, num_steps: int) -> Callable[[], bool]:
    return lambda: (run / "status.json").exists() and status_of(run).step >= num_steps


def state_on_page(browser: Browser, run: Path, now: float) -> str:
    """What the page's badge says to somebody whose clock shows ``now``."""
    with browser.show((run / "index.html").as_uri(), PHONE) as shown:
        shown.check()
        return str(shown.page.evaluate(AT_A_TIME, now)["state"])


@pytest.mark.slow
def test_a_killed_run_is_lost_and_goes_on_where_it_was(
    browser: Browser, dataset: str, tmp_path: Path
) -> None:
    """RUNNING while it lives, LOST soon after SIGKILL; begun again, it adds to what it said."""
    run = tmp_path / "run"
    night = ("--hourly-rate", "2", "--name", "night")
    with training(dataset, tmp_path, *night, holds_at=9) as process:
        until(has_done(run, 8), process)
        status = status_of(run)
        assert (status.kind, status.name, status.num_steps) == ("train", "night", tiny.NUM_STEPS)
        assert state_on_page(browser, run, time.time()) == "RUNNING"
        process.send_signal(signal.SIGKILL)
        process.wait()
    status, page = status_of(run), (run / "index.html").read_text()
    assert status.state(status.heartbeat_at + 1) is State.RUNNING
    assert status.state(status.heartbeat_at + 31) is State.LOST
    assert state_on_page(browser, run, status.heartbeat_at + 31) == "LOST"
    assert "<h1>night" in page
    events = rows_of(run, "events.jsonl")
    with training(dataset, tmp_path, "--hourly-rate", "2") as process:
        assert process.wait(120) == 0, process.stderr and process.stderr.read()
    after = status_of(run)
    assert (after.said, after.step, after.run_id) == ("done", tiny.NUM_STEPS, status.run_id)
    assert after.seconds_before == pytest.approx(status.seconds)
    assert after.cost == pytest.approx(2 * after.seconds / 3600)
    assert rows_of(run, "events.jsonl")[: len(events)] == events
    kinds = [one["kind"] for one in rows_of(run, "events.jsonl")[len(events) :]]
    assert kinds[0] == "resume"
    assert kinds[-1] == "done"
    assert state_on_page(browser, run, time.time() + 1e6) == "DONE"
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_a_signal_is_told_with_its_checkpoint(
    browser: Browser, dataset: str, tmp_path: Path
) -> None:
    """After SIGTERM the run says that it was stopped, and what was saved."""
    run = tmp_path / "run"
    with training(dataset, tmp_path, holds_at=3) as process:
        until(has_done(run, 2), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3
    assert status_of(run).said == "stopped"
    assert "saved as checkpoints/step-" in status_of(run).reason
    assert rows_of(run, "events.jsonl")[-1]["kind"] == "stopped"
    assert state_on_page(browser, run, time.time() + 1e6) == "STOPPED"


DIVERGES = """
import math
from dataclasses import replace
recipe = replace(recipe, stages=tuple(replace(s, learning_rate=1e38) for s in recipe.stages))
"""


def test_a_loss_that_is_no_number_fails_the_run(
    browser: Browser, dataset: str, tmp_path: Path
) -> None:
    """The page says FAILED and why, and nothing on it or in the files is NaN."""
    run = tmp_path / "run"
    with training(dataset, tmp_path, more=DIVERGES) as process:
        assert process.wait(120) == 4
    status = status_of(run)
    assert status.said == "failed"
    assert "no longer finite" in status.reason
    assert rows_of(run, "events.jsonl")[-1]["level"] == "critical"
    assert state_on_page(browser, run, time.time() + 1e6) == "FAILED"
    assert "no longer finite" in (run / "index.html").read_text()


HANGS = """
def stuck_at_the_store():
    time.sleep(600)

def hang(self, stage, parts):
    original(self, stage, parts)
    if self._place.step == 3:
        stuck_at_the_store()

patch.setattr(loop._Trainer, "_step", hang)
"""


def test_a_hung_step_is_named_with_its_stack(
    browser: Browser, dataset: str, tmp_path: Path
) -> None:
    """Within its time a critical event names the call, the state is STALLED, the stack is there."""
    run = tmp_path / "run"

    def hung() -> list[dict[str, Any]]:
        # On a machine that is busy it may have hung before, while it began.
        rows = rows_of(run, "events.jsonl") if (run / "events.jsonl").exists() else []
        return [one for one in rows if one["kind"] == "hang" and "stuck_at" in one["text"]]

    with training(dataset, tmp_path, "--stall-after", "2", more=HANGS) as process:
        until(has_done(run, 2), process)
        started = time.monotonic()
        until(lambda: bool(hung()), process)
        until((run / "stack.txt").exists, process)
        until(lambda: status_of(run).state(time.time()) is State.STALLED, process)
        assert time.monotonic() - started < 30
        assert hung()[0]["level"] == "critical"
        assert "stands in stuck_at_the_store (tiny.py:" in hung()[0]["text"]
        assert "in _train_epoch" in (run / "stack.txt").read_text()
        assert state_on_page(browser, run, time.time()) == "STALLED"


def test_a_board_changes_nothing(dataset: str, tmp_path: Path) -> None:
    """With and without a board a run has the same weights and records, times apart."""
    for name in ("with", "without"):
        url = str(tmp_path / name)
        settings = BoardSettings(kind="train", name=name, heartbeat_seconds=0.001)
        with Board(Store(url=url), settings) as board:
            tell: Any = BoardTeller(board).tell if name == "with" else lambda _: None
            train(dataset, url, tiny.RECIPE, settings=SETTINGS, on_event=tell)
    one, other = (ModelFile.read(Store(url=str(tmp_path / n))) for n in ("with", "without"))
    assert all(torch.equal(value, other.state_dict[key]) for key, value in one.state_dict.items())
    timed = {"time", "images_per_second", "data_wait", "ready"}
    records = [
        [{k: v for k, v in row.items() if k not in timed} for row in rows_of(run, "metrics.jsonl")]
        for run in (tmp_path / "with", tmp_path / "without")
    ]
    assert records[0] == records[1]
    assert not (tmp_path / "without" / "status.json").exists()


def test_the_best_score_is_told(tmp_path: Path) -> None:
    """A validation that the loop calls the best is a ``best``, its score the best there is."""
    board = Board(Store(url=str(tmp_path)), BoardSettings(kind="train", name="r"))
    teller = BoardTeller(board)
    metrics = Records(board.store, "metrics.jsonl")
    start = {"run_id": "a", "device": "cpu", "metrics": metrics, "stages": [("small", 9)]}
    where: dict[str, Any] = {"stage": "small", "num_epochs": 9, "num_steps": 9}
    with board:
        teller.tell(Event(kind="resume", epoch=0, step=0, values=start, **where))
        for at, score in enumerate((0.6, 0.4, 0.45, 0.3)):
            values = {"score": score, "class_means_score": 0.7, "samples": [], "is_best": at % 2}
            teller.tell(Event(kind="validated", epoch=at, step=at, values=values, **where))
    kinds = [one["kind"] for one in rows_of(tmp_path, "events.jsonl")]
    assert kinds == ["resume", "validated", "best", "validated", "best", "done"]
    assert status_of(tmp_path).values["best_score"] == 0.3


def test_records_between_checkpoints_are_on_storage(dataset: str, tmp_path: Path) -> None:
    """The board puts records there before their checkpoint does; a run resumes all the same."""
    settings = BoardSettings(kind="train", name="r", heartbeat_seconds=0.001)
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(dataset, str(whole), tiny.RECIPE, settings=SETTINGS)

    class Killed(BaseException):
        pass

    def tell_until(step: int, teller: BoardTeller, event: Event) -> None:
        teller.tell(event)
        if event.kind == "step" and event.step == step:
            until(lambda: has_records() and len(rows_of(run, "metrics.jsonl")) >= 4)
            raise Killed

    def has_records() -> bool:
        return (run / "metrics.jsonl").exists()

    board = Board(Store(url=str(run)), settings)
    teller = BoardTeller(board)
    with pytest.raises(Killed):
        train(
            dataset,
            str(run),
            tiny.RECIPE,
            settings=SETTINGS,
            on_event=lambda event: tell_until(7, teller, event),
        )
    board.close("failed", "killed")
    # Steps 2, 4, 6 and the validation at 6; the checkpoint at the end of the epoch is of step 6.
    steps = [row["step"] for row in rows_of(run, "metrics.jsonl")]
    assert steps == [2, 4, 6, 6]
    train(dataset, str(run), tiny.RECIPE, settings=SETTINGS)
    assert [row["step"] for row in rows_of(run, "metrics.jsonl")] == [
        row["step"] for row in rows_of(whole, "metrics.jsonl")
    ]


@pytest.mark.parametrize("sizes", [(30, 25), (5,)])
def test_photographs_are_shown_with_what_is_made_of_them(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    """Eight of other sequences, blanks that fill batches left out, each with its own figures."""
    made = make_dataset(str(tmp_path / "dataset"), Recipe(sizes={"train": (4,), "val": sizes}))
    settings = LoaderSettings(image_size=(48, 64), num_threads=1).for_evaluation()
    kept = Showcase()
    with ShardLoader(made, split="val", batch_size=7, settings=settings) as loader:
        batches = list(kept.keep(loader))
    names = [
        name
        for batch in batches
        for name, is_real in zip(batch.image_ids, batch.mask_B.tolist(), strict=True)
        if is_real
    ]
    seq_ids = [
        name
        for batch in batches
        for name, is_real in zip(batch.seq_ids, batch.mask_B.tolist(), strict=True)
        if is_real
    ]
    targets_NC = np.concatenate([b.targets_BC[b.mask_B].numpy() for b in batches]).astype(float)
    draw = np.random.default_rng(3)
    probabilities_NC = draw.random(targets_NC.shape)
    predictions = Predictions(
        names=tuple(names),
        seq_ids=tuple(seq_ids),
        targets_NC=targets_NC,
        probabilities_NC=probabilities_NC,
    )
    samples = kept.samples(predictions, CLASSES)
    assert 1 < len(samples) <= 8
    shown = [seq_ids[names.index(one.name)] for one in samples]
    assert len(set(shown)) == len(shown)
    pixels = {
        name: batch.images_BCHW[at] for batch in batches for at, name in enumerate(batch.image_ids)
    }
    for one in samples:
        row = names.index(one.name)
        assert one.truth == tuple(np.array(CLASSES)[targets_NC[row] > 0])
        assert [p for _, p in one.predicted] == sorted(probabilities_NC[row], reverse=True)[:3]
        assert one.predicted[0][0] == CLASSES[int(probabilities_NC[row].argmax())]
        decoded = simplejpeg.decode_jpeg(one.jpeg, colorspace="RGB")
        expected = pixels[one.name].permute(1, 2, 0).numpy()
        assert decoded.shape == expected.shape
        assert np.abs(decoded.astype(int).mean((0, 1)) - expected.mean((0, 1))).max() < 4


def test_photographs_are_small() -> None:
    """Even of noise no JPEG is above its size, whatever the size of the photograph."""
    noise_CHW = torch.randint(0, 256, (3, 384, 512), dtype=torch.uint8)
    jpeg = showcase._small_jpeg(noise_CHW)
    assert len(jpeg) <= showcase.MOST_BYTES
    assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (128, 170)


def test_the_page_of_a_demo_is_small(dataset: str, tmp_path: Path) -> None:
    """A finished training's page has curves, samples and at most 200 KB."""
    url = str(tmp_path / "run")
    with Board(Store(url=url), BoardSettings(kind="train", name="r")) as board:
        tell = BoardTeller(board).tell
        train(dataset, url, tiny.RECIPE, settings=SETTINGS, on_event=tell)
    page = (tmp_path / "run" / "report.html").read_text()
    assert len(page) < 200_000
    assert page.count("<svg viewBox") == 4
    assert page.count("data:image/jpeg;base64,") >= 2
    shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
def test_a_bucket_that_is_down_for_a_while_stops_no_training(
    dataset: str, s3_endpoint: str, make_bucket: Callable[[str], str]
) -> None:
    """Steps go on while nothing can be written; in the end status, records and model are there."""
    options = {
        "key": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "secret": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    url = f"{make_bucket('down')}/run"
    with fault_proxy(s3_endpoint) as proxy:
        options["endpoint_url"] = proxy.url
        board_settings = BoardSettings(kind="train", name="r", heartbeat_seconds=0.1)
        settings = TrainSettings(device="cpu", num_threads=1, run_options=options, log_every=1)
        store = Store(url=url, options=options)
        with Board(store, board_settings) as board:
            teller = BoardTeller(board)

            def tell(event: Event) -> None:
                teller.tell(event)
                if event.kind != "step":
                    return
                time.sleep(0.2)
                if event.step == 7:  # the checkpoint of the first epoch is there
                    proxy.choose = lambda _: Refusal(status=503, code="SlowDown")
                elif event.step == 11:
                    until(lambda: num_failures(board) > 1)
                    proxy.choose = lambda _: None

            train(dataset, url, tiny.RECIPE, settings=settings, on_event=tell)
    there = Store(url=url)
    assert there.exists("model.pt")
    status = Status.from_json(there.read_json("status.json"), "status.json")
    assert (status.said, status.step) == ("done", tiny.NUM_STEPS)
    events = [json.loads(line) for line in there.read("events.jsonl").decode().splitlines()]
    assert "away" in [one["kind"] for one in events]
    rows = [json.loads(line) for line in there.read("metrics.jsonl").decode().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, tiny.NUM_STEPS + 1))
