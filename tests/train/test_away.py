"""Stores that are away while a network trains: the training goes on, and loses nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from serengeti_etl import lease, retry
from serengeti_etl.errors import Incomplete, ShardError
from serengeti_etl.storage import Store
from serengeti_etl.train import outbox
from serengeti_etl.train.checkpoint import BEST_FILE, MODEL_FILE, Checkpoints, ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.settings import Event, TrainSettings
from tests.dataset_factory import make_dataset
from tests.fault_proxy import fault_proxy
from tests.fault_server import FaultServer, Refusal, Request
from tests.servers import S3_CREDENTIALS
from tests.train import tiny

BUSY = Refusal(status=503, code="SlowDown")
KEYS = {
    "key": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
    "secret": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
}


@pytest.fixture(autouse=True)
def _tiny_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch)
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(retry, "_LONGEST_WAIT_SECONDS", 0.05)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


@pytest.fixture(scope="module")
def undisturbed(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """What a run comes to that nothing happened to."""
    run = str(tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        train(dataset, run, tiny.RECIPE, settings=TrainSettings(device="cpu", num_threads=1))
    return ModelFile.read(Store(url=run))


def check_equal(found: ModelFile, expected: ModelFile) -> None:
    assert found.step == expected.step
    assert found.state_dict.keys() == expected.state_dict.keys()
    for name, value in expected.state_dict.items():
        assert torch.equal(found.state_dict[name], value), name


def states_of(run: Store) -> list[str]:
    return [name.rpartition("/")[2] for name in run.list("checkpoints") if "step-" in name]


def test_what_is_to_be_saved_waits_for_a_bucket(
    dataset: str, undisturbed: ModelFile, s3_endpoint: str, make_bucket: Callable[[str], str]
) -> None:
    """Over checkpoints, a validation and a best model: all come later, with the same weights."""
    url, kinds = f"{make_bucket('away')}/run", list[tuple[str, int]]()
    with fault_proxy(s3_endpoint) as proxy:
        options = KEYS | {"endpoint_url": proxy.url}
        settings = TrainSettings(
            device="cpu", num_threads=1, run_options=options, checkpoint_every=2
        )

        def tell(event: Event) -> None:
            kinds.append((event.kind, event.step))
            if event.kind == "step" and event.step == 3:
                proxy.choose = lambda _: BUSY
            elif event.kind == "step" and event.step == 11:
                assert ("checkpoint", 4) not in kinds
                proxy.choose = lambda _: None
                time.sleep(1)  # what is late comes meanwhile

        train(dataset, url, tiny.RECIPE, settings=settings, on_event=tell)
    run = Store(url=url)
    assert [step for kind, step in kinds if kind == "late"] == [4]
    assert len([step for kind, step in kinds if kind == "checkpoint" and step >= 11]) > 1
    check_equal(ModelFile.read(run), undisturbed)
    assert ModelFile.read(run, BEST_FILE).step > 0
    assert states_of(run)[-1] == f"step-{tiny.NUM_STEPS:09d}.pt"


def test_a_run_that_is_stopped_meanwhile_goes_on_from_what_came(
    dataset: str,
    undisturbed: ModelFile,
    s3_endpoint: str,
    make_bucket: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says what did not come; the same call ends with the same weights."""
    monkeypatch.setattr(Checkpoints.finish, "__defaults__", (0.1,))
    # The process lives on, and its lease cannot be deleted while the store is away.
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.5)
    run = Store(url=f"{make_bucket('stopped')}/run")
    with fault_proxy(s3_endpoint) as proxy:
        options = KEYS | {"endpoint_url": proxy.url}
        settings = TrainSettings(
            device="cpu", num_threads=1, run_options=options, checkpoint_every=2
        )
        stopping = threading.Event()

        def tell(event: Event) -> None:
            if event.kind == "step" and event.step == 7:
                proxy.choose = lambda _: BUSY
            elif event.kind == "step" and event.step == 9:
                stopping.set()

        more: dict[str, Any] = {"on_event": tell, "should_stop": stopping.is_set}
        with pytest.raises(Incomplete, match=r"step-000000009\.pt could not be written"):
            train(dataset, run.url, tiny.RECIPE, settings=settings, **more)
        proxy.choose = lambda _: None
        there = states_of(run)
        assert there[-1] < "step-000000009.pt"
        time.sleep(lease.LIFE_SECONDS)  # then it is over, too
        assert states_of(run) == there, "something came of a run that had ended"
        train(dataset, run.url, tiny.RECIPE, settings=settings)
    check_equal(ModelFile.read(run), undisturbed)
    assert run.exists(MODEL_FILE)


@pytest.fixture
def shards(
    dataset: str, s3_endpoint: str, make_bucket: Callable[[str], str]
) -> Iterator[tuple[str, FaultServer]]:
    """Url of the same dataset in a bucket, and a proxy before it."""
    url = make_bucket("shards")
    there = Store(url=url)
    for path in Path(dataset).rglob("*"):
        if path.is_file():
            there.write(path.relative_to(dataset).as_posix(), path.read_bytes())
    with fault_proxy(s3_endpoint) as proxy:
        yield url, proxy


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".parquet", ".tar"])
def test_index_and_shards_are_waited_for(
    kind: str, shards: tuple[str, FaultServer], undisturbed: ModelFile, tmp_path: Path
) -> None:
    """They are away as a stage begins: the same weights, only later; without patience none."""
    url, proxy = shards

    def fault(request: Request) -> Refusal | None:
        return BUSY if request.key.endswith(kind) else None

    def settings(name: str, patience_seconds: float) -> TrainSettings:
        return TrainSettings(
            device="cpu",
            num_threads=1,
            dataset_options=KEYS | {"endpoint_url": proxy.url},
            cache_folder=str(tmp_path / f"cache-{name}"),
            patience_seconds=patience_seconds,
        )

    def break_down(event: Event) -> None:
        if event.kind == "start":
            proxy.choose = fault

    def break_down_and_mend(event: Event) -> None:
        break_down(event)
        if event.kind == "start":
            # By then every request has been refused more often than a single one is tried.
            threading.Timer(1.0, lambda: setattr(proxy, "choose", lambda _: None)).start()

    run = str(tmp_path / "run")
    train(url, run, tiny.RECIPE, settings=settings("patient", 60), on_event=break_down_and_mend)
    check_equal(ModelFile.read(Store(url=run)), undisturbed)
    other = str(tmp_path / "other")
    with pytest.raises((ShardError, OSError), match="503"):
        train(url, other, tiny.RECIPE, settings=settings("impatient", 0), on_event=break_down)
