"""Training runs: exact resume, refusals, and that something is learned."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.errors import ConfigError, Incomplete, RunError
from serengeti_etl.load.augment import Augment
from serengeti_etl.load.read_table import read_images
from serengeti_etl.load.selection import EVERYTHING
from serengeti_etl.storage import Store
from serengeti_etl.train import loop
from serengeti_etl.train.checkpoint import Checkpoints, ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.metrics import class_means
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import Event, TrainSettings
from serengeti_etl.train.validation import Validation
from tests.dataset_factory import Recipe as DatasetRecipe
from tests.dataset_factory import make_dataset
from tests.train import tiny

SETTINGS = TrainSettings(checkpoint_every=2, log_every=4, num_threads=1, device="cpu")
ROOT = Path(__file__).parents[2]


class Stop(Exception):  # noqa: N818 - stands for a kill
    """What a test stops a run with."""


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


@pytest.fixture(scope="module")
def undisturbed(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    run = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        train(dataset, str(run), tiny.RECIPE, settings=SETTINGS)
    return run


def stop_at(step: int, kind: str = "step") -> Callable[[Event], None]:
    """A callback that stops the run at the first event of this kind from ``step`` on."""

    def callback(event: Event) -> None:
        if event.kind == kind and event.step >= step:
            raise Stop

    return callback


def model_of(run: Path, name: str = "model.pt") -> ModelFile:
    """The weights of a run."""
    return ModelFile.read(Store(url=str(run)), name)


def records_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    timed = ("time", "images_per_second", "data_wait", "ready")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def assert_same_run(run: Path, other: Path) -> None:
    """Final weights, best weights and metrics are equal, to the bit."""
    for name in ("model.pt", "checkpoints/best.pt"):
        left, right = model_of(run, name), model_of(other, name)
        assert left.state_dict.keys() == right.state_dict.keys()
        for key, tensor in left.state_dict.items():
            assert torch.equal(tensor, right.state_dict[key]), key
        assert (left.step, left.image_size) == (right.step, right.image_size)
    assert records_of(run) == records_of(other)


def test_a_run_leaves_model_metrics_and_two_checkpoints(dataset: str, undisturbed: Path) -> None:
    """What DESIGN promises of a run's folder is there, and the steps add up."""
    assert model_of(undisturbed).step == tiny.NUM_STEPS
    assert model_of(undisturbed).classes == ("empty", "giraffe", "zebra")
    assert json.loads((undisturbed / "run.json").read_text())["dataset"] == dataset
    names = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert names == ["best.pt", "step-000000020.pt", "step-000000021.pt"]
    records = records_of(undisturbed)
    assert [r["step"] for r in records if r["kind"] == "train"] == [4, 8, 12, 16, 20]
    assert [r["step"] for r in records if r["kind"] == "val"] == [6, 12, 21]


@pytest.mark.parametrize("step", [1, 2, 5, 6, 11, 12, 13, 20, 21])
def test_a_stopped_run_ends_with_identical_weights(
    dataset: str, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    """Stopped after any step and called again: the same weights and metrics, bit for bit."""
    with pytest.raises(Stop):
        train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=stop_at(step))
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("kind", ["validated", "checkpoint", "done"])
def test_stops_between_steps_change_nothing(
    dataset: str, undisturbed: Path, tmp_path: Path, kind: str
) -> None:
    """Stopped after each validation, checkpoint or at the end, again and again: the same."""
    for step in (0, 7, 13):
        with pytest.raises(Stop):
            train(
                dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=stop_at(step, kind)
            )
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS)
    assert_same_run(tmp_path, undisturbed)


def test_the_best_score_is_known_across_processes(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation is the best if none had a lower score, those before a stop too."""
    scripted = iter((0.5, 0.6, 0.4))
    honest = Validation.scores
    monkeypatch.setattr(
        Validation, "scores", lambda *given: replace(honest(*given), score=next(scripted))
    )
    told: list[tuple[bool, float | None]] = []

    def hear(event: Event) -> None:
        if event.kind == "validated":
            told.append((event.values["is_best"], event.values["best_before"]))

    def hear_and_stop(event: Event) -> None:
        hear(event)
        stop_at(8)(event)

    with pytest.raises(Stop):
        train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=hear_and_stop)
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=hear)
    assert told == [(True, None), (False, 0.5), (True, 0.5)]


def test_a_killed_process_ends_with_identical_weights(
    dataset: str, undisturbed: Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments, then the same call: the same weights and metrics."""
    script = f"""
import pytest, time, torch
from tests.train import tiny
from tests.train.test_loop import SETTINGS
from serengeti_etl.train.loop import train
from serengeti_etl.train.metrics import class_means
tiny.install(pytest.MonkeyPatch())
torch.set_num_threads({torch.get_num_threads()})
def tell(event):
    print(event.kind, event.step, flush=True)
    time.sleep(0.02)
    while (event.kind, event.step) == ("step", 19):  # between two checkpoints, until it is killed
        print("waits", flush=True)
        time.sleep(0.02)
train({dataset!r}, {str(tmp_path)!r}, tiny.RECIPE, settings=SETTINGS, on_event=tell)
"""
    rng = random.Random(5)  # noqa: S311 - no secret
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            num_lines = rng.randint(5, 14)
            for _ in range(num_lines):
                process.stdout.readline()
            time.sleep(rng.random() * 0.03)
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS)
    assert_same_run(tmp_path, undisturbed)


FULL = Recipe(
    model="resnet18",
    stages=(
        Stage(
            name="part",
            num_samples=42,
            image_size=(32, 32),
            batch_size=4,
            learning_rate=0.02,
            mixup=0.4,
            augment=Augment(min_area=0.5, brightness=0.3),
        ),
        Stage(name="layer4", image_size=(32, 40), batch_size=6, mixup=1.0, trainable="layer4"),
        Stage(name="all", epochs=2, image_size=(32, 32), batch_size=4),
    ),
    weights="given",
    average=0.8,
    max_gradient_norm=0.05,
    empty_weight=0.5,
    loss="focal",
)
"""All that can be switched on; 10, 4 and 12 steps, the first stage ending in its second epoch."""

IN_PARTS = TrainSettings(
    checkpoint_every=3, log_every=4, num_threads=1, device="cpu", accumulate=2, resize_on="device"
)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """That recipe, with weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.manual_seed(0)
    torch.save(tiny.TinyNetwork().state_dict(), path)
    return replace(FULL, weights=str(path))


@pytest.fixture(scope="module")
def full_undisturbed(dataset: str, full: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it that nobody stopped."""
    run = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        train(dataset, str(run), full, settings=IN_PARTS)
    return run


@pytest.mark.parametrize("step", [2, 5, 6, 8, 10, 13, 14, 17, 25])
def test_a_stopped_run_with_all_options_ends_with_identical_weights(
    dataset: str, full: Recipe, full_undisturbed: Path, tmp_path: Path, step: int
) -> None:
    """Averaged weights, parts of steps, MixUp, clipping and thinning: the same, bit for bit."""
    with pytest.raises(Stop):
        train(dataset, str(tmp_path), full, settings=IN_PARTS, on_event=stop_at(step))
    torch.rand(3)  # what else is drawn in the process does not matter
    train(dataset, str(tmp_path), full, settings=IN_PARTS)
    assert model_of(tmp_path).step == 26
    assert_same_run(tmp_path, full_undisturbed)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_gradient_norm": 1e-3},
        {"empty_weight": 0.2},
        {"loss": "focal"},
        {"stages": tuple(replace(stage, mixup=1.0) for stage in tiny.RECIPE.stages)},
        {"stages": tuple(replace(stage, augment=None) for stage in tiny.RECIPE.stages)},
    ],
    ids=["clipping", "thinning", "loss", "mixup", "augment"],
)
def test_every_option_changes_what_is_learned(
    dataset: str, undisturbed: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Each option of a recipe gives other weights than the same recipe without it."""
    recipe = replace(tiny.RECIPE, **changes)
    train(dataset, str(tmp_path), recipe, settings=SETTINGS)
    left, right = model_of(tmp_path).state_dict, model_of(undisturbed).state_dict
    assert not torch.equal(left["conv1.weight"], right["conv1.weight"])


def test_stages_of_samples_end_within_an_epoch(full_undisturbed: Path) -> None:
    """A stage of 42 images takes ten steps of four, six of one epoch and four of the next."""
    records = records_of(full_undisturbed)
    assert [(r["step"], r["stage"]) for r in records if r["kind"] == "val"] == [
        (6, "part"),
        (10, "part"),
        (14, "layer4"),
        (20, "all"),
        (26, "all"),
    ]


@pytest.mark.parametrize("call", [1, 5, 6, 7, 8, 9, 10, 24, 26])
def test_a_run_that_is_asked_to_stop_saves_at_once_and_goes_on(
    dataset: str, undisturbed: Path, tmp_path: Path, call: int
) -> None:
    """Asked after a step or within a validation: a checkpoint of that step, and the same end."""
    calls = iter(range(1, 1000))
    events: list[Event] = []

    def should_stop() -> bool:
        return next(calls) == call

    with pytest.raises(Incomplete, match="stopped at step"):
        train(
            dataset,
            str(tmp_path),
            tiny.RECIPE,
            settings=SETTINGS,
            on_event=events.append,
            should_stop=should_stop,
        )
    assert events[-1].kind == "checkpoint"
    assert events[-1].step == max(event.step for event in events)
    resumed: list[Event] = []
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=resumed.append)
    assert (resumed[0].kind, resumed[0].step) == ("resume", events[-1].step)
    assert_same_run(tmp_path, undisturbed)


def test_the_average_is_what_is_saved_and_scored(dataset: str, tmp_path: Path) -> None:
    """With an average of weights, model.pt holds it, and it is not the last step's weights."""
    recipe = replace(tiny.RECIPE, average=0.9)
    result = train(dataset, str(tmp_path / "average"), recipe, settings=SETTINGS)
    plain = train(dataset, str(tmp_path / "plain"), tiny.RECIPE, settings=SETTINGS)
    assert result.score != plain.score
    average, last = model_of(tmp_path / "average"), model_of(tmp_path / "plain")
    assert not torch.equal(average.state_dict["conv1.weight"], last.state_dict["conv1.weight"])
    state = Checkpoints(Store(url=str(tmp_path / "average"))).load(print)
    assert state is not None
    assert torch.equal(state["model"]["conv1.weight"], last.state_dict["conv1.weight"])
    saved = state["average"]["weights"]["conv1.weight"]
    assert torch.equal(saved, average.state_dict["conv1.weight"])


def test_a_step_in_parts_is_the_step_as_a_whole(dataset: str, tmp_path: Path) -> None:
    """Without BatchNorm in training, gradients of parts add up to those of the whole batch."""
    path = tmp_path / "tiny.pth"
    torch.save(tiny.TinyNetwork().state_dict(), path)
    head = Stage(name="head", image_size=(32, 32), batch_size=6, trainable="head")
    recipe = Recipe(model="resnet18", weights=str(path), stages=(head,))
    for accumulate in (1, 3):
        settings = replace(SETTINGS, accumulate=accumulate)
        train(dataset, str(tmp_path / str(accumulate)), recipe, settings=settings)
    whole, parts = model_of(tmp_path / "1").state_dict, model_of(tmp_path / "3").state_dict
    assert torch.allclose(whole["fc.weight"], parts["fc.weight"], rtol=1e-4, atol=1e-6)
    assert records_of(tmp_path / "1")[0]["loss"] == pytest.approx(
        records_of(tmp_path / "3")[0]["loss"], rel=1e-5
    )


def test_other_losses_warn_of_their_price(dataset: str, tmp_path: Path) -> None:
    """A loss that breaks calibration is said so before the first step; the default says nothing."""
    for num_warnings, recipe in enumerate((tiny.RECIPE, replace(tiny.RECIPE, loss="asl"))):
        events: list[Event] = []
        train(
            dataset, str(tmp_path / recipe.loss), recipe, settings=SETTINGS, on_event=events.append
        )
        texts = [event.values["text"] for event in events if event.kind == "warning"]
        assert len(texts) == num_warnings
        assert all("no probabilities" in text for text in texts)


def test_the_model_file_tells_how_common_the_classes_are(
    dataset: str, full_undisturbed: Path
) -> None:
    """Class means of all training sequences, and how much rarer blanks were made."""
    file = model_of(full_undisturbed)
    assert file.empty_shift == pytest.approx(math.log(2))
    images = read_images([open_dataset(dataset)], "train", EVERYTHING).images
    assert file.sequence_means == pytest.approx(class_means(*images.sequence_counts()))


def test_another_number_of_threads_gives_the_same_weights(
    dataset: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Decoding threads decide nothing."""
    settings = TrainSettings(checkpoint_every=2, log_every=4, num_threads=3, device="cpu")
    train(dataset, str(tmp_path), tiny.RECIPE, settings=settings)
    assert_same_run(tmp_path, undisturbed)


def test_another_seed_gives_other_weights(dataset: str, undisturbed: Path, tmp_path: Path) -> None:
    """The seed decides the initial weights, the order and the crops."""
    recipe = Recipe(model="resnet18", stages=tiny.RECIPE.stages, seed=1)
    train(dataset, str(tmp_path), recipe, settings=SETTINGS)
    left, right = model_of(tmp_path).state_dict, model_of(undisturbed).state_dict
    assert not torch.equal(left["conv1.weight"], right["conv1.weight"])


def test_a_damaged_checkpoint_is_passed_over(
    dataset: str, undisturbed: Path, tmp_path: Path
) -> None:
    """With the last checkpoint cut, the one before is used, said so, and the end is the same."""
    with pytest.raises(Stop):
        train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=stop_at(9))
    last = max((tmp_path / "checkpoints").glob("step-*"))
    last.write_bytes(last.read_bytes()[:-1])
    events: list[Event] = []
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=events.append)
    assert [e.values["name"] for e in events if e.kind == "damaged"] == [f"checkpoints/{last.name}"]
    assert next(e for e in events if e.kind == "resume").step == 6
    assert_same_run(tmp_path, undisturbed)


def test_a_run_without_usable_checkpoint_says_so(dataset: str, tmp_path: Path) -> None:
    """When all checkpoints are damaged, nothing is trained anew behind one's back."""
    with pytest.raises(Stop):
        train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=stop_at(9))
    for path in (tmp_path / "checkpoints").glob("step-*"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"all checkpoints .* are damaged .*delete its folder"):
        train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS)


def test_another_recipe_or_dataset_is_refused(
    dataset: str, undisturbed: Path, tmp_path: Path
) -> None:
    """A run goes on with what it was begun with, or not at all; the message names what differs."""
    recipe = Recipe(model="resnet18", stages=tiny.RECIPE.stages, weight_decay=0.5)
    with pytest.raises(ConfigError, match=r"recipe\.weight_decay was 0\.01 and is now 0\.5"):
        train(dataset, str(undisturbed), recipe, settings=SETTINGS)
    other = make_dataset(str(tmp_path), DatasetRecipe(seed=1)).store.url
    with pytest.raises(ConfigError, match="plan_hash was"):
        train(other, str(undisturbed), tiny.RECIPE, settings=SETTINGS)


def test_a_recipe_that_cannot_work_leaves_no_trace(dataset: str, tmp_path: Path) -> None:
    """A batch beyond the split is refused before the first step, and the folder stays free."""
    large = Stage(name="large", epochs=1, image_size=(32, 32), batch_size=28)
    stages = (*tiny.RECIPE.stages, large)
    recipe = Recipe(model="resnet18", stages=stages)
    with pytest.raises(ConfigError, match=r"batch_size of stage 'large' is 28.*at most 27"):
        train(dataset, str(tmp_path), recipe, settings=SETTINGS)
    weights = Recipe(model="resnet18", stages=tiny.RECIPE.stages, weights="none.pth")
    with pytest.raises(ConfigError, match="no such file"):
        train(dataset, str(tmp_path), weights, settings=SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_the_run(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN ends the run with the last good checkpoint's name, and no checkpoint holds it."""
    steps = iter(range(100))

    def spoiled(logits_BC: torch.Tensor, targets_BC: torch.Tensor) -> torch.Tensor:
        loss = binary_cross_entropy_with_logits(logits_BC, targets_BC)
        return loss * (float("nan") if next(steps) == 6 else 1.0)

    monkeypatch.setattr(loop, "LOSSES", {"bce": spoiled})
    with pytest.raises(RunError, match=r"step 8 .*checkpoints/step-000000006\.pt"):
        train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS)
    names = [path.name for path in (tmp_path / "checkpoints").glob("step-*")]
    assert sorted(names) == ["step-000000004.pt", "step-000000006.pt"]


def test_the_frozen_stage_changes_the_last_layer_only(dataset: str, tmp_path: Path) -> None:
    """Head stage from given weights: layers and BatchNorm statistics below stay, to the bit."""
    given = tiny.TinyNetwork().state_dict()
    torch.save(given, tmp_path / "weights.pth")
    head = Stage(name="head", epochs=1, image_size=(32, 32), batch_size=4, trainable="head")
    recipe = Recipe(model="resnet18", weights=str(tmp_path / "weights.pth"), stages=(head,))
    result = train(dataset, str(tmp_path / "run"), recipe, settings=SETTINGS)
    trained = model_of(tmp_path / "run").state_dict
    for key, tensor in given.items():
        if not key.startswith("fc."):
            assert torch.equal(tensor, trained[key]), key
    assert result.num_steps == 6
    assert result.score is not None


def test_training_learns_what_can_be_learned(tmp_path: Path) -> None:
    """Colour tells the category: a longer run clearly beats class means."""
    sizes = DatasetRecipe(sizes={"train": (40, 40, 40), "val": (24, 24)})
    dataset = make_dataset(str(tmp_path / "dataset"), sizes).store.url
    stage = Stage(
        name="all",
        epochs=8,
        image_size=(32, 32),
        batch_size=8,
        learning_rate=0.05,
        backbone_rate=1.0,
    )
    recipe = Recipe(model="resnet18", stages=(stage,))
    result = train(dataset, str(tmp_path / "run"), recipe, settings=SETTINGS)
    assert result.best_score is not None
    assert result.class_means_score is not None
    assert result.best_score < 0.5 * result.class_means_score


def test_events_tell_how_far_the_run_is(dataset: str, tmp_path: Path) -> None:
    """One step event per step, counted against the whole, and the end."""
    events: list[Event] = []
    train(dataset, str(tmp_path), tiny.RECIPE, settings=SETTINGS, on_event=events.append)
    assert [e.step for e in events if e.kind == "step"] == list(range(1, tiny.NUM_STEPS + 1))
    assert {e.num_steps for e in events} == {tiny.NUM_STEPS}
    assert events[0].kind == "start"
    assert events[-1].kind == "done"
    assert (events[-1].epoch, events[-1].num_epochs) == (3, 3)
