"""State files survive anything or are refused."""

import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError, Incomplete, RunError
from serengeti_etl.storage import Store
from serengeti_etl.train import outbox as outbox_module
from serengeti_etl.train.checkpoint import Checkpoints, ModelFile, weights_sha256
from serengeti_etl.train.outbox import Outbox


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    """Older states are removed, and the last is what is loaded."""
    run = Store(url=str(tmp_path))
    assert Checkpoints(run).load(print) is None
    for step in (9, 10, 100):
        Checkpoints(run).save(step, {"step": step, "weights": torch.full((3,), float(step))})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000010.pt", "step-000000100.pt"]
    state = Checkpoints(run).load(print)
    assert state is not None
    assert state["step"] == 100
    assert state["weights"].tolist() == [100.0] * 3


@pytest.fixture(scope="module")
def one_state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A state file and its bytes."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(Store(url=str(folder)))
    checkpoints.save(1, {"weights": torch.arange(5)})
    (name,) = checkpoints.arrived()
    return folder, (folder / name).read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_state_cut_or_changed_anywhere_is_refused(
    one_state: tuple[Path, bytes], data: st.DataObject
) -> None:
    """A file cut at any byte, or with any bit flipped, is reported and not used."""
    folder, content = one_state
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content[:place])
    if data.draw(st.booleans()):
        damaged = bytearray(content)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "checkpoints" / "step-000000001.pt").write_bytes(damaged)
    reported: list[str] = []
    with pytest.raises(RunError, match="delete its folder"):
        Checkpoints(Store(url=str(folder))).load(reported.append)
    assert reported == ["checkpoints/step-000000001.pt"]


def test_a_model_is_a_plain_torch_file(tmp_path: Path) -> None:
    """torch.load with weights_only reads it; a missing or cut one is refused with what to do."""
    run = Store(url=str(tmp_path))
    with pytest.raises(ConfigError, match="has not finished"):
        ModelFile.read(run)
    file = ModelFile(
        model="resnet18",
        classes=("empty", "zebra"),
        image_size=(32, 40),
        state_dict={"fc.bias": torch.zeros(2)},
        plan_hash="ab",
        step=7,
    )
    file.write(run)
    value = torch.load(tmp_path / "model.pt", weights_only=True)
    assert value["classes"] == ("empty", "zebra")
    assert ModelFile.read(run).image_size == (32, 40)
    (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is damaged"):
        ModelFile.read(run)


def states_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoints/step-*"))


def test_a_state_nearby_outlives_a_bucket_that_is_away(tmp_path: Path) -> None:
    """A state that could not travel is there nearby, and is what the run goes on from."""
    run, near = Store(url=str(tmp_path / "run")), Store(url=str(tmp_path / "near"))

    def away() -> None:
        raise OSError("the store is away")

    with Outbox() as outbox:
        checkpoints = Checkpoints(run, near, 2, outbox)
        checkpoints.save(1, {"step": 1})
        checkpoints.save(2, {"step": 2}, before=away)
        assert checkpoints.arrived() == ["checkpoints/step-000000001.pt"]
        with pytest.raises(Incomplete, match=r"step-000000002\.pt could not be written within 0 s"):
            checkpoints.finish(0.1)
    assert states_in(tmp_path / "run") == ["step-000000001.pt"]
    assert states_in(tmp_path / "near") == ["step-000000001.pt", "step-000000002.pt"]
    assert checkpoints.load(print) == {"step": 2}
    assert Checkpoints(run).load(print) == {"step": 1}


def test_a_late_state_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is delivered late is the state at its step, not what has become of it meanwhile."""
    monkeypatch.setattr(outbox_module, "RETRY_SECONDS", 0.01)
    is_back = threading.Event()

    def before() -> None:
        if not is_back.is_set():
            raise OSError("the store is away")

    run, weights = Store(url=str(tmp_path)), torch.zeros(3)
    with Outbox() as outbox:
        checkpoints = Checkpoints(run, outbox=outbox)
        checkpoints.save(1, {"weights": weights}, before)
        weights += 1
        is_back.set()
        checkpoints.finish(30)
        assert checkpoints.arrived() == ["checkpoints/step-000000001.pt"]
    state = Checkpoints(run).load(print)
    assert state is not None
    assert state["weights"].tolist() == [0.0] * 3


@pytest.mark.parametrize("damaged", ["run", "near"])
def test_of_two_copies_the_whole_one_counts(tmp_path: Path, damaged: str) -> None:
    """With one copy cut, the other one of the same step is used; with both, the state before."""
    run, near = Store(url=str(tmp_path / "run")), Store(url=str(tmp_path / "near"))
    checkpoints = Checkpoints(run, near)
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    (tmp_path / damaged / "checkpoints" / "step-000000002.pt").write_bytes(b"cut")
    reported: list[str] = []
    assert checkpoints.load(reported.append) == {"step": 2}
    other = {"run": "near", "near": "run"}[damaged]
    (tmp_path / other / "checkpoints" / "step-000000002.pt").write_bytes(b"cut")
    assert checkpoints.load(reported.append) == {"step": 1}


def test_as_many_states_are_kept_as_were_asked_for(tmp_path: Path) -> None:
    """Of five states three stay, here and nearby."""
    run, near = Store(url=str(tmp_path / "run")), Store(url=str(tmp_path / "near"))
    for step in range(5):
        Checkpoints(run, near, num_kept=3).save(step, {"step": step})
    kept = [f"step-00000000{step}.pt" for step in (2, 3, 4)]
    assert states_in(tmp_path / "run") == states_in(tmp_path / "near") == kept


def test_nothing_in_a_state_is_executed(tmp_path: Path) -> None:
    """A state with a function in it, though its checksum fits, is refused and not run."""
    run = Store(url=str(tmp_path))
    Checkpoints(run).save(1, {"harmless": print})
    reported: list[str] = []
    with pytest.raises(RunError, match="are damaged"):
        Checkpoints(run).load(reported.append)
    assert reported == ["checkpoints/step-000000001.pt"]


def test_a_model_of_a_newer_version_is_called_so(tmp_path: Path) -> None:
    """Fields that this version does not know are named; a file without its own is damaged."""
    store = Store(url=str(tmp_path))
    value = {"model": "resnet18", "classes": ("empty",), "image_size": (32, 32), "state_dict": {}}
    more = {"plan_hash": "0", "step": 1, "tiles": 4, "horizon": 0.3}

    def written(value: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        store.write("model.pt", buffer.getvalue())

    written(value | more)
    with pytest.raises(ConfigError, match=r"newer version .* has horizon, tiles, which this one"):
        ModelFile.read(store)
    for damaged in (value, {"conv1.weight": torch.zeros(1)}):
        written(damaged)
        with pytest.raises(ConfigError, match=r"model\.pt in .* is damaged: .* missing"):
            ModelFile.read(store)


def test_weights_have_a_checksum_of_their_own(tmp_path: Path) -> None:
    """The same in any file, order and layout; another with one number, type or name changed."""
    weights = {
        "a": torch.arange(24.0).reshape(1, 2, 3, 4),
        "b": torch.tensor(3),
        "c": torch.ones(2, dtype=torch.bfloat16),
    }
    sha256 = weights_sha256(weights)
    torch.save(weights, tmp_path / "weights.pt")
    read = torch.load(tmp_path / "weights.pt", weights_only=True)
    read["a"] = read["a"].contiguous(memory_format=torch.channels_last)
    assert weights_sha256(dict(reversed(read.items()))) == sha256
    assert weights_sha256(weights | {"b": torch.tensor(4)}) != sha256
    assert weights_sha256(weights | {"b": torch.tensor(3.0)}) != sha256
    assert (
        weights_sha256({"x" if name == "a" else name: weights[name] for name in weights}) != sha256
    )
