"""Runs loaders, each in a fresh process tree that is watched, and sums up the rounds."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load_input import FORMS, Input
from benchmarks.load_peers import tree_cpu
from benchmarks.peer_runs import HERE, RunFailedError, watched
from benchmarks.report import Rounds

TIMEOUT = 1800.0
OWN = ("floor", "crop", "device")
"""Contestants that run in this environment."""
# The stricter ``===`` leaves out builds for CPUs only, beside which PyPI's torchvision cannot load.
PINNED = ("torch===2.13.0", "torchvision===0.28.0")
REQUIREMENTS = (
    "webdataset>=1,<2",
    "litdata>=0.2.50,<0.3",
    "mosaicml-streaming>=0.13,<0.14",
    "spdl>=0.8,<1",
    "av>=18,<19",  # brings the FFmpeg that SPDL needs
    "megatron-energon>=7,<8",
    "datasets>=4,<5",
    "huggingface-hub<1",  # transformers, which MosaicML's library imports, wants it
    "nvidia-dali-cuda120>=2,<3",
    "simplejpeg>=1.8,<2",
    "pillow>=11,<14",
    "matplotlib>=3.9,<4",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Who runs, and how.

    Attributes:
        name: in ``load_peers.py``.
        title: in tables.
        source: folder of all forms, or the url of a dataset.
        num: samples in a pass.
        batch: samples in a batch.
        passes: over all samples; more than one: the first warms up and is not counted.
        python: interpreter to run it with.
        cache: folder for shards of a bucket; None for none.
        is_cold: the cache is removed before.
        environment: further variables.
    """

    name: str
    title: str
    source: str
    num: int
    batch: int
    passes: int
    python: str = sys.executable
    cache: Path | None = None
    is_cold: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """To make all passes."""
        given = [self.python, str(HERE / "load_peers.py"), self.name, self.source, str(self.num)]
        given += ["--batch", str(self.batch), "--passes", str(self.passes)]
        return given if self.cache is None else [*given, "--cache", str(self.cache)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One loader in one round.

    Attributes:
        rate: images a second.
        cpu_ms: CPU milliseconds per image, of the whole tree.
        first: seconds to the first batch, from the loader's making.
        whole: images a second of the first pass, from the loader's making.
        peak: highest memory of the tree, PSS in bytes.
        around_ms: CPU milliseconds per image of all else that the benchmark runs: a server and a
            relay where there are any, and the watch.
    """

    rate: float
    cpu_ms: float
    first: float
    whole: float
    peak: float
    around_ms: float


def summed(found: Mapping[str, Any], loader: Loader) -> Sample:
    """What a run's marks say.

    Of several passes all but the first are counted. Of one, CPU is that of all of it, and the rate
    that of what follows the first batch.

    Raises:
        RunFailedError: a pass had too few or too many samples.
    """
    marks: Sequence[Sequence[float]] = found["marks"]
    for number, (_, _, num) in enumerate(marks[1:], 1):
        if num != loader.num:
            raise RunFailedError(f"pass {number} had {num:.0f} of {loader.num} samples")
    (_, cpu_start, _), (first_end, first_cpu, _), (end, end_cpu, _) = marks[0], marks[1], marks[-1]
    if len(marks) > 2:  # noqa: PLR2004 - the start and the only pass
        num_counted = loader.num * (len(marks) - 2)
        rate = num_counted / (end - first_end)
        cpu = (end_cpu - first_cpu) / num_counted
    else:
        rate = (loader.num - loader.batch) / (end - found["first"])
        cpu = (end_cpu - cpu_start) / loader.num
    return Sample(
        rate=rate,
        cpu_ms=1000 * cpu,
        first=found["first"],
        whole=loader.num / first_end,
        peak=found["peak_bytes"],
        around_ms=1000 * found["around"] / (loader.num * loader.passes),
    )


@dataclass(kw_only=True, slots=True)
class Row(Rounds[Sample]):
    """All rounds of one loader.

    Attributes:
        loader: who.
        shapes: of an image, as handed out.
    """

    loader: Loader
    shapes: list[list[int]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For the line of JSON."""
        keys = ("rate", "cpu_ms", "first", "whole", "peak", "around_ms")
        told = self.told(self.loader.name, self.loader.title, keys)
        return told if self.failed else told | {"shapes": self.shapes}


def run_rounds(loaders: Sequence[Loader], rounds: int) -> list[Row]:
    """All in turn, ``rounds`` times; one that fails is left out of further rounds."""
    rows = [Row(loader=one) for one in loaders]
    for at in range(rounds):
        for row in rows:
            if row.failed:
                continue
            try:
                found = _run(row.loader)
                row.samples.append(summed(found, row.loader))
                row.shapes = found["shapes"]
            except RunFailedError as error:
                row.failed = str(error).removeprefix("exit 1: ")
            last = row.failed or f"{row.samples[-1].rate:.0f}/s, {row.samples[-1].cpu_ms:.2f} ms"
            print(f"round {at + 1}: {row.loader.title}: {last}", file=sys.stderr)
    return rows


def _run(loader: Loader) -> dict[str, Any]:
    if loader.is_cold and loader.cache is not None:
        shutil.rmtree(loader.cache, ignore_errors=True)
    before = tree_cpu()
    found = watched(loader.command, loader.environment, TIMEOUT)
    return found | {"around": tree_cpu() - before - found["tree_cpu"]}


def bare_bytes(python: str) -> int:
    """Memory of a process that only imports PyTorch and, where it loads, torchvision; PSS."""
    tried = "import contextlib, torch\nwith contextlib.suppress(RuntimeError): import torchvision"
    code = f"{tried}\nimport time; time.sleep(0.5)"  # for the watch to see it
    return int(watched([python, "-c", code], {}, TIMEOUT)["peak_bytes"])


def make_forms(samples: Input, python: str, wanted: Callable[[str], bool]) -> None:
    """The samples in the forms of the peers' own libraries, once each.

    One that cannot be made is said, and its contestant fails for want of it.
    """
    for name in FORMS:
        done = samples.folder / f"{name}-ready"
        if done.exists() or not wanted(name):
            continue
        command = [python, str(HERE / "load_peers.py"), f"make-{name}", str(samples.folder)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if ended.returncode:
            print(f"{name}: its form cannot be made: {ended.stderr[-300:]}", file=sys.stderr)
        else:
            done.touch()
