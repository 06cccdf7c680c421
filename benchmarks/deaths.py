"""How soon each death of a training is told, from its last moment to an alert at a web server.

    python benchmarks/deaths.py [--no-bucket]

Real trainings, each a process of ``serengeti-etl train`` on a drawn season, all at once: for each
death one in a folder and one in a bucket of a real S3 server on loopback, with the heartbeats and
lost times that a run has there, and one in each that goes on. One ``serengeti-etl watch --no-serve
--alert`` with settings of its own is over all of them. They die one after another, so that the
watcher is at another point between two looks each time. A run that seems to have died an hour
before shows that the watch has begun: it is told at once.

The seconds are counted from the signal, from where the step begins to hang, from the first loss
that is no number, or from the last step. What is promised at most:

* lost: ``lost_after``, a heartbeat and a look, for the last heartbeat may be seen as late as that;
* stalled: ``stall_after``, a heartbeat and a look;
* otherwise: what a run may take to save and say its last word, and a look; a loss that is no number
  is noticed when it is recorded.

Exits with 1 if one was not told, told late, early, twice or as something else, or if one of those
that go on was told of.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import far_store
from benchmarks.alert_inbox import Inbox, open_inbox
from benchmarks.death_trials import (
    COMMAND,
    DEATHS,
    EVERY_SECONDS,
    LOOK_SECONDS,
    Trial,
    Verdict,
    start,
    tail,
    wait_until,
)
from benchmarks.peer_runs import facts
from benchmarks.report import print_table
from serengeti_etl.runs.status import STATUS_FILE, Status
from serengeti_etl.sample import SampleSettings, draw_season
from serengeti_etl.storage import Store, join_url

GRACE_SECONDS = 60.0
"""For alerts that are late: they are waited for so long, to say how late."""


def make_dataset(folder: Path) -> str:
    """A small season, drawn and converted."""
    settings = SampleSettings(num_sequences=480, width=128, height=96, with_broken=False)
    draw_season(folder / "season", settings)
    command = [*COMMAND, "convert", "pipelines/sample.py", "--cluster", "serial"]
    command += ["--source", str(folder / "season"), "--output", str(folder / "dataset")]
    process = start(command, folder / "output")
    if process.wait():
        raise RuntimeError(f"no dataset: {tail(folder / 'output')}")
    return str(folder / "dataset")


@contextmanager
def places(folder: Path, *, has_bucket: bool) -> Iterator[dict[str, str]]:
    """Where runs lie, by what the table calls it."""
    (folder / "runs").mkdir()
    found = {"folder": str(folder / "runs")}
    with ExitStack() as stack:
        if has_bucket:
            endpoint = stack.enter_context(far_store.server(folder / "s3"))
            os.environ.update(far_store.variables(endpoint))
            far_store.make_bucket(endpoint)
            found["bucket"] = f"s3://{far_store.BUCKET}/runs"
        yield found


@contextmanager
def trainings(folder: Path, roots: dict[str, str]) -> Iterator[list[Trial]]:
    """All trainings, once each of them steps."""
    dataset = make_dataset(folder)
    trials = []
    for where, root in roots.items():
        for number, death in enumerate(DEATHS):
            own = folder / f"{where}-{number}"
            own.mkdir()
            store = Store(url=join_url(root, f"training-{number}"))
            trials.append(Trial(death=death, where=where, store=store, folder=own))
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda trial: trial.begin(dataset), trials))
        yield trials
    finally:
        for trial in trials:
            trial.end()


@contextmanager
def watching(folder: Path, roots: dict[str, str], inbox: Inbox, like: Status) -> Iterator[None]:
    """A watcher over all of them, once it has seen them.

    Args:
        folder: for its output.
        roots: what it watches.
        inbox: that it sends to.
        like: status of a run; one that died an hour ago is made of it.
    """
    output = folder / "watch-output"
    hour_ago = time.time() - 3600
    dead = dataclasses.replace(like, name="dead", heartbeat_at=hour_ago, progress_at=hour_ago)
    before = [Store(url=join_url(root, "dead-before")) for root in roots.values()]
    for store in before:
        store.write_json(STATUS_FILE, dead.to_json())
    command = [*COMMAND, "watch", "--no-serve", "--alert", inbox.url, *roots.values()]
    process = start(command, output)
    try:
        what = "the watch begins"
        seen = [store.url for store in before]
        wait_until(lambda: all(map(inbox.of, seen)), what, output)
        yield
    finally:
        process.terminate()
        process.wait()


# --- The table ------------------------------------------------------------------------------------


def let_die(trials: Sequence[Trial]) -> None:
    """One after another, spread over the time between two looks."""
    for trial in mortal(trials):
        trial.die()
        time.sleep(EVERY_SECONDS / len(mortal(trials)))


def await_alerts(trials: Sequence[Trial], inbox: Inbox) -> None:
    """Wait until all is told, or what is not is late beyond hope."""
    end = time.monotonic() + max(trial.promised_seconds for trial in trials) + GRACE_SECONDS

    def is_told(trial: Trial) -> bool:
        return any(one.kind == trial.death.kind for one in inbox.of(trial.store.url))

    while time.monotonic() < end and not all(map(is_told, mortal(trials))):
        time.sleep(0.2)
    time.sleep(LOOK_SECONDS)  # one more look: nothing may be told twice, nor take it back


def mortal(trials: Sequence[Trial]) -> list[Trial]:
    """Those that are to die."""
    return [trial for trial in trials if trial.death.kind]


def run(folder: Path, *, has_bucket: bool) -> list[Verdict]:
    """All trials, and what became of them."""
    with ExitStack() as stack:
        roots = stack.enter_context(places(folder, has_bucket=has_bucket))
        inbox = stack.enter_context(open_inbox())
        trials = stack.enter_context(trainings(folder, roots))
        say(f"{len(trials)} trainings go on")
        stack.enter_context(watching(folder, roots, inbox, trials[0].status()))
        say("they are watched")
        let_die(trials)
        say(f"{len(mortal(trials))} of them have died")
        await_alerts(trials, inbox)
        return [Verdict.of(trial, inbox) for trial in trials]


def say(text: str) -> None:
    """How far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def report(verdicts: Sequence[Verdict]) -> None:
    """Print the table, and a line of JSON with where it was made."""
    head = ["death", "where", "state seen", "alert", "seconds to it", "promised at most", "fault"]
    by_death = sorted(verdicts, key=lambda one: DEATHS.index(one.trial.death))
    lines = [one.cells() for one in by_death]
    print_table(head, lines)
    told = [dict(zip(head, line, strict=True)) for line in lines]
    print(json.dumps({"facts": facts(None), "every_seconds": EVERY_SECONDS, "deaths": told}))


def main() -> int:
    """The exit code, once the table is printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-bucket", action="store_true", help="folders only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        verdicts = run(Path(scratch), has_bucket=not options.no_bucket)
    report(verdicts)
    return int(any(one.fault for one in verdicts))


if __name__ == "__main__":
    sys.exit(main())
