"""The submission: what is in it, that it runs alone, and what it says of bad tables and images."""

import csv
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from serengeti_etl.config import ResizeSettings
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.predict.photographs import Source
from serengeti_etl.predict.run import predict_photographs
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.submit.modules import imported, needed_files
from serengeti_etl.submit.package import RUNTIME, write_submission
from serengeti_etl.submit.runtime import SUBMISSION_FILE, run_submission
from tests.conftest import SHARED
from tests.model_factory import write_model

ALLOWED = {"numpy", "pyvips", "simplejpeg", "torch", "torchvision"}
"""What a submission may need beside Python itself."""

METADATA = """
SER_S11#U09#1#77,MVXBE_IMAG0229.JPG,2015-12-17
SER_S11#C04#2#1190,LYDOS_IMAG3568.JPG,2015-08-04
SER_S11#D12#3#5,HJWPA_IMAG0013.JPG,2015-10-11
SER_S11#K09#2#318,QKTRZ_IMAG0953.JPG,2015-09-02
SER_S11#K09#2#318,QKTRZ_IMAG0952.JPG,2015-09-02
SER_S11#K09#2#318,QKTRZ_IMAG0954.JPG,2015-09-02
"""
"""What the drawn data lists."""

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}

# With no network at all, not even loopback, and what is in data/ cannot be changed.
ALONE = "mount --bind data data && mount -o remount,ro,bind data && exec"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(season: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flat folder of the competition's runtime, real where it is there. Read only."""
    real = SHARED / "serengeti" / "hakuna" / "data"
    return real if real.is_dir() else drawn_data(tmp_path_factory.mktemp("data"), season)


def drawn_data(folder: Path, season: Path) -> Path:
    """``folder``, filled like the real one: sequences of one and three frames, one cut short."""
    drawn = sorted(one for one in (season / "images").rglob("*.JPG") if one.stat().st_size > 4000)
    lines = METADATA.split()
    for line, photograph in zip(lines, drawn, strict=False):
        shutil.copy(photograph, folder / line.split(",")[1])
    cut = folder / "LYDOS_IMAG3568.JPG"
    cut.write_bytes(cut.read_bytes()[:2500])
    classes = ("aardvark", "baboon", "empty", "zebra")
    rows = [
        f"{seq_id}{',0.0' * len(classes)}" for seq_id in sorted({x.split(",")[0] for x in lines})
    ]
    texts = {"test_metadata.csv": ["seq_id,file_name,datetime", *lines]}
    texts["submission_format.csv"] = [f"seq_id,{','.join(classes)}", *rows]
    for name, text in texts.items():
        (folder / name).write_text("".join(f"{line}\n" for line in text))
    return folder


def class_means(num_classes: int) -> list[float]:
    """Those of ``write_model``."""
    return [0.01 * (at + 1) for at in range(num_classes)]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a random model of the classes that are asked for. Read only."""
    with (data / "submission_format.csv").open() as file:
        classes = tuple(next(csv.reader(file))[1:])
    resize = ResizeSettings(size="512x384")
    return write_model(tmp_path_factory.mktemp("run"), classes, resize)


@pytest.fixture(scope="module")
def package(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip. Read only."""
    path = tmp_path_factory.mktemp("zip") / "submission.zip"
    write_submission(run, str(path))
    return path


@pytest.fixture
def unzipped(package: Path, data: Path, tmp_path: Path) -> Path:
    """The submission as the runtime unzips it, beside a copy of the data."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path / "runtime")
    shutil.copytree(data, tmp_path / "runtime" / "data")
    return tmp_path / "runtime"


def submission(folder: Path) -> dict[str, list[float]]:
    """Rows of submission.csv by sequence."""
    with (folder / SUBMISSION_FILE).open() as file:
        _, *rows = csv.reader(file)
    return {row[0]: [float(value) for value in row[1:]] for row in rows}


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that occurs in the file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_submissions_modules_suffice(package: Path, tmp_path: Path) -> None:
    """A Python that sees neither this project nor its other libraries imports all that is in it."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import {RUNTIME}
own = {{n: m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "serengeti_etl"}}
assert all(path.startswith({str(tmp_path)!r}) for path in own.values()), own
print(*sorted(own))
print(*sorted(sys.modules))
"""
    # The libraries that it may not need cannot be imported: that of the storage above all.
    hidden = "import sys\nsys.modules.update(dict.fromkeys(%r))\n"
    others = ("obstore", "fsspec", "tenacity", "pyarrow", "pandas", "duckdb", "distributed")
    command = [sys.executable, "-I", "-c", hidden % (others,) + code]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=ONE_THREAD)
    assert shown.returncode == 0, shown.stderr
    own = set(shown.stdout.splitlines()[0].split())
    files = {name.removesuffix(".py").removesuffix("/__init__") for name in needed_files(RUNTIME)}
    assert own == {name.replace("/", ".") for name in files}


def test_a_submission_holds_what_it_needs_and_no_more(package: Path) -> None:
    """main.py at the root, weights, config and modules; other packages are those allowed."""
    import ast

    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
        code = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
        num_bytes = sum(one.file_size for one in archive.infolist() if one.filename in code)
    assert {"main.py", "config.json", "weights.pt"} < names
    assert names == {"main.py", "config.json", "weights.pt", *needed_files(RUNTIME)}
    assert num_bytes < 300_000
    needed = set()
    for text in code.values():
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                needed.add(node.module.partition(".")[0])
    assert needed - set(sys.stdlib_module_names) - {"serengeti_etl"} <= ALLOWED


def test_modules_are_found_however_they_are_imported(tmp_path: Path) -> None:
    """Whole, by name out of a package, and in branches; not for types, nor inside functions."""
    path = tmp_path / "module.py"
    path.write_text("""
import numpy, serengeti_etl.stages
from serengeti_etl.train import metrics
from serengeti_etl.errors import ConfigError
try:
    from serengeti_etl.load import jitter
except ImportError:
    import serengeti_etl.config
if TYPE_CHECKING:
    from serengeti_etl.storage import Store
def function():
    import serengeti_etl.lease
""")
    expected = ["stages", "train", "train.metrics", "errors", "load", "load.jitter", "config"]
    assert imported(path) == [f"serengeti_etl.{name}" for name in expected]


def test_the_same_model_gives_the_same_zip(run: str, package: Path, tmp_path: Path) -> None:
    """Packed again, the bytes are the same."""
    write_submission(run, str(tmp_path / "again.zip"))
    assert (tmp_path / "again.zip").read_bytes() == package.read_bytes()


@pytest.mark.hosts
def test_a_submission_runs_alone_and_predicts_the_same(
    unzipped: Path, run: str, data: Path, tmp_path: Path
) -> None:
    """Without network, project or writable data it leaves what ``predict`` says of sequences."""
    alone = ["unshare", "--net", "--mount", "sh", "-c"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespace without network can be made here: {error}")
    command = [*alone, f"{ALONE} {sys.executable} -I main.py"]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=unzipped, env=ONE_THREAD
    )
    assert shown.returncode == 0, shown.stderr
    assert f"code from {unzipped / 'serengeti_etl'};" in shown.stderr
    assert "truncated: LYDOS_IMAG3568.JPG" in shown.stderr
    assert "SER_S11#C04#2#1190: it gets the class means" in shown.stderr
    with (data / "submission_format.csv").open() as file:
        header, *rows = csv.reader(file)
    with (unzipped / SUBMISSION_FILE).open() as file:
        assert next(csv.reader(file)) == header
    found = submission(unzipped)
    assert list(found) == [row[0] for row in rows]
    settings = PredictSettings(
        output=f"{tmp_path}/images.csv", sequences=f"{tmp_path}/sequences.parquet", device="cpu"
    )
    predict_photographs(run, Source(url=str(data / "test_metadata.csv")), settings)
    table = pq.read_table(tmp_path / "sequences.parquet").to_pylist()
    expected = {row["seq_id"]: [row[name] for name in header[1:]] for row in table}
    assert expected.keys() == found.keys()
    means = class_means(len(header) - 1)
    for name, row in found.items():
        wanted = means if expected[name][0] is None else expected[name]
        assert np.abs(np.array(row) - wanted).max() < 1e-6
    assert found["SER_S11#C04#2#1190"] == means


def test_missing_and_broken_images_are_logged_and_survived(
    unzipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is missing, a folder, or no image costs its sequence a frame, or gets class means."""
    (unzipped / "data" / "QKTRZ_IMAG0952.JPG").unlink()
    (unzipped / "data" / "QKTRZ_IMAG0953.JPG").write_bytes(b"not an image")
    (unzipped / "data" / "MVXBE_IMAG0229.JPG").unlink()
    (unzipped / "data" / "MVXBE_IMAG0229.JPG").mkdir()
    run_submission(unzipped)
    found = submission(unzipped)
    means = class_means(len(found["SER_S11#U09#1#77"]))
    assert found["SER_S11#U09#1#77"] == means
    assert found["SER_S11#K09#2#318"] != means
    said = caplog.text
    for word in ("missing: QKTRZ_IMAG0952", "not_an_image: QKTRZ_IMAG0953", "unreadable: MVXBE"):
        assert word in said
    assert "sequence without photographs: 2 in all" in said


def test_a_broken_frame_does_not_weigh_on_its_sequence(unzipped: Path) -> None:
    """A sequence is what its readable frames say, not a mean with the class means."""
    for name in ("QKTRZ_IMAG0952.JPG", "QKTRZ_IMAG0953.JPG"):
        (unzipped / "data" / name).write_bytes(b"")
    run_submission(unzipped)
    with_broken = submission(unzipped)["SER_S11#K09#2#318"]
    metadata = unzipped / "data" / "test_metadata.csv"
    for name in ("QKTRZ_IMAG0952.JPG", "QKTRZ_IMAG0953.JPG"):
        lines = metadata.read_text().splitlines(keepends=True)
        metadata.write_text("".join(line for line in lines if name not in line))
    run_submission(unzipped)
    assert submission(unzipped)["SER_S11#K09#2#318"] == pytest.approx(with_broken, abs=1e-6)


def test_columns_are_told_apart_by_name(unzipped: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In another order, with one more and one less: each value stays with its category."""
    run_submission(unzipped)
    before = submission(unzipped)
    path = unzipped / "data" / "submission_format.csv"
    with path.open() as file:
        header, *rows = csv.reader(file)
    columns = ["unicorn", *reversed(header[2:])]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["seq_id", *columns]])
        csv.writer(file).writerows([[row[0], *["0.0"] * len(columns)] for row in rows])
    run_submission(unzipped)
    after = submission(unzipped)
    assert "get the mean of its rarest: ['unicorn']" in caplog.text
    assert "1 categories of the model are not asked for: ['aardvark']" in caplog.text
    for name, row in after.items():
        assert row[0] == 0.01
        assert row[1:] == pytest.approx(before[name][:0:-1], abs=1e-6)


def test_a_sequence_without_photographs_gets_class_means(
    unzipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that the metadata does not list is there all the same; others' rows are not asked for."""
    edit(unzipped / "data" / "submission_format.csv", "SER_S11#D12#3#5,", "SER_S11#Z99#1#1,")
    run_submission(unzipped)
    found = submission(unzipped)
    row = found["SER_S11#Z99#1#1"]
    assert row == class_means(len(row))
    assert "1 photographs are of sequences that are not asked for" in caplog.text
    assert "sequence without photographs: SER_S11#Z99#1#1" in caplog.text


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("submission_format.csv", "", None, r"no data/submission_format.csv beside main.py"),
        ("test_metadata.csv", "", None, r"no data/test_metadata.csv beside main.py"),
        ("test_metadata.csv", "file_name", "file", r"has no column 'file_name', only"),
        ("test_metadata.csv", "MVXBE_IMAG0229.JPG,", "", r"row 2: 2 values, but the header has 3"),
        ("submission_format.csv", "seq_id", "id", r"it must have seq_id and then a column"),
    ],
)
def test_a_table_that_is_not_as_agreed_is_named(
    unzipped: Path, name: str, old: str, new: str | None, message: str
) -> None:
    """A missing file, a missing column, a cut row: one sentence that says which."""
    path = unzipped / "data" / name
    path.unlink() if new is None else edit(path, old, new)
    with pytest.raises(CatalogError, match=message):
        run_submission(unzipped)
    assert not (unzipped / SUBMISSION_FILE).exists()


def test_a_model_of_other_classes_is_refused(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no column is known, a submission of means alone is not passed off as one."""
    caplog.set_level(logging.INFO)
    run = write_model(tmp_path / "run", ("lynx", "wolf"), ResizeSettings(size="96"))
    write_submission(run, str(tmp_path / "submission.zip"))
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        archive.extractall(tmp_path / "runtime")
    shutil.copytree(data, tmp_path / "runtime" / "data")
    with pytest.raises(CatalogError, match=r"knows none of the [0-9]+ columns"):
        run_submission(tmp_path / "runtime")


def test_an_output_that_is_no_zip_is_refused(run: str, tmp_path: Path) -> None:
    """The name says what it must be."""
    with pytest.raises(ConfigError, match=r"a file whose name ends in \.zip"):
        write_submission(run, str(tmp_path / "submission"))


@pytest.mark.slow
def test_the_commands_say_what_they_wrote(run: str, package: Path, tmp_path: Path) -> None:
    """``submit`` makes the very zip, ``export-model`` the folder; without a run, one line."""

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        whole = [sys.executable, "-m", "serengeti_etl", *arguments]
        return subprocess.run(whole, capture_output=True, text=True, check=False)

    path = tmp_path / "submission.zip"
    shown = command("submit", run, "--output", str(path))
    assert shown.returncode == 0, shown.stderr
    assert re.search(rf"written: {re.escape(str(path))}, \d+ files, 4\d\.\d MB", shown.stdout)
    assert path.read_bytes() == package.read_bytes()
    shown = command("export-model", run, "--output", str(tmp_path / "model"))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip().endswith("metrics.json, README.md, config.json")
    refused = command("submit", str(tmp_path / "nothing"), "--output", str(path))
    assert refused.returncode == 4
    assert "the training has not finished" in refused.stderr
