"""What commands tell beside their work: alerts, supervision of themselves, trackers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cli.telling import EndTold, _AlertTeller, _flat
from serengeti_etl.errors import Incomplete, OutputHeld, RunError
from serengeti_etl.runs.alert import Alert
from serengeti_etl.runs.board import BoardSettings
from serengeti_etl.train.settings import Event
from tests.dataset_factory import make_dataset
from tests.runs.alert_server import AlertServer
from tests.runs.test_supervised import own_below
from tests.runs.test_watch import FAILS
from tests.train.test_stop import command_of, read_to

ROOT = Path(__file__).parents[2]

SUPERVISED = """
import sys
assert "--supervised" in sys.argv
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


class Heard(list[Alert]):
    """Takes alerts in place of who sends them."""

    def send(self, alert: Alert) -> None:
        """Keep it."""
        self.append(alert)


def run(command: list[str], **more: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | more
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


def told(server: AlertServer) -> list[tuple[str, str]]:
    return [(one.json()["kind"], one.json()["level"]) for one in server.posted]


@pytest.mark.slow
def test_a_training_tells_of_its_best_scores_and_its_end(
    dataset: str, tmp_path: Path, server: AlertServer
) -> None:
    """Best scores, then that it is done; figures stand in TensorBoard's files; exit 0."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = command_of(dataset, tmp_path, pause=0)
    options = ["--alert", server.url("webhook"), "--alert-quiet", "0", "--name", "lions"]
    done = run([*command, *options, "--tracker", "tensorboard"])
    assert done.returncode == 0, done.stderr
    server.wait_for_kind("done")
    kinds = told(server)
    assert kinds[0] == ("best", "info")
    assert kinds[-1] == ("done", "info")
    assert server.posted[0].json()["title"].startswith("lions: best score 0.")
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    shown.Reload()
    assert {"val/score", "val/class_means_score"} <= set(shown.Tags()["scalars"])
    assert [one.step for one in shown.Scalars("val/score")] == [6, 12, 21]


def test_a_training_tells_why_it_failed(dataset: str, tmp_path: Path, server: AlertServer) -> None:
    """A loss that is no number is told with its words; a dead alert server changes nothing."""
    command = command_of(dataset, tmp_path, pause=0)
    with (tmp_path / "my recipes" / "tiny.py").open("a") as recipe:
        recipe.write(FAILS)
    dead = ["--alert", "webhook+http://127.0.0.1:9/secret"]
    failed = run([*command, "--alert", server.url("webhook"), *dead])
    assert failed.returncode == 4, failed.stderr
    assert "secret" not in failed.stderr
    assert "an alert to webhook+http://127.0.0.1:9/… was not sent" in failed.stderr
    value = server.wait_for_kind("failed").json()
    assert value["level"] == "critical"
    assert "no longer finite" in value["text"]


@pytest.mark.slow
def test_a_training_tells_that_it_was_stopped(
    dataset: str, tmp_path: Path, server: AlertServer
) -> None:
    """SIGTERM: saved, told, exit 3; the command that it names holds no secret."""
    command = command_of(dataset, tmp_path, pause=0, holds_at=3)
    url = server.url("webhook", "secret")
    with subprocess.Popen(
        [*command, "--alert", url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        read_to(process, "step 2")
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    server.wait_for(1)
    assert told(server) == [("stopped", "warning")]
    assert "saved as checkpoints/step-" in server.posted[0].json()["text"]
    assert "secret" not in said
    assert f"webhook+http://127.0.0.1:{server.port}/…" in said


@pytest.mark.slow
def test_a_training_supervises_itself(dataset: str, tmp_path: Path, server: AlertServer) -> None:
    """Killed, it goes on from its checkpoint; only the supervisor tells of the end; hooks run."""
    command = command_of(dataset, tmp_path, pause=0, holds_at=4)
    recipe = tmp_path / "my recipes" / "tiny.py"
    recipe.write_text(recipe.read_text() + SUPERVISED)
    hook = tmp_path / "hook"
    options = ["--supervise", "--checkpoint-every", "1", "--on-finish", f"cat > {hook}"]
    with subprocess.Popen(
        [*command, *options, "--alert", server.url("webhook"), "--alert-quiet", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        read_to(process, "step 3")
        training = own_below(process.pid)
        command_of(dataset, tmp_path, pause=0)  # the next start holds at no step
        recipe.write_text(recipe.read_text() + SUPERVISED)
        training.kill()
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    server.wait_for_kind("finished")
    kinds = [kind for kind, _ in told(server) if kind != "best"]
    assert kinds == ["died", "finished"], said
    assert hook.read_text() == "done\n"
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize(
    ("error", "kind", "ended", "level"),
    [
        (Incomplete("stopped at step 3"), "train", "stopped", "warning"),
        (Incomplete("3 shards failed"), "convert", "failed", "critical"),
        (OutputHeld("out is being written by another"), "convert", "held", "warning"),
        (KeyboardInterrupt(), "convert", "stopped", "warning"),
        (RunError("the loss is"), "train", "failed", "critical"),
    ],
)
def test_an_end_is_told_as_the_page_has_it(
    error: BaseException, kind: Any, ended: str, level: str
) -> None:
    """Shards that failed want a person, a training that was asked to stop does not."""
    heard: Any = Heard()

    def work() -> None:
        with EndTold(heard, "out", BoardSettings(kind=kind, name="lions")):
            raise error

    with pytest.raises(type(error)):
        work()
    (alert,) = heard
    assert (alert.kind, alert.level) == (ended, level)
    assert alert.title.startswith(f"lions: {ended}")
    assert str(error) in alert.text


def test_what_a_person_should_know_of_a_training_is_told() -> None:
    """A best score with the one before, a damaged checkpoint, a store that is away; no more."""
    heard: Any = Heard()
    teller = _AlertTeller(heard, "run", "lions")
    where: dict[str, Any] = {"stage": "head", "epoch": 1, "num_epochs": 2, "num_steps": 2000}

    def tell(kind: Any, **values: Any) -> None:
        teller.tell(Event(kind=kind, step=1000, values=values, **where))

    tell("step")
    tell("validated", score=0.3, is_best=True, best_before=None)
    tell("validated", score=0.4, is_best=False, best_before=0.3)
    tell("validated", score=0.2, is_best=True, best_before=0.3)
    tell("damaged", name="checkpoints/step-9")
    tell("late", text="the store of run is away")
    tell("checkpoint", name="checkpoints/step-10")
    assert [(one.kind, one.level, one.title, one.text) for one in heard] == [
        ("best", "info", "lions: best score 0.3000", "at 1,000 of 2,000 steps, head"),
        (
            "best",
            "info",
            "lions: best score 0.2000",
            "before 0.3000; at 1,000 of 2,000 steps, head",
        ),
        ("damaged", "warning", "lions: checkpoint damaged", "checkpoints/step-9 was passed over"),
        ("late", "warning", "lions: the store is away", "the store of run is away"),
    ]


def test_trackers_get_the_recipe_by_dotted_names() -> None:
    """Of lists the places, of mappings the names; values as they are."""
    recipe = {"model": "r", "stages": [{"epochs": 2, "image_size": (32, 40)}, {"epochs": 1}]}
    assert dict(_flat(recipe)) == {
        "model": "r",
        "stages.0.epochs": 2,
        "stages.0.image_size.0": 32,
        "stages.0.image_size.1": 40,
        "stages.1.epochs": 1,
    }


def test_supervision_is_refused_where_it_makes_no_sense(dataset: str, tmp_path: Path) -> None:
    """Its options without it, and inside torchrun, with what to do instead."""
    command = command_of(dataset, tmp_path, pause=0)
    alone = run([*command, "--on-finish", "true"])
    assert alone.returncode == 4
    assert "--on-finish is 'true', but it must be with --supervise" in alone.stderr
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    inside = run([*command, "--supervise"], **ranks, TORCHELASTIC_RUN_ID="x", LOCAL_RANK="0")
    assert inside.returncode == 4, inside.stderr
    assert "supervise torchrun itself, by `serengeti-etl supervise --run " in inside.stderr


def test_a_conversion_tells_of_its_end(season: Path, tmp_path: Path, server: AlertServer) -> None:
    """Done, or failed with the reason; its page's address is the output's."""
    file = tmp_path / "drawn.py"
    file.write_text(
        f"from tests.conftest import season_pipeline\npipeline = season_pipeline({str(season)!r})\n"
    )
    alert = ("--alert", server.url("webhook"))
    convert = [sys.executable, "-m", "serengeti_etl", "convert", str(file), "--cluster", "serial"]
    done = run([*convert, "--output", str(tmp_path / "out"), *alert])
    assert done.returncode == 2, done.stderr
    failed = run([*convert, "--source", "/nowhere", "--output", str(tmp_path / "no"), *alert])
    assert failed.returncode in (3, 4)
    server.wait_for(2)
    assert told(server) == [("done", "info"), ("failed", "critical")]
    assert server.posted[0].json()["run"] == str(tmp_path / "out")
