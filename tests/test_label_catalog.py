"""The catalog command's work: killed anywhere it leaves nothing half-written; disks may be full."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import files_below

SCRIPT = (
    "from serengeti_etl.config import SeasonPipeline\n"
    "from serengeti_etl.label_catalog import make_label_catalog\n"
    "pipeline = SeasonPipeline(name='p', source={source!r}, labels='labels.json')\n"
    "make_label_catalog(pipeline, {output!r})\n"
)

# Runs Python with further arguments where no file may grow beyond so many bytes: a write fails, as
# on a full disk. Not between fork and exec, where a process of many threads may stand still.
LIMITED = (
    "import os, resource, signal, sys\n"
    "num_bytes = int(sys.argv[1])\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])\n"
)


def start(season: Path, output: Path, scratch: Path) -> "subprocess.Popen[bytes]":
    scratch.mkdir(exist_ok=True)
    code = SCRIPT.format(source=str(season), output=str(output))
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(scratch)})


def test_killed_at_any_moment_it_leaves_only_whole_files(season: Path, tmp_path: Path) -> None:
    """After SIGKILL each file is whole or absent; the same command again gives the same bytes."""
    started = time.monotonic()
    assert start(season, tmp_path / "whole", tmp_path / "scratch").wait() == 0
    seconds = time.monotonic() - started
    whole = files_below(tmp_path / "whole")
    rng = random.Random(7)  # noqa: S311
    output = tmp_path / "killed"
    for _ in range(6):
        process = start(season, output, tmp_path / "scratch")
        time.sleep(seconds * rng.uniform(0.3, 1.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = {name: content for name, content in files_below(output).items() if name[0] != "."}
        assert left.items() <= whole.items()
    assert start(season, output, tmp_path / "scratch").wait() == 0
    assert files_below(output).items() >= whole.items()


@pytest.mark.parametrize("num_bytes", [2_000, 10_000])
def test_a_full_scratch_folder_is_one_clear_line(
    season: Path, tmp_path: Path, num_bytes: int
) -> None:
    """Where label rows cannot be spilled, the command says so and exits 3; nothing is written."""
    (tmp_path / "mine.py").write_text(
        "from serengeti_etl import SeasonPipeline\n"
        f"pipeline = SeasonPipeline(name='p', source={str(season)!r}, labels='labels.json')\n"
    )
    command = ["-c", LIMITED, str(num_bytes), "-m", "serengeti_etl", "catalog", "mine.py"]
    shown = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 3, shown.stderr
    assert shown.stderr.startswith("serengeti-etl: ")
    assert "Traceback" not in shown.stderr
    assert not (tmp_path / "p-catalog").exists()
