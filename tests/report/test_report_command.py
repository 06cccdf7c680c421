"""Reports from the command line: where they are, and that they never break what they are of."""

import subprocess
import sys
from pathlib import Path

import pytest

from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.dataset.sums import read_sums
from serengeti_etl.storage import Store
from tests.report_factory import captures_of, evaluate, make_dataset

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serengeti_etl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def pipeline_file(season: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file over the drawn season."""
    path = tmp_path_factory.mktemp("pipelines") / "drawn.py"
    path.write_text(
        f"from tests.conftest import season_pipeline\npipeline = season_pipeline({str(season)!r})\n"
    )
    return path


def test_convert_ends_with_a_report_that_is_no_part_of_the_dataset(
    pipeline_file: Path, tmp_path: Path
) -> None:
    """It is beside the dataset, in no checksum, and verify and another convert pass it over."""
    output = tmp_path / "dataset"
    command = ("convert", str(pipeline_file), "--output", str(output), "--cluster", "serial")
    made = run(*command)
    assert made.returncode == 2, made.stderr
    report = output / "report.html"
    assert made.stdout.endswith(f"report: {report}\n")
    content = report.read_bytes()
    assert b"Where the time of this run went" in content
    assert content.count(b"<img ") > 10
    sums = read_sums(Store(url=str(output)))
    assert sums is not None
    assert "report.html" not in sums
    assert run("verify", str(output)).returncode == 0
    again = run(*command)
    assert (again.returncode, "report:" in again.stdout) == (2, False)
    assert report.read_bytes() == content
    shards = sorted(output.glob("train/*.tar"))
    shards[0].unlink()
    mended = run("repair", str(pipeline_file), "--output", str(output), "--cluster", "serial")
    assert mended.returncode == 0, mended.stderr
    assert report.read_bytes() == content


def test_a_report_that_cannot_be_made_is_one_line(pipeline_file: Path, tmp_path: Path) -> None:
    """The dataset is finished, and the exit code is that of the conversion."""
    output = tmp_path / "dataset"
    (output / "report.html").mkdir(parents=True)
    made = run("convert", str(pipeline_file), "--output", str(output), "--cluster", "serial")
    assert made.returncode == 2, made.stderr
    said = [line for line in made.stderr.splitlines() if "no report was made" in line]
    assert len(said) == 1
    assert said[0].endswith(f"to try again, run: serengeti-etl report {output}")
    assert "Traceback" not in made.stderr
    assert open_dataset(str(output)).info.ledger["num_in_shards"] > 0
    (output / "report.html").rmdir()
    assert run("verify", str(output)).returncode == 0


def test_report_makes_it_again_for_datasets_and_runs(tmp_path: Path) -> None:
    """It tells them apart, and writes where it is told; sites with places are a map."""
    dataset = make_dataset(str(tmp_path / "dataset"), captures_of(60))
    made = run("report", dataset.store.url)
    assert (made.returncode, made.stdout) == (0, f"report: {dataset.store.url}/report.html\n")
    evaluate(str(tmp_path / "run"), dataset)
    (tmp_path / "sites.csv").write_text("site,latitude,longitude\nval-0,-2.3,34.8\n")
    page = tmp_path / "page.html"
    options = ("--sites", str(tmp_path / "sites.csv"), "--output", str(page))
    made = run("report", str(tmp_path / "run"), *options)
    assert (made.returncode, made.stdout) == (0, f"report: {page}\n")
    assert b"Map of 1 sites" in page.read_bytes()
    assert not (tmp_path / "run" / "evaluation.html").exists()
    made = run("report", "run", "--output", "here.html", cwd=tmp_path)
    assert (made.returncode, made.stdout) == (0, "report: here.html\n")
    assert (tmp_path / "here.html").is_file()


def test_report_of_nothing_is_refused(tmp_path: Path) -> None:
    """One line that says what to give, and exit 4."""
    made = run("report", str(tmp_path))
    assert made.returncode == 4
    assert made.stderr.count("\n") == 1
    assert "give a finished dataset" in made.stderr


def test_report_shows_rejects_if_it_is_told_the_pipeline(
    pipeline_file: Path, tmp_path: Path
) -> None:
    """With the file, what is left of a truncated photograph; without it, how to see that."""
    output = tmp_path / "dataset"
    run("convert", str(pipeline_file), "--output", str(output), "--cluster", "serial")
    assert run("report", str(output)).returncode == 0
    assert b"make this report again with --pipeline" in (output / "report.html").read_bytes()
    assert run("report", str(output), "--pipeline", str(pipeline_file)).returncode == 0
    assert b"what is left of" in (output / "report.html").read_bytes()


def test_reports_need_neither_torch_nor_dask() -> None:
    """Nor anything else that is heavy and that a conversion has not loaded anyway."""
    code = (
        "import sys, serengeti_etl.report.write; "
        "print([m for m in ('torch', 'dask', 'distributed', 'matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
