"""Runs contestants, each in a fresh process tree that is watched, and sums up the rounds."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.report import Rounds

HERE = Path(__file__).resolve().parent
FEW_TIMEOUT, TIMEOUT = 300.0, 3600.0
"""Seconds that a job on two images, and one on all of them, may take."""
NUM_FEW = 2
"""Images of the job whose time is the start-up."""
OWN = ("floor", "ours", "resize")
"""Contestants that run in this environment."""
TORCH = "torch==2.13.0"
REQUIREMENTS = (
    "img2dataset>=1.47,<2",
    "litdata>=0.2.50,<0.3",
    "mosaicml-streaming>=0.13,<0.14",
    "webdataset>=0.2.100,<2",
    "ray[data]>=2.50,<3",
    "pillow>=11,<14",
    "pyvips>=3,<4",
    "pyvips-binary>=8.16,<9",
    "scipy>=1.14,<2",
    "matplotlib>=3.9,<4",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """Who runs, and how.

    Attributes:
        name: in ``peers.py``.
        title: in tables.
        num: images.
        source: folder or url with ``images/`` and label files.
        shard_size: images in one tar.
        size: longest side of outputs, px.
        python: interpreter to run it with.
        workers: processes of ours; None as many as cores.
        environment: further variables.
    """

    name: str
    title: str
    num: int
    source: str
    shard_size: int
    size: int
    python: str = sys.executable
    workers: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, out: Path, num: int) -> list[str]:
        """To convert the first ``num`` photographs into ``out``."""
        given = [self.python, str(HERE / "peers.py"), self.name, self.source, str(out)]
        given += [str(self.size), str(num), "--shard-size", str(self.shard_size)]
        return given if self.workers is None else [*given, "--workers", str(self.workers)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One contestant in one round.

    Attributes:
        rate: images a second, start-up taken out.
        cpu_ms: CPU milliseconds per image of the whole tree, start-up taken out.
        startup: seconds of the job on two images.
        peak: highest memory of the tree, bytes.
        worker: highest RSS of any process but the first, bytes.
        driver: highest RSS of the first process, bytes.
        stages: seconds of each stage, where the contestant tells them.
    """

    rate: float
    cpu_ms: float
    startup: float
    peak: float
    worker: float
    driver: float
    stages: dict[str, float]


class RunFailedError(Exception):
    """A contestant could not do its job; says why in one line."""


def run(contestant: Contestant, out: Path, num: int) -> dict[str, Any]:
    """What one job took.

    Raises:
        RunFailedError: it ended badly or took too long.
    """
    shutil.rmtree(out, ignore_errors=True)
    timeout = FEW_TIMEOUT if num == NUM_FEW else TIMEOUT
    return watched(contestant.command(out, num), contestant.environment, timeout)


def watched(
    command: Sequence[str], environment: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """What a command took, and what it said last of all as JSON.

    Raises:
        RunFailedError: it ended badly or took too long.
    """
    whole = [sys.executable, str(HERE / "peer_watch.py"), str(timeout), *command]
    variables = os.environ | {"PYTHONWARNINGS": "ignore"} | dict(environment)
    ended = subprocess.run(  # noqa: S603 - the benchmark's own command
        whole, capture_output=True, text=True, check=False, env=variables
    )
    if ended.returncode:
        raise RunFailedError(f"the watch ended badly: {ended.stderr.strip()[-200:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    lines = [line for line in str(found.pop("output")).splitlines() if line.strip()]
    if found["timed_out"]:
        raise RunFailedError(f"took more than {timeout:.0f} s")
    if found["exit"]:
        raise RunFailedError(f"exit {found['exit']}: {_reason(lines)}")
    told = {"wall": found["seconds"], "tree_cpu": found["cpu_seconds"]}
    return found | told | _said(lines)


def _reason(lines: Sequence[str]) -> str:
    """The last line that names an error, else the last line."""
    named = [line for line in lines if "Error" in line and not line.startswith(" ")]
    return " ".join((named or [*lines] or ["no message"])[-1].split())[:160]


def _said(lines: Sequence[str]) -> dict[str, Any]:
    """What the contestant itself printed last, if that is JSON."""
    try:
        value = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def sample(contestant: Contestant, out: Path) -> Sample:
    """One round: the job on two images, then on all; the difference is what the images take.

    Raises:
        RunFailedError: one of them could not be done.
    """
    few = run(contestant, out, NUM_FEW)
    full = run(contestant, out, contestant.num)
    in_memory = contestant.name in ("floor", "resize")  # these leave their start-up out themselves
    images = contestant.num if in_memory else contestant.num - NUM_FEW
    seconds, cpu = (
        full[key] - (0 if in_memory else few[key]) for key in ("seconds", "cpu_seconds")
    )
    if seconds <= 0 or cpu <= 0:
        raise RunFailedError(f"{contestant.num} images take no longer than {NUM_FEW}: give more")
    return Sample(
        rate=images / seconds,
        cpu_ms=1000 * cpu / images,
        startup=few["wall"],
        peak=full["peak_bytes"],
        worker=full["worker_bytes"],
        driver=full["driver_bytes"],
        stages=full.get("stages", {}),
    )


@dataclass(kw_only=True, slots=True)
class Row(Rounds[Sample]):
    """All rounds of one contestant.

    Attributes:
        contestant: who.
        quality: outputs, mean bytes and SSIM, where they were compared.
    """

    contestant: Contestant
    quality: dict[str, Any] = field(default_factory=dict)

    def stages(self) -> dict[str, float]:
        """Share of each stage in the sum of stages, all rounds together."""
        sums: dict[str, float] = {}
        for one in self.samples:
            for name, seconds in one.stages.items():
                sums[name] = sums.get(name, 0.0) + seconds
        whole = sum(sums.values()) or 1.0
        return {name: seconds / whole for name, seconds in sums.items()}

    def as_dict(self) -> dict[str, Any]:
        """For the line of JSON."""
        keys = ("rate", "cpu_ms", "startup", "peak", "worker", "driver")
        told = self.told(self.contestant.name, self.contestant.title, keys)
        return told if self.failed else told | self.quality


def run_rounds(
    contestants: Iterable[Contestant], rounds: int, scratch: Path, judge: str | None = None
) -> list[Row]:
    """Each contestant once for warming up, then all in turn, ``rounds`` times.

    Args:
        contestants: who takes part.
        rounds: how often.
        scratch: folder for outputs.
        judge: interpreter for comparing the first round's pictures; None compares none.
    """
    rows = [Row(contestant=one) for one in contestants]
    out = scratch / "out"
    for row in rows:
        _try(row, lambda one: run(one, out, NUM_FEW))
    for at in range(rounds):
        for row in rows:
            taken = None if row.failed else _try(row, lambda one: sample(one, out))
            if taken is None:
                continue
            row.samples.append(taken)
            print(f"round {at + 1}: {row.contestant.title}: {taken.rate:.1f}/s", file=sys.stderr)
            if judge is not None and at == 0:
                _judge(row, out, judge)
    shutil.rmtree(out, ignore_errors=True)
    return rows


def _try(row: Row, function: Any) -> Any:
    try:
        return function(row.contestant)
    except RunFailedError as error:
        row.failed = str(error)
        print(f"{row.contestant.title}: {error}", file=sys.stderr)
        return None


def _judge(row: Row, out: Path, python: str) -> None:
    """Compare outputs with originals; too few of them are a failure."""
    one = row.contestant
    command = [python, str(HERE / "peer_quality.py"), "quality", one.name, one.source, str(out)]
    try:
        row.quality = ask([*command, str(one.size), str(one.num)])
    except RunFailedError as error:
        row.failed = f"its outputs cannot be read: {error}"
        return
    if one.name not in ("floor", "resize") and row.quality["outputs"] != one.num:
        row.failed = f"{row.quality['outputs']} outputs for {one.num} photographs"


def ask(command: list[str]) -> dict[str, Any]:
    """The JSON that a command prints last.

    Raises:
        RunFailedError: it ended badly.
    """
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    if ended.returncode:
        raise RunFailedError(_reason(lines))
    value: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return value


# --- The environments -----------------------------------------------------------------------------


def make_venv(
    folder: Path, pinned: Sequence[str] = (TORCH,), requirements: Sequence[str] = REQUIREMENTS
) -> str:
    """The interpreter of the peers' environment, which is made on first use.

    What cannot be installed is said, and its contestant then fails with that reason in its row.

    Args:
        folder: where to.
        pinned: a PyTorch for CPUs, where the machine offers one, or what else comes first.
        requirements: the rest.
    """
    python = folder / "bin" / "python"
    done = folder / "benchmark-ready"
    wanted = "\n".join((*pinned, *requirements))
    if done.exists() and done.read_text() == wanted:
        return str(python)
    print(f"making the peers' environment in {folder}: some minutes", file=sys.stderr)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603
    # These first, and held in place after that.
    held = list(pinned) if _install(python, list(pinned)) else []
    if not _install(python, [*held, *requirements]):
        for requirement in requirements:
            _install(python, [*held, requirement])
    done.write_text(wanted)
    return str(python)


def _install(python: Path, requirements: list[str]) -> bool:
    command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"pip install {' '.join(requirements)}: {last}", file=sys.stderr)
    return ended.returncode == 0


def facts(judge: str | None, script: str = "peer_quality.py") -> dict[str, Any]:
    """The machine, the versions, the commit and the date.

    Args:
        judge: interpreter of the peers; None leaves their versions out.
        script: tells versions when asked for them.
    """
    from serengeti_etl.convert.resize import encoder_version

    return {
        "cpu": _proc_value("cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(_proc_value("meminfo", "MemTotal").split()[0]) / 1e6, 1),
        "python": platform.python_version(),
        "libvips": encoder_version(),
        "simplejpeg": version("simplejpeg"),
        "dask": version("dask"),
        "peers": ask([judge, str(HERE / script), "versions"]) if judge else {},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": os.getloadavg()[0],
    }


def _proc_value(file: str, name: str) -> str:
    for line in (Path("/proc") / file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _commit() -> str:
    """Short hash, with ``+`` where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(HERE), "describe", "--always", "--dirty=+", "--exclude=*"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return ended.stdout.strip() or "unknown"


def draw_plot(results: dict[str, Any], path: Path, judge: str) -> None:
    """Write the PNG.

    Raises:
        RunFailedError: it cannot be drawn.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "results.json"
        file.write_text(json.dumps(results))
        command = [judge, str(HERE / "peer_quality.py"), "plot", str(file), str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise RunFailedError(f"the plot failed: {_reason(ended.stderr.splitlines())}")
