"""The pages of ``watch``: what they show, that hostile names are inert, and who sees them."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl.runs.page import Facts, Page
from serengeti_etl.runs.status import PAGE_FILE, Status
from serengeti_etl.runs.watch import Watch, WatchSettings
from serengeti_etl.watch.pages import routes
from serengeti_etl.web.server import WebServer
from tests.browser import PHONE, SIZES, Browser
from tests.runs.status_factory import STATUS, say
from tests.runs.test_watch import step_until

ROOT = Path(__file__).parents[2]
HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"


def put(folder: Path, status: Status) -> None:
    """A run with its page."""
    say(folder, status)
    page = Page()
    page.draw(status, Facts(marks=((0, "head"), (500, "all"))))
    (folder / PAGE_FILE).write_bytes(page.content(status, reloads=True))


def fill(folder: Path) -> None:
    """A run in each state, and one with hostile words in it."""
    now = time.time()
    values = {"loss": 0.0312, "score": 0.0287, "best_score": 0.0287}
    run = replace(
        STATUS,
        started_at=now - 7000,
        heartbeat_at=now,
        heartbeat_seconds=100.0,  # it is not lost, however long a page takes
        progress_at=now,
        values=values,
        eta_seconds=5400.0,
        hourly_rate=3.2,
        stage="416 px, all layers",
        step=41_230,
        num_steps=96_000,
    )
    put(folder / "resnet50-416", replace(run, name="resnet50-416"))
    put(folder / "stalled", replace(run, name="stalled one", progress_at=now - 700))
    put(folder / "lost", replace(run, name="spot-eu-3", heartbeat_at=now - 5000))
    reason = (
        "RunError: the loss is no longer finite at step 4,120; last good checkpoint: step 4,000"
    )
    put(folder / "failed", replace(run, name="too-fast", said="failed", reason=reason))
    put(folder / "done", replace(run, name="first", said="done", step=96_000))
    convert = replace(run, kind="convert", unit="images", name="serengeti-s03", stage="shards")
    convert = replace(convert, step=1_204_311, num_steps=2_651_002, values={})
    put(folder / "serengeti-512" / "run", convert)
    put(folder / "evil", replace(run, name=HOSTILE, stage=HOSTILE, said="stopped", reason=HOSTILE))
    (folder / "cut").mkdir()
    (folder / "cut" / "status.json").write_text("{")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the pages over the runs below ``folder``."""
    watching = Watch([str(folder)], WatchSettings(every_seconds=0.2, find_seconds=0.2))
    with WebServer(routes(watching)) as server:
        step_until(watching, lambda: watching.is_settled)
        yield server.url


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("size", SIZES)
def test_the_overview_shows_every_run(
    browser: Browser, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Trouble first, each state by its word, with progress, figures and the reason; no fault."""
    fill(tmp_path)
    with served(tmp_path) as url, browser.show(url, size) as shown:
        shown.check()
        badges = shown.page.locator(".badge").all_inner_texts()
        assert badges == [
            *("UNSEEN", "FAILED", "LOST", "STALLED", "RUNNING", "RUNNING", "STOPPED", "DONE")
        ]
        text = shown.text()
        for word in (
            "4 need a look",
            "resnet50-416",
            "41,230 of 96,000 steps",
            "416 px, all layers",
            "90 min",
            "0.0287",
            "no longer finite",
            "no word for 83 min",
            "no progress for 11 min",
            "1,204,311 of 2,651,002 images",
            "is no JSON",
        ):
            assert word in text
        assert HOSTILE in text
        assert shown.page.title() == "(4) runs"
        assert shown.page.locator("li img, li script").count() == 0


@pytest.mark.slow
def test_it_looks_for_news_by_itself(browser: Browser, tmp_path: Path) -> None:
    """A change appears without a reload; when the watcher is gone, the page says so."""
    put(tmp_path / "one", STATUS)
    watching = Watch([str(tmp_path)], WatchSettings(every_seconds=0.1))
    with WebServer(routes(watching)) as server:
        step_until(watching, lambda: watching.is_settled)
        with browser.show(server.url) as shown:
            assert shown.page.inner_text(".badge") == "LOST"
            put(tmp_path / "one", replace(STATUS, said="done"))
            step_until(watching, lambda: watching.runs[0].sight.state == "DONE")
            shown.page.locator(".badge", has_text="DONE").wait_for()
            assert shown.errors == []
            server.stop()
            shown.page.wait_for_selector("#away", state="visible")


@pytest.mark.parametrize("name", ["resnet50-416", HOSTILE])
def test_a_card_leads_to_the_runs_own_page(browser: Browser, tmp_path: Path, name: str) -> None:
    """It works as it does from the store: its script runs, nothing in it is in the way."""
    fill(tmp_path)
    with served(tmp_path) as url, browser.show(url, PHONE) as shown:
        shown.page.locator(".card a").filter(has_text=name).click()
        shown.page.wait_for_url("**/run/**")
        shown.check()
        assert name in shown.text()
        assert ("RUNNING" if name != HOSTILE else "STOPPED") in shown.text()


def test_a_page_that_others_have_put_there_is_inert(browser: Browser, tmp_path: Path) -> None:
    """Scripts that are not the board's own do not run, and nothing is asked for elsewhere."""
    put(tmp_path / "one", STATUS)
    evil = "<script>document.title = 'taken'; fetch('/cards')</script>"
    evil += "<img src='https://example.org/x' onerror=\"document.title = 'taken'\">"
    (tmp_path / "one" / PAGE_FILE).write_text(f"<!doctype html><title>t</title>{evil}")
    with served(tmp_path) as url:
        [key] = re.findall(r"/run/([0-9a-f]+)/", get(url)[1])
        with browser.show(f"{url}run/{key}/") as shown:
            shown.page.wait_for_timeout(300)
            assert shown.page.title() == "t"
            assert shown.outside == []


def test_only_runs_that_were_found_are_served(tmp_path: Path) -> None:
    """Other keys, files and ways out of the folder are not there."""
    put(tmp_path / "runs" / "one", STATUS)
    (tmp_path / "secret.json").write_text("secret")
    with served(tmp_path / "runs") as url:
        [key] = re.findall(r"/run/([0-9a-f]+)/", get(url)[1])
        assert get(f"{url}run/{key}/")[0] == 200
        for path in (
            *("run/000000000000/", f"run/{key}/status.json", f"run/{key}/../../secret.json"),
            *(f"run/{key}/%2e%2e/secret.json", "runs/one/index.html", "static/../pages.py"),
            *("run/", f"run/{key}", "secret.json", "static/%2e%2e%2fpages.py"),
        ):
            code, text = get(url + path)
            assert (path, code) == (path, 404)
            assert "secret" not in text.replace(path, "").replace("/secret.json", "")
        (tmp_path / "runs" / "one" / PAGE_FILE).unlink()
        assert get(f"{url}run/{key}/") == (404, get(f"{url}run/{key}/")[1])


def test_others_need_a_token(tmp_path: Path) -> None:
    """Beyond loopback the command makes one up and prints it; without it there is nothing."""
    put(tmp_path, STATUS)
    command = [sys.executable, "-m", "serengeti_etl", "watch", "--address", "0.0.0.0:0"]
    with subprocess.Popen(
        [*command, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            found = re.fullmatch(r"runs: http://[^/:]+:(\d+)/\?token=([\w-]{32})\n", said)
            assert found, said
            url = f"http://127.0.0.1:{found[1]}/"
            assert get(url)[0] == 403
            assert get(f"{url}?token={'x' * 32}")[0] == 403
            assert get(f"{url}?token={found[2]}")[0] == 200
        finally:
            process.terminate()
        assert process.wait(30) == 0
