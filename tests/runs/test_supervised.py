"""Supervised processes: killed, hung, refused and orphaned ones, for real."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from serengeti_etl.runs.alert import Alert
from serengeti_etl.runs.child import Child
from serengeti_etl.runs.look import Looker, look_anew, look_at
from serengeti_etl.runs.supervise import Ending, Outcome, Supervisor, World
from serengeti_etl.runs.supervise_settings import SuperviseSettings
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import ModelFile
from tests.dataset_factory import make_dataset
from tests.runs.alert_server import AlertServer
from tests.seeds import SEED
from tests.train.test_stop import command_of, continuing_command, read_to

ROOT = Path(__file__).parents[2]

BEATS = """
import json, sys, time
from pathlib import Path
from dataclasses import replace
from tests.runs.status_factory import STATUS
run, hangs = Path(sys.argv[1]), sys.argv[2] == "hangs"
is_first = not run.exists()
run.mkdir(exist_ok=True)
import faulthandler
faulthandler.enable()
for beat in range(10_000 if is_first and hangs else 5):
    now = time.time()
    progress = now - 1000 if is_first and hangs and beat > 3 else now
    status = replace(STATUS, step=beat, started_at=now, heartbeat_at=now, progress_at=progress)
    part = run / "part"
    part.write_text(json.dumps(status.to_json()))
    part.replace(run / "status.json")
    print("beat", beat, flush=True)
    time.sleep(0.1)
"""

HANGS_ONCE = """
from pathlib import Path
is_first = Path(__file__).with_name("hung")
if not is_first.exists():
    is_first.touch()
    time.sleep(1000)
"""

SIGNED = """
import os
unsigned = loop._Trainer._step
def signed(self, stage, parts):
    unsigned(self, stage, parts)
    os.write(1, b"step of %d\\n" % os.getpid())
patch.setattr(loop._Trainer, "_step", signed)
"""

STAYS = """
def stays(self, stage, parts):
    signed(self, stage, parts)
    while self._place.step == 20:
        time.sleep(0.05)
        os.write(1, b"step of %d\\n" % os.getpid())
patch.setattr(loop._Trainer, "_step", stays)
"""
"""Before its last step it waits for its death: whoever is to be killed is there, however late."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


def supervise(folder: Path, *options: str) -> list[str]:
    """The command line of a supervisor, up to the command."""
    program = [sys.executable, "-m", "serengeti_etl", "supervise", "--run", str(folder / "run")]
    return [*program, *options, "--"]


def all_own_below(pid: int, name: str = "train") -> list[psutil.Process]:
    """All processes of a supervisor that run our command of that name."""

    def is_own(process: psutil.Process) -> bool:
        try:
            # Ranks of torchrun have Python's -u before.
            words = [word for word in process.cmdline() if word != "-u"]
        except psutil.Error:
            return False
        return words[1:3] == ["-m", "serengeti_etl"] and name in words[3:5]

    return list(filter(is_own, psutil.Process(pid).children(recursive=True)))


def own_below(pid: int, name: str = "train") -> psutil.Process:
    """The process of a supervisor that runs our command of that name, once there is one."""
    found = list[psutil.Process]()

    def is_there() -> bool:
        found[:] = all_own_below(pid, name)
        return bool(found)

    wait_until(is_there)
    return found[0]


@dataclass
class Here:
    """A supervisor in this process, in which it may be hastier than the command line.

    Attributes:
        run: where the command's run lies.
        tell: gets each alert.
        out: what the command said.
        err: likewise.
    """

    run: Path
    tell: Callable[[Alert], object]
    out: io.BytesIO = field(default_factory=io.BytesIO)
    err: io.BytesIO = field(default_factory=io.BytesIO)

    def supervise(self, command: list[str], settings: SuperviseSettings) -> Outcome:
        """What becomes of the command."""
        store = Store(url=str(self.run))
        world = World(
            start=lambda: Child(["env", f"PYTHONPATH={ROOT}", *command], (self.out, self.err)),
            watch=lambda: Looker(partial(look_at, store), 0.1).latest,
            look_anew=partial(look_anew, store, 5),
            wait=threading.Event().wait,
            tell=self.tell,
        )
        return Supervisor(str(self.run), settings, world).supervise()


def lives(process: psutil.Process) -> bool:
    """Whether it runs; one that is dead does not, though nobody may have taken note of it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return ModelFile.read(Store(url=str(folder / "run"))).state_dict


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"seed{seed}")
def test_kills_at_random_do_not_show(
    dataset: str, tmp_path: Path, server: AlertServer, seed: int
) -> None:
    """A training killed again and again ends with the weights of an undisturbed one."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    subprocess.run(command_of(dataset, calm, pause=0), cwd=ROOT, check=True)
    draw, num_kills = random.Random(seed), 3  # noqa: S311 - repeatable moments, no secret
    training = [*command_of(dataset, rough, pause=0.05), "--checkpoint-every", "1"]
    recipe = rough / "my recipes" / "tiny.py"
    ends = recipe.read_text() + SIGNED
    recipe.write_text(ends + STAYS)
    alert = ("--alert", server.url("webhook"), "--alert-quiet", "0")
    command = [*supervise(rough, *alert), *training]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        victims = set[int]()
        for number in range(num_kills):
            # One that was killed may have said more than was read of it.
            wait_until(lambda: own_below(process.pid).pid not in victims)
            victim = own_below(process.pid)
            for _ in range(draw.randrange(1, 5)):
                read_to(process, f"step of {victim.pid}")
            time.sleep(draw.uniform(0, 0.1))
            if number == num_kills - 1:
                recipe.write_text(ends)
            victim.kill()
            victims.add(victim.pid)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    expected = weights_of(calm)
    assert all(torch.equal(expected[key], value) for key, value in weights_of(rough).items())
    kinds = [posted.json()["kind"] for posted in server.wait_for(num_kills + 1)]
    assert kinds == ["died"] * num_kills + ["finished"], said
    assert "it died of signal 9; restart 1 of 10" in server.posted[0].json()["text"]
    assert f"step of {victim.pid}\n" in server.posted[num_kills - 1].json()["tail"]


@pytest.mark.slow
def test_a_rank_of_torchrun_that_is_killed(dataset: str, tmp_path: Path) -> None:
    """Torchrun ends with 1 and is begun again; no rank of the first start works on; exit 0."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m", "serengeti_etl", "--"]
    # Two ranks cannot share the batch of three of the second stage.
    training = command_of(dataset, tmp_path, pause=0, num_stages=1, holds_at=4)[3:]
    command = [*supervise(tmp_path), *torchrun, *training, "--checkpoint-every", "1"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        read_to(process, "step 3")
        ranks = all_own_below(process.pid)
        assert len(ranks) == 2
        command_of(dataset, tmp_path, pause=0, num_stages=1)  # the next start holds at no step
        ranks[1].kill()
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert "died: it ended with 1; restart 1 of 10" in said
    assert not any(lives(rank) for rank in ranks)
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.slow
def test_sigterm_lets_the_training_save(dataset: str, tmp_path: Path) -> None:
    """The supervisor exits with 3 and names the command; the step in hand is saved."""
    command = [*supervise(tmp_path), *command_of(dataset, tmp_path, pause=0, holds_at=3)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        read_to(process, "step 2")
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    assert list((tmp_path / "run" / "checkpoints").glob("step-00000000[23].pt"))
    own = said[said.index("serengeti-etl: run: stopped") :]
    assert continuing_command(own.replace("-etl: to", "; to")) == command


@pytest.mark.slow
def test_a_supervisors_death_leaves_no_orphan(dataset: str, tmp_path: Path) -> None:
    """Killed itself, its training saves and ends, though nobody reads its output any more."""
    command = [*supervise(tmp_path), *command_of(dataset, tmp_path, pause=0, holds_at=3)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        read_to(process, "step 2")
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) == 2
        process.kill()
        process.communicate()
    wait_until(lambda: not any(lives(one) for one in below))
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    assert not (tmp_path / "run" / "model.pt").exists()


def test_a_command_whose_output_nobody_reads_can_save(tmp_path: Path) -> None:
    """However much it says after its holder's death, more than a pipe holds, it is not held up."""
    saved = tmp_path / "saved"
    script = "import signal, sys, time; from pathlib import Path\n"
    script += "def save(*_):\n    print('x' * 500_000, flush=True)\n"
    script += f"    Path({str(saved)!r}).touch()\n    sys.exit(3)\n"
    script += "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(100)\n"
    leash = [sys.executable, "-m", "serengeti_etl.runs.leash", sys.executable, "-c", script]
    with subprocess.Popen(
        leash, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        process.stdin.close()
        assert process.wait(60) == 3
    assert saved.exists()


def test_a_signal_is_passed_on_once(tmp_path: Path) -> None:
    """Who signals a whole group, and is passed on as well, does not interrupt what is saving."""
    script = "import signal, time; from pathlib import Path\n"
    script += "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
    script += f"print('ready', flush=True)\nwhile not Path({str(tmp_path / 'end')!r}).exists():\n"
    script += "    time.sleep(0.1)\ntime.sleep(0.5)\n"  # a second one would be heard by then
    leash = [sys.executable, "-m", "serengeti_etl.runs.leash", sys.executable, "-c", script]
    with subprocess.Popen(
        leash, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in ("ready\n", "asked\n"):
            assert process.stdout.readline() == line
            process.terminate()
        (tmp_path / "end").touch()
        assert process.stdout.read() == ""


@pytest.mark.parametrize("hangs", ["hangs", "ends"])
def test_a_hung_child_writes_its_stack_and_is_begun_again(tmp_path: Path, hangs: str) -> None:
    """One whose status shows no progress is killed with its stack in the log; others are not."""
    (tmp_path / "beats.py").write_text(BEATS)
    here = Here(tmp_path / "run", lambda _: None)
    command = [sys.executable, str(tmp_path / "beats.py"), str(here.run), hangs]
    outcome = here.supervise(command, SuperviseSettings(first_wait_seconds=0.1, poll_seconds=0.1))
    assert outcome.ending is Ending.DONE
    assert outcome.num_restarts == (hangs == "hangs")
    assert (b'beats.py", line' in here.err.getvalue()) is (hangs == "hangs")
    assert here.out.getvalue().count(b"beat 0\n") == 1 + (hangs == "hangs")


@pytest.mark.slow
def test_a_training_that_hangs_at_its_start_is_begun_again(
    dataset: str, tmp_path: Path, server: AlertServer
) -> None:
    """It is killed with its stacks before it has ever said a word, and the next start is done."""
    command = command_of(dataset, tmp_path, pause=0)
    with (tmp_path / "my recipes" / "tiny.py").open("a") as recipe:
        recipe.write(HANGS_ONCE)
    options = ["--supervise", "--start-within", "1", "--alert", server.url("webhook")]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert 'tiny.py", line' in done.stderr
    server.wait_for_kind("finished")
    told = [posted.json() for posted in server.posted if posted.json()["kind"] != "best"]
    assert [one["kind"] for one in told] == ["died", "finished"]
    assert "it had written no status 6" in told[0]["text"]
    assert 'tiny.py", line' in told[0]["tail"]


def test_hooks_hear_why(tmp_path: Path, server: AlertServer) -> None:
    """``--on-finish`` or ``--on-give-up`` gets the reason by stdin, after the alert went out."""
    finish, give_up = tmp_path / "finish", tmp_path / "give up"
    hooks = ("--on-finish", f"cat > {finish}", "--on-give-up", f"cat > '{give_up}'; exit 5")
    begin = supervise(tmp_path, *hooks, "--alert", server.url("webhook"))

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*begin, *command], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = run("sh", "-c", "echo out; echo err >&2; exit 2")
    assert (done.returncode, done.stdout) == (2, "out\n")
    assert done.stderr == "err\nserengeti-etl: run: finished\n"
    assert finish.read_text() == "done\n"
    assert sorted(server.wait_for(1)[0].json()["tail"].split()) == ["err", "out"]
    refused = run("sh", "-c", "exit 4")
    assert (refused.returncode, give_up.read_text()) == (
        4,
        "refused: it ended with 4: it was refused\n",
    )
    assert refused.stderr.endswith("ended with 5\n")
    missing = run("no-such-program")
    assert missing.returncode == 4
    assert "cannot start no-such-program: No such file" in missing.stderr
    assert [posted.json()["kind"] for posted in server.wait_for(3)[1:]] == ["gave-up"] * 2


def test_a_limit_of_time_ends_it_with_3(tmp_path: Path) -> None:
    """The command is asked to stop; the line says how long it took, and what was allowed."""
    command = [*supervise(tmp_path, "--max-hours", "0.0003", "--on-give-up", "cat")]
    ended = subprocess.run(
        [*command, "sleep", "60"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3, ended.stderr
    reason = r"it has taken 0\.0\d+ hours, and may take 0\.0003"
    assert re.search(f"stopped at its limit: {reason}", ended.stderr)
    assert re.match(f"limit: {reason}", ended.stdout)


@pytest.mark.slow
def test_processes_that_a_death_leaves_behind_are_ended() -> None:
    """A grandchild in a session of its own, as torchrun's workers are, does not work on."""
    script = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '300'], "
    script += "start_new_session=True); print(p.pid, flush=True); time.sleep(300)"
    out = io.BytesIO()
    child = Child([sys.executable, "-c", script], (out, io.BytesIO()))
    wait_until(lambda: out.getvalue().endswith(b"\n"))
    grandchild = psutil.Process(int(out.getvalue()))
    child._seen_at = float("-inf")
    assert child.code() is None
    for process in psutil.Process(child._process.pid).children():
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: child.code() == 137)
    assert lives(grandchild)
    child.end()
    wait_until(lambda: not lives(grandchild))
