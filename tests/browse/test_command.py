"""The command: what it says, that it serves, that it ends, and whom it lets in."""

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serengeti_etl.browse.pages import open_pages
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.web.server import WebServer
from tests.browse.rows import drawn_rows
from tests.conftest import season_pipeline
from tests.dataset_factory import dataset_of_rows
from tests.growing import GrowingSeason

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "serengeti_etl", "browse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a dataset."""
    path = tmp_path_factory.mktemp("dataset")
    dataset_of_rows(str(path), drawn_rows(10))
    return path


@contextmanager
def browsing(folder: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The command, and the address that it says."""
    command = (*COMMAND, str(folder), *options)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert "images" in process.stdout.readline()
        (url,) = re.findall(r"shown at (\S+);", process.stdout.readline())
        yield process, url
    finally:
        process.kill()
        process.communicate()


def status_of(url: str) -> int:
    assert url.startswith("http://")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - seen just now
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(folder: Path, number: signal.Signals) -> None:
    """It says where, serves there, and ends well on Ctrl-C and SIGTERM."""
    with browsing(folder, "--address", "127.0.0.1:0") as (process, url):
        assert status_of(url) == 200
        process.send_signal(number)
        assert process.wait(60) == 0
        with pytest.raises(urllib.error.URLError):
            status_of(url)


def test_others_need_the_token_that_it_says(folder: Path) -> None:
    """On an address that others reach it makes a token up, without which nothing is shown."""
    with browsing(folder, "--address", "0.0.0.0:0") as (_, url):
        here = url.replace(socket.gethostname(), "127.0.0.1")
        assert re.search(r"/\?token=[\w-]{32}$", here)
        assert status_of(here) == 200
        assert status_of(here[:-1]) == 403
        assert status_of(here.partition("?")[0]) == 403


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--address", "nowhere"], "address is 'nowhere', but it must be host:port"),
        (["--token", "short"], "token must be 16 to 256 letters"),
        (["--predictions", "none.parquet"], "none.parquet"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder: Path, options: list[str], text: str) -> None:
    """A bad address, token or file of predictions: exit code 4 and one sentence."""
    command = [*COMMAND, str(folder), "--address", "127.0.0.1:0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 4
    assert text in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_all_editions_are_shown(season: Path, tmp_path: Path) -> None:
    """Of a dataset that has grown, the images of every edition are on the page."""
    growing = GrowingSeason(season, tmp_path / "source")
    pipeline: SeasonPipeline = season_pipeline(str(growing.folder))
    output = str(tmp_path / "dataset")
    convert_season(pipeline, SerialRunner(), output)
    growing.take_all()
    convert_season(pipeline, SerialRunner(), output)
    dataset = open_dataset(output)
    assert len(dataset.info.editions) == 2
    pages = open_pages(output)
    assert pages.num_images == dataset.index().num_rows
    with WebServer(pages.routes()) as server:
        for row in range(pages.num_images):
            assert status_of(f"{server.url}tile/{row}") == 200
