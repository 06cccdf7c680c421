"""Versions that driver and workers compare: the same code is the same, other code is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from distributed import LocalCluster

from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.convert.versions import conversion_versions
from serengeti_etl.versions import code_versions

ROOT = Path(__file__).parents[1]


def copy_of_the_package(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(ROOT / "serengeti_etl", folder / "serengeti_etl", ignore=ignored)


def told_elsewhere(folder: Path) -> str:
    """What a process says that has the package of another folder."""
    code = "from serengeti_etl.versions import code_versions; print(code_versions())"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return shown.stdout.strip()


def test_the_same_code_has_the_same_versions_wherever_it_lies(tmp_path: Path) -> None:
    """A copy is told from the original by no version; it is if a byte of it differs."""
    versions = code_versions()
    assert versions["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    copy = copy_of_the_package(tmp_path)
    assert told_elsewhere(tmp_path) == str(versions)
    module = copy / "convert" / "plan.py"
    module.write_text(f"{module.read_text()}# one line more\n")
    assert told_elsewhere(tmp_path) != str(versions)


def test_makers_of_shards_compare_encoders_too() -> None:
    """The libraries that decide pixels are among what must be the same."""
    wanted = {"encoder": encoder_version(), "pyarrow": pa.__version__}
    assert conversion_versions() == code_versions() | wanted


def test_convert_refuses_a_cluster_with_other_code(season: Path, tmp_path: Path) -> None:
    """The command line exits 4, and says what the scheduler and the worker have."""
    (tmp_path / "drawn.py").write_text(
        f"from tests.conftest import season_pipeline\npipeline = season_pipeline({str(season)!r})\n"
    )
    copy = copy_of_the_package(tmp_path)
    with (copy / "convert" / "plan.py").open("a") as file:
        file.write("\n")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        command = [sys.executable, "-m", "serengeti_etl", "convert", "drawn.py", "--output", "out"]
        shown = subprocess.run(
            [*command, "--cluster", cluster.scheduler_address],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    assert shown.returncode == 4, shown.stderr
    ours = code_versions()["code"]
    assert f"the scheduler has code {ours} (here " in shown.stderr
    assert shown.stderr.count(f"has code {ours} (here ") == 2
    assert not (tmp_path / "out").exists()
