"""A bucket that is away for a whole minute, with the waits that users have."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from serengeti_etl.runs.board import Board, BoardSettings
from serengeti_etl.runs.look import look_at
from serengeti_etl.runs.status import State
from serengeti_etl.storage import Store
from serengeti_etl.train import outbox as outbox_module
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.settings import Event, TrainSettings
from serengeti_etl.train.telling import BoardTeller
from tests.dataset_factory import make_dataset
from tests.fault_proxy import fault_proxy
from tests.fault_server import Fault, FaultServer, Refusal, Silence
from tests.servers import S3_CREDENTIALS
from tests.train import tiny

SECONDS_AWAY = 60.0
PROMPT_SECONDS = outbox_module.PROMPT_SECONDS
"""As users have it."""

STEP_SECONDS = 6.0
"""Of a step while it is away: several are made meanwhile, and checkpoints with each second one."""

KEYS = {
    "key": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
    "secret": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
}


class Outage:
    """Hears a training's events; from its third step on the bucket is away for a minute.

    Args:
        proxy: before the bucket.
        fault: what each request meets.
    """

    def __init__(self, proxy: FaultServer, fault: Fault) -> None:
        self._proxy, self._fault = proxy, fault
        self._end = threading.Timer(SECONDS_AWAY, self._come_back)
        self.is_away = False
        self.steps_away: list[float] = []
        self.kinds: list[str] = []

    def hear(self, event: Event) -> None:
        """To be given as ``on_event``."""
        self.kinds.append(event.kind)
        if event.kind == "step" and event.step == 3:
            self.is_away, self._proxy.choose = True, lambda _: self._fault
            self._end.start()
        if event.kind == "step" and self.is_away:
            self.steps_away.append(time.monotonic())
            time.sleep(STEP_SECONDS)

    def _come_back(self) -> None:
        self._proxy.choose = lambda _: None
        self.is_away = False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [Refusal(status=503, code="SlowDown"), Silence()])
def test_a_minute_without_the_bucket(
    fault: Fault,
    s3_endpoint: str,
    make_bucket: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The training goes on, its status catches up, and no weight differs; refused or unheard."""
    monkeypatch.setattr(outbox_module, "PROMPT_SECONDS", PROMPT_SECONDS)
    tiny.install(monkeypatch)
    dataset = make_dataset(str(tmp_path / "dataset")).store.url
    undisturbed = str(tmp_path / "undisturbed")
    quiet = TrainSettings(device="cpu", num_threads=1, checkpoint_every=2)
    train(dataset, undisturbed, tiny.RECIPE, settings=quiet)
    with fault_proxy(s3_endpoint) as proxy:
        outage = Outage(proxy, fault)
        options = KEYS | {"endpoint_url": proxy.url}
        run = Store(url=f"{make_bucket('minute')}/run", options=options)
        board = Board(run, BoardSettings(kind="train", name="lions", heartbeat_seconds=1.0))
        settings = TrainSettings(
            device="cpu", num_threads=1, checkpoint_every=2, run_options=options
        )

        def hear(event: Event) -> None:
            teller.tell(event)
            outage.hear(event)

        with board:
            teller = BoardTeller(board)
            train(dataset, run.url, tiny.RECIPE, settings=settings, on_event=hear)
        look = look_at(run)
    waits = [b - a for a, b in zip(outage.steps_away, outage.steps_away[1:], strict=False)]
    assert len(waits) >= 4, waits
    assert max(waits) < 2 * STEP_SECONDS + 5, waits
    assert look.status is not None
    assert look.status.state(time.time()) is State.DONE
    assert look.status.step == tiny.NUM_STEPS
    found, expected = ModelFile.read(Store(url=run.url)), ModelFile.read(Store(url=undisturbed))
    for name, value in expected.state_dict.items():
        assert torch.equal(found.state_dict[name], value), name
    assert ("late" in outage.kinds) == isinstance(fault, Refusal), outage.kinds
