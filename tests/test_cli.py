"""The command line: exit codes, one-line errors, and what it prints."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serengeti_etl.config import SeasonPipeline
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.dataset.rejects import read_rejects
from serengeti_etl.lease import hold
from serengeti_etl.storage import Store
from tests.growing import GrowingSeason

ROOT = Path(__file__).parents[1]


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


def test_plan_shows_tables_and_writes_nothing(pipeline_file: Path, tmp_path: Path) -> None:
    """Splits, classes and excluded rules are printed; no file appears anywhere."""
    shown = run("plan", str(pipeline_file))
    assert shown.returncode == 0, shown.stderr
    for word in ("plan of drawn", "train", "val", "sequences", "sites", "zebra", "dropped"):
        assert word in shown.stdout
    assert list(tmp_path.iterdir()) == []
    assert list(pipeline_file.parent.iterdir()) == [pipeline_file]


def test_plan_tells_what_is_at_an_output(pipeline_file: Path, tmp_path: Path) -> None:
    """With --output the last line says what would be added there."""
    shown = run("plan", str(pipeline_file), "--output", str(tmp_path / "out"))
    assert shown.returncode == 0, shown.stderr
    last = shown.stdout.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'out'}: nothing is there; ")
    assert last.endswith(" shards would be added")


def test_convert_info_and_verify(pipeline_file: Path, tmp_path: Path) -> None:
    """Convert exits 2 with rejects within the budget; info and verify read what it wrote."""
    output = str(tmp_path / "dataset")
    made = run("convert", str(pipeline_file), "--output", output, "--cluster", "serial")
    assert made.returncode == 2, made.stderr
    assert "truncated" in made.stdout
    assert "images/s" in made.stderr
    shown = run("info", output)
    assert shown.returncode == 0
    assert "dataset drawn" in shown.stdout
    whole = run("verify", output)
    assert (whole.returncode, whole.stdout[:6]) == (0, "whole:")
    part = run("verify", output, "--sample", "0.2")
    assert (part.returncode, "whole: 2 of " in part.stdout, "%) read" in part.stdout) == (0, 1, 1)
    (tmp_path / "dataset" / "val" / "val-000000.tar").write_bytes(b"")
    broken = run("verify", output)
    assert broken.returncode == 3
    assert "val/val-000000.tar: 0 bytes" in broken.stdout
    repair = ("repair", str(pipeline_file), "--output", output, "--cluster", "serial")
    mended = run(*repair)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout == "shards made again: 1: val-000000\n"
    assert run(*repair).stdout.startswith("nothing was damaged: ")
    assert run("verify", output).returncode == 0
    refused = run(*repair, "--limit", "12")
    assert refused.returncode == 4
    assert "max_sequences was None and is now 12" in refused.stderr


@pytest.mark.slow
def test_a_dataset_grows_and_tries_rejects_again(season: Path, tmp_path: Path) -> None:
    """Convert again adds what is new; --retry-rejects says what came of it."""
    growing = GrowingSeason(season, tmp_path / "source")
    file, output = tmp_path / "growing.py", str(tmp_path / "dataset")
    source = str(growing.folder)
    file.write_text(
        f"from tests.conftest import season_pipeline\npipeline = season_pipeline({source!r})\n"
    )
    convert = ("convert", str(file), "--output", output, "--cluster", "serial")
    first = run(*convert)
    assert first.returncode == 2, first.stderr
    assert "added" not in first.stdout
    growing.take_all()
    grown = run(*convert)
    assert grown.returncode == 2, grown.stderr
    assert "\nadded to the dataset: 2: train-0000" in grown.stdout
    again = run(*convert, "--retry-rejects")
    assert again.returncode == 2, again.stderr
    assert "\nrecovered: 0 of 3 photographs tried again\n" in again.stdout
    rejects = read_rejects(Store(url=output), open_dataset(output).info.shards, ())
    for name in set(rejects["file_name"].to_pylist()):
        growing.mend(name)
    last = run(*convert, "--retry-rejects")
    assert last.returncode == 0, last.stderr
    assert "\nrecovered: 3 of 3 photographs tried again\n" in last.stdout
    nothing = run(*convert, "--retry-rejects")
    assert nothing.returncode == 0, nothing.stderr
    assert "\nrecovered: nothing, as no photograph is rejected\n" in nothing.stdout
    assert "added" not in nothing.stdout
    assert ", then 3 images tried again (shards: 1), then 3 images" in run("info", output).stdout
    assert run("verify", output).returncode == 0


def test_repair_says_what_it_could_not_mend(pipeline_file: Path, tmp_path: Path) -> None:
    """A file of another name in a folder of ours is left, told, and the exit code is 3."""
    output = tmp_path / "dataset"
    run("convert", str(pipeline_file), "--output", str(output), "--cluster", "serial")
    (output / "train" / "notes.txt").write_text("mine")
    (output / "dataset.json").write_text("{")
    damaged = run("verify", str(output))
    assert (damaged.returncode, "`serengeti-etl repair`" in damaged.stderr) == (4, True)
    told = run("repair", str(pipeline_file), "--output", str(output), "--cluster", "serial")
    assert told.returncode == 3, told.stderr
    assert told.stdout == (
        "files written again: 1: dataset.json\n"
        "left: train/notes.txt belongs to no shard of dataset.json\n"
    )
    assert (output / "train" / "notes.txt").read_text() == "mine"


def test_a_cluster_s_dashboard_is_named_and_its_report_written(
    pipeline_file: Path, tmp_path: Path
) -> None:
    """Convert on a cluster says where to look, and leaves Dask's account of the run in a file."""
    report = tmp_path / "report.html"
    made = run(
        *("convert", str(pipeline_file), "--output", str(tmp_path / "dataset")),
        *("--cluster", "pipelines/clusters/local.py", "--performance-report", str(report)),
    )
    assert made.returncode == 2, made.stderr
    assert re.search(r"^dashboard: http://127\.0\.0\.1:\d+/status$", made.stderr, re.MULTILINE)
    assert "dashboard: " not in made.stdout
    text = report.read_text()
    assert "Dask Performance Report" in text
    num_shards = len(list((tmp_path / "dataset" / "index").iterdir()))
    assert f"number of tasks: {num_shards} " in text


@pytest.mark.slow
def test_several_sizes_from_plan_to_verify(season: Path, tmp_path: Path) -> None:
    """Plan prices each size, convert makes a dataset per size, which info and verify read."""
    (tmp_path / "two.py").write_text(
        "from tests.convert.test_sizes import sizes_pipeline\n"
        f"pipeline = sizes_pipeline({str(season)!r})\n"
    )
    pipeline, output = str(tmp_path / "two.py"), str(tmp_path / "out")
    planned = run("plan", pipeline)
    assert planned.returncode == 0, planned.stderr
    rows = [line.split() for line in planned.stdout.partition("\nsizes\n")[2].splitlines()]
    sizes = {row[0]: row[1:] for row in rows if len(row) == 6}
    assert [sizes[size][1] for size in ("48", "128x96", "short64")] == ["55"] * 3
    assert sizes["together"][1:] == ["165", "about", "0.7", "MB"]
    made = run("convert", pipeline, "--output", output, "--cluster", "serial")
    assert made.returncode == 2, made.stderr
    for size in ("48", "128x96", "short64"):
        assert f"dataset: {output}/{size}\n" in made.stdout
        assert f"resize: {size} px" in run("info", f"{output}/{size}").stdout
        assert run("verify", f"{output}/{size}").stdout.startswith("whole:")
    assert made.stdout.count("all sizes: read ") == made.stdout.count("decode ") == 1
    assert "55/55" in made.stderr
    assert "3 rejected" in made.stderr
    whole = run("verify", output)
    assert (whole.returncode, "in the folder of its size" in whole.stderr) == (4, True)
    listed = run("catalog", pipeline, "--output", str(tmp_path / "catalog"))
    assert listed.returncode == 0, listed.stderr


def test_the_readme_s_sizes_are_a_pipeline_s() -> None:
    """What README says of several sizes can be written so, and names the folders that come."""
    text = (ROOT / "README.md").read_text()
    (sizes,) = re.findall(r"`sizes=(\(.*?\))`", text)
    pipeline = SeasonPipeline(name="a", source="b", labels="c", sizes=ast.literal_eval(sizes))
    for folder in pipeline.by_folder():
        assert f"`OUTPUT/{folder}`" in text


def test_refusals_are_one_line_and_exit_4(pipeline_file: Path, tmp_path: Path) -> None:
    """A missing file, a wrong file, no dataset and a wrong option: one line each, no traceback."""
    (tmp_path / "wrong.py").write_text("pipeline = 3\n")
    for arguments, message in (
        (("plan", "nowhere.py"), "there is no file nowhere.py"),
        (("plan", str(tmp_path / "wrong.py")), "must define `pipeline = SeasonPipeline(...)`"),
        (("plan", str(pipeline_file), "--source", "/nowhere"), "there is no label file"),
        (("plan", str(pipeline_file), "--limit", "0"), "max_sequences is 0"),
        (("info", str(tmp_path)), "no dataset.json at"),
        (("verify", str(tmp_path)), "no dataset.json at"),
        (("convert", str(pipeline_file)), "Missing option '--output'"),
        (
            (
                *("convert", str(pipeline_file), "--output", str(tmp_path / "out")),
                *("--cluster", "serial", "--performance-report", str(tmp_path / "report.html")),
            ),
            "a performance report needs a cluster",
        ),
    ):
        shown = run(*arguments)
        assert shown.returncode == 4, (arguments, shown.stderr)
        assert message in shown.stderr
        assert "Traceback" not in shown.stderr


def test_an_output_that_is_being_written_is_refused(pipeline_file: Path, tmp_path: Path) -> None:
    """A second convert is one line that names the first one's process, and exit 4; then it runs."""
    output = str(tmp_path / "dataset")
    command = ("convert", str(pipeline_file), "--output", output, "--cluster", "serial")
    with hold(Store(url=output)):
        shown = run(*command)
    assert shown.returncode == 4, shown.stderr
    assert f"is being written by process {os.getpid()} on " in shown.stderr
    assert "Traceback" not in shown.stderr
    assert list((tmp_path / "dataset").iterdir()) == []
    assert run(*command).returncode == 2
    assert not (tmp_path / "dataset" / "lease.json").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """``--debug`` prints it all, then the same line and code."""
    shown = run("info", str(tmp_path), "--debug")
    assert shown.returncode == 4
    assert "Traceback" in shown.stderr


def test_a_limit_takes_a_few_sequences(pipeline_file: Path) -> None:
    """``--limit`` shows up as images excluded by the rule ``limit``."""
    shown = run("plan", str(pipeline_file), "--limit", "12")
    assert "limit" in shown.stdout


RECIPE = """
from serengeti_etl.train.recipe import Recipe, Stage
stage = Stage(name="tiny", epochs=1, image_size=(32, 32), batch_size=8, backbone_rate=1.0)
recipe = Recipe(model="resnet18", stages=(stage,))
"""


@pytest.mark.slow
def test_train_and_evaluate(pipeline_file: Path, tmp_path: Path) -> None:
    """Train leaves a run that evaluate scores, and the same train again has nothing left to do."""
    output, results = str(tmp_path / "dataset"), str(tmp_path / "run")
    run("convert", str(pipeline_file), "--output", output, "--cluster", "serial")
    (tmp_path / "tiny.py").write_text(RECIPE)
    train = ("train", output, "--run", results, "--recipe", str(tmp_path / "tiny.py"))
    first = run(*train, "--device", "cpu")
    assert first.returncode == 0, first.stderr
    model = (tmp_path / "run" / "model.pt").read_bytes()
    scored = run("evaluate", results, "--dataset", output)
    assert scored.returncode == 0, scored.stderr
    assert "score of predicting class means" in scored.stdout
    assert scored.stdout.endswith(f"report: {results}/evaluation.html\n")
    for name in ("evaluation.json", "evaluation.html"):
        assert (tmp_path / "run" / name).is_file()
    again = run(*train, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "model.pt").read_bytes() == model
    nowhere = run("evaluate", str(tmp_path / "nowhere"), "--dataset", output)
    assert nowhere.returncode == 4
    assert "Traceback" not in nowhere.stderr


def test_weights_that_are_not_there_are_named(tmp_path: Path, pipeline_file: Path) -> None:
    """``--weights`` with a missing file is one line and exit 4, before anything is trained."""
    output = str(tmp_path / "dataset")
    run("convert", str(pipeline_file), "--output", output, "--cluster", "serial")
    (tmp_path / "tiny.py").write_text(RECIPE)
    train = ("train", output, "--run", str(tmp_path / "run"), "--recipe", str(tmp_path / "tiny.py"))
    shown = run(*train, "--weights", str(tmp_path / "resnet18.pth"))
    assert shown.returncode == 4
    assert "resnet18.pth" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_catalog_shows_tables_and_writes_them(pipeline_file: Path, tmp_path: Path) -> None:
    """Findings and splits are printed; catalog, annotations and splits are written, no more."""
    output = tmp_path / "catalog"
    shown = run("catalog", str(pipeline_file), "--output", str(output))
    assert shown.returncode == 0, shown.stderr
    for words in ("in the format coco", "findings", "withheld", "categories by split", "no label"):
        assert words in shown.stdout
    names = sorted(path.name for path in output.iterdir())
    assert names == ["annotations.parquet", "catalog.parquet", "splits.json"]


def test_a_bad_label_file_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file cut in the middle is one line and exit 4, and no output folder appears."""
    (tmp_path / "labels.json").write_text('{"categories": [], "images": [{"id": "a", "file_n')
    (tmp_path / "cut.py").write_text(
        "from serengeti_etl import SeasonPipeline\n"
        f"pipeline = SeasonPipeline(name='cut', source={str(tmp_path)!r}, labels='labels.json')\n"
    )
    shown = run("catalog", "cut.py", cwd=tmp_path)
    assert shown.returncode == 4
    assert shown.stderr.startswith("serengeti-etl: labels.json ends in the middle: entry 1 of imag")
    assert len(shown.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.py", "labels.json"]


def test_a_refused_split_still_shows_the_label_file(tmp_path: Path) -> None:
    """Without sites the split is refused with exit 4, after all that could be said."""
    (tmp_path / "zebra").mkdir()
    (tmp_path / "zebra" / "a.jpg").write_bytes(b"")
    (tmp_path / "mine.py").write_text(
        "from serengeti_etl import SeasonPipeline\n"
        f"pipeline = SeasonPipeline(name='mine', source={str(tmp_path)!r}, labels='.')\n"
    )
    shown = run("catalog", "mine.py", cwd=tmp_path)
    assert shown.returncode == 4
    assert "in the format folders" in shown.stdout
    assert "the label file does not name the site of every image" in shown.stderr
    assert (tmp_path / "mine-catalog" / "catalog.parquet").is_file()
    assert not (tmp_path / "mine-catalog" / "splits.json").exists()
    assert "splits.json" not in shown.stdout
    below_a_file = run("catalog", "mine.py", "--output", "mine.py/x", cwd=tmp_path)
    assert below_a_file.returncode == 4, "running it again would not help"
    assert "Not a directory" in below_a_file.stderr


@pytest.mark.slow
def test_export_hands_a_dataset_on(pipeline_file: Path, tmp_path: Path) -> None:
    """A split of a dataset becomes COCO, and all of it a Camtrap DP once places are given."""
    output = str(tmp_path / "dataset")
    run("convert", str(pipeline_file), "--output", output, "--cluster", "serial")
    written = run("export", output, "--format", "coco", "--split", "val", "--output", str(tmp_path))
    assert written.returncode == 0, written.stderr
    images = json.loads((tmp_path / "labels.json").read_text())["images"]
    assert {one["split"] for one in images} == {"val"}
    assert f"{len(images)} images" in written.stdout
    camtrap = ("export", output, "--format", "camtrap_dp", "--output", str(tmp_path / "dp"))
    refused = run(*camtrap)
    assert refused.returncode == 4
    assert "--latitude" in refused.stderr
    assert not (tmp_path / "dp").exists()
    whole = run(*camtrap, "--latitude", "-2.33", "--longitude", "34.83")
    assert whole.returncode == 0, whole.stderr
    assert (tmp_path / "dp" / "datapackage.json").is_file()
    nowhere = run("export", str(tmp_path / "x"), "--format", "coco", "--output", str(tmp_path))
    assert (nowhere.returncode, "no catalog.parquet" in nowhere.stderr) == (4, True)
