"""Two trainings of one run: the second is refused, and the first ends as if alone."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl import lease
from serengeti_etl.errors import ConfigError, OutputHeld
from serengeti_etl.lease import LEASE_FILE, hold
from serengeti_etl.storage import Store
from serengeti_etl.train.loop import train
from serengeti_etl.train.ranks import Ranks
from serengeti_etl.train.recipe import Recipe
from serengeti_etl.train.settings import Event, TrainSettings
from tests.conftest import files_below
from tests.dataset_factory import make_dataset
from tests.leases import again_and_again, elsewhere, lose
from tests.train import tiny

SETTINGS = TrainSettings(checkpoint_every=2, log_every=4, num_threads=1, device="cpu")


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


def go(dataset: str, run: str, on_event: Callable[[Event], None] = lambda _: None) -> None:
    train(dataset, run, tiny.RECIPE, settings=SETTINGS, on_event=on_event)


def test_the_second_is_refused_and_the_first_not_disturbed(dataset: str, tmp_path: Path) -> None:
    """Tried at every step of the first, whose files are those of one that was alone."""
    alone, out = tmp_path / "alone", tmp_path / "out"
    go(dataset, str(alone))
    num_refused = 0

    def second(event: Event) -> None:
        nonlocal num_refused
        if event.kind == "step":
            before = files_below(out)
            with pytest.raises(OutputHeld, match=f"{out} is being written by process"):
                go(dataset, str(out))
            assert files_below(out) == before
            num_refused += 1

    go(dataset, str(out), second)
    assert num_refused == tiny.NUM_STEPS
    assert files_below(out).keys() == files_below(alone).keys()
    assert LEASE_FILE not in files_below(out)
    assert (out / "model.pt").read_bytes() == (alone / "model.pt").read_bytes()


def test_one_that_was_taken_over_saves_nothing_more(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops after the step in hand and says who has the run now; the states stay as they are."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.3)
    other, steps, saved = elsewhere(600), list[int](), dict[str, bytes]()

    def taken_over(event: Event) -> None:
        if event.kind == "step":
            steps.append(event.step)
        if event.kind == "step" and event.step == 5:
            lose(tmp_path, other)
            saved.update(files_below(tmp_path))

    with pytest.raises(OutputHeld, match=r"was taken over by process .* on far-away"):
        go(dataset, str(tmp_path), taken_over)
    assert steps == [1, 2, 3, 4, 5]
    assert files_below(tmp_path) == saved
    assert saved[LEASE_FILE] == other.as_bytes()
    assert "model.pt" not in saved


def test_all_ranks_stop_when_the_first_has_lost_the_run(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first asks all of them, and what it raises is raised everywhere."""
    asked = list[bool]()
    real = Ranks.any

    def any_of(self: Ranks, flag: bool) -> bool:  # noqa: FBT001
        asked.append(flag)
        return real(self, flag)

    monkeypatch.setattr(Ranks, "any", any_of)
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.3)

    def taken_over(event: Event) -> None:
        if event.kind == "step" and event.step == 2:
            lose(tmp_path, elsewhere(600))
            asked.clear()

    with pytest.raises(OutputHeld):
        go(dataset, str(tmp_path), taken_over)
    assert asked == [True, True]


def test_a_machine_that_died_is_waited_for(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere nobody sees a death: the run goes on when the lease was not renewed for a life."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 1.0)
    (tmp_path / LEASE_FILE).write_bytes(elsewhere(1.0).as_bytes())
    started = time.monotonic()
    go(dataset, str(tmp_path))
    assert time.monotonic() - started >= 1.0
    assert (tmp_path / "model.pt").exists()
    assert not (tmp_path / LEASE_FILE).exists()


def test_a_machine_that_lives_is_seen_at_its_next_renewal(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused, and has written nothing."""
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_machine", lambda: "another")
        held = hold(Store(url=str(tmp_path)))
        first = held.__enter__()
    with (
        again_and_again(first._renew),  # as its thread does, but sooner
        pytest.raises(OutputHeld, match="is being written by process"),
    ):
        go(dataset, str(tmp_path))
    assert set(files_below(tmp_path)) == {LEASE_FILE}
    held.__exit__(None, None, None)


def test_what_is_refused_holds_nothing(dataset: str, tmp_path: Path) -> None:
    """A recipe that does not fit leaves no trace; nor does a run of something else a lease."""
    wrong = Recipe(model="resnet18", stages=(replace(tiny.RECIPE.stages[0], batch_size=999),))
    with pytest.raises(ConfigError):
        train(dataset, str(tmp_path), wrong, settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []
    go(dataset, str(tmp_path))
    with pytest.raises(ConfigError, match="run of something else"):
        train(dataset, str(tmp_path), replace(tiny.RECIPE, seed=7), settings=SETTINGS)
    assert not (tmp_path / LEASE_FILE).exists()
