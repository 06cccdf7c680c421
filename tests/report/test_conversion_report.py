"""The report of a dataset, as a browser shows it, against pandas over the index."""

import dataclasses
import datetime as dt
import re
from pathlib import Path

import pandas as pd
import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season, convert_sizes
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.report import conversion
from serengeti_etl.report.conversion import Making, dataset_page
from serengeti_etl.report.pages import MAX_NUM_BYTES
from serengeti_etl.report.write import report_dataset
from serengeti_etl.storage import Store
from tests.browser import DESK, PHONE, SIZES, Browser, Shown
from tests.conftest import season_pipeline
from tests.convert.test_sizes import sizes_pipeline
from tests.growing import GrowingSeason
from tests.report_factory import HOSTILE, Capture, captures_of, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Of 120 sequences."""
    return make_dataset(str(tmp_path / "dataset"), captures_of(120))


def saved(page: bytes, folder: Path) -> str:
    """The page as a file, and its address."""
    path = folder / "page.html"
    path.write_bytes(page)
    return path.as_uri()


def table(shown: Shown, label: str) -> list[list[str]]:
    """The rows of a table, as text."""
    rows = shown.page.locator(f'[aria-label="{label}"] tbody tr').all()
    return [[cell.inner_text() for cell in row.locator("th,td").all()] for row in rows]


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_shows_on_phone_and_desk(
    dataset: Dataset, tmp_path: Path, browser: Browser, size: tuple[int, int], scheme: str
) -> None:
    """No error, nothing from outside, nothing wider than the window, and pictures that load."""
    url = saved(dataset_page(dataset), tmp_path)
    with browser.show(url, size, is_dark=scheme == "dark") as shown:
        shown.check()
        sizes = shown.page.evaluate("[...document.images].map((one) => one.naturalWidth)")
        assert len(sizes) > 20
        assert min(sizes) > 0
        alts = shown.page.evaluate("[...document.images].map((one) => one.alt)")
        assert all(alts)


def test_its_figures_are_those_of_pandas(
    dataset: Dataset, tmp_path: Path, browser: Browser
) -> None:
    """Categories by split, sites, seasons and key figures."""
    frame = dataset.index().to_pandas()
    with browser.show(saved(dataset_page(dataset), tmp_path), DESK) as shown:
        counted = frame.explode("labels").groupby(["labels", "split"]).size()
        for name, train, val, total, _ in table(shown, "Images of each category in each split"):
            assert number(train) == counted.get((name, "train"), 0)
            assert number(val) == counted.get((name, "val"), 0)
            assert number(total) == number(train) + number(val)
        sites = {row[0]: number(row[2]) for row in table(shown, "Images by site")}
        assert sites == frame["site"].value_counts().to_dict()
        seasons = {row[0]: number(row[1]) for row in table(shown, "Images by season")}
        assert seasons == frame["season"].value_counts().to_dict()
        assert [row[:4] for row in table(shown, "Splits")] == [
            [name, str(len(part)), str(part["seq_id"].nunique()), str(part["site"].nunique())]
            for name, part in frame.groupby("split")
        ]
        keys = shown.page.locator(".keys dd").all_inner_texts()
        assert keys[0] == f"{len(frame):,}"
        titles = shown.page.locator("svg.chart rect title").all_text_contents()
        by_hour = frame.dropna(subset="datetime").groupby(pd.to_datetime(frame["datetime"]).dt.hour)
        drawn = sum(number(re.findall(r": ([\d,]+) ", title)[0]) for title in titles)
        assert drawn == by_hour.size().sum()


def test_tables_are_sorted_by_a_click(dataset: Dataset, tmp_path: Path, browser: Browser) -> None:
    """Numbers as numbers, the largest first, then the other way; names by name."""
    with browser.show(saved(dataset_page(dataset), tmp_path), PHONE) as shown:

        def column(at: int) -> list[str]:
            return [row[at] for row in table(shown, "Images by site")]

        heads = shown.page.locator('[aria-label="Images by site"] thead button')
        heads.nth(2).click()
        falling = [number(text) for text in column(2)]
        assert falling == sorted(falling, reverse=True)
        heads.nth(2).click()
        assert [number(text) for text in column(2)] == falling[::-1]
        heads.nth(0).click()
        assert column(0) == sorted(column(0))
        shown.check()


def test_it_reads_without_scripts(dataset: Dataset, tmp_path: Path, browser: Browser) -> None:
    """All tables are there; only their order stays."""
    url = saved(dataset_page(dataset), tmp_path)
    with browser.show(url, PHONE, java_script_enabled=False) as shown:
        assert "gazellegrants" in shown.page.inner_text("#splits")
        assert shown.page.locator("thead button").count() == 0


def test_it_prints_dark_on_white(dataset: Dataset, tmp_path: Path, browser: Browser) -> None:
    """Whatever the screen: without its menu, and with all tables in full."""
    url = saved(dataset_page(dataset), tmp_path)
    with browser.show(url, (794, 1123), is_dark=True) as shown:
        shown.page.emulate_media(media="print")
        style = "getComputedStyle(document.body)"
        assert shown.page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
        assert shown.page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
        assert not shown.page.locator("nav").is_visible()
        shown.check()


def test_hostile_names_are_only_text(tmp_path: Path, browser: Browser) -> None:
    """Markup in sites, seasons, classes, file names and settings runs nothing, and is shown."""
    captures = captures_of(40)
    moment = dt.datetime(2012, 1, 1, 5)  # noqa: DTZ001 - as cameras have it
    captures += [
        Capture(split="train", site=HOSTILE, labels=[[HOSTILE]], moment=moment, season=HOSTILE)
    ] * 3
    dataset = make_dataset(
        str(tmp_path / "dataset"),
        captures,
        rejects=[{"site": HOSTILE, "file_name": HOSTILE, "reason": HOSTILE, "message": HOSTILE}],
        name=HOSTILE,
        classes=("empty", "gazellegrants", "gazellethomsons", "zebra", HOSTILE),
        settings={"citation": HOSTILE, HOSTILE: HOSTILE},
        versions={"encoder": HOSTILE},
    )
    page = dataset_page(dataset)
    assert page.count(b"<script") == 1
    for size in SIZES:
        with browser.show(saved(page, tmp_path), size) as shown:
            shown.check()
            assert shown.page.title().startswith(HOSTILE)
            assert HOSTILE in shown.page.inner_text("h1")
            assert "49" not in shown.page.inner_text("h1")


def test_it_stays_within_its_size_and_says_what_is_left_out(
    dataset: Dataset, tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs are left out before the page grows too large, with their number."""
    whole = dataset_page(dataset)
    assert len(whole) < MAX_NUM_BYTES
    limit = len(whole) * 3 // 4 + conversion._SLACK_NUM_BYTES
    monkeypatch.setattr(conversion, "MAX_NUM_BYTES", limit)
    page = dataset_page(dataset)
    assert len(page) <= limit
    with browser.show(saved(page, tmp_path), PHONE) as shown:
        said = re.findall(r"([\d,]+) photographs of this section", shown.text())
        num_shown = shown.page.locator("#categories img, #sites img").count()
    num_wanted = whole.count(b"<img ")
    assert [number(one) for one in said] == [num_wanted - num_shown]


def test_the_same_dataset_gives_the_same_page(dataset: Dataset) -> None:
    """But for the time at which it was made."""

    def timeless() -> bytes:
        return re.sub(rb"Made [^<]* UTC", b"", dataset_page(dataset))

    assert timeless() == timeless()


def test_what_is_wrong_with_a_dataset_is_said(tmp_path: Path) -> None:
    """Categories and sites on one side only, lost cards, clocks, shuffles and papers."""
    captures = captures_of(60)
    early = dt.datetime(1970, 1, 2)  # noqa: DTZ001 - as cameras have it
    captures += [Capture(split="val", site="val-0", labels=[["lion"]], moment=early)]
    captures += [Capture(split="train", site="val-0", labels=[["zebra"]])]
    rejects = [
        {"site": "train-1", "file_name": f"{at}.jpg", "reason": "missing"} for at in range(40)
    ]
    dataset = make_dataset(
        str(tmp_path / "dataset"), captures, rejects=rejects, classes=("empty", "lion", "zebra")
    )
    page = dataset_page(dataset).decode()
    advice = page[page.index('id="advice"') : page.index('id="ledger"')]
    for words in (
        "Only in val, so that no model can learn them: lion",
        "Sites in more than one split, whose scores flatter: val-0",
        "of site train-1 was rejected (40 of",
        "Photographs that have no file at the source: 40",
        "1 images are dated before 2000",
        "images have no date and time",
        "Few sites in val (3)",
        "no licence and no citation",
    ):
        assert words in advice, words


def test_a_ledger_that_does_not_balance_is_said(tmp_path: Path) -> None:
    """First of all, with what to run."""
    ledger = {"num_images": 9, "num_in_shards": 5, "rejected": {"missing": 1}}
    ledger |= {"excluded": {"dropped": 2}, "duplicates": {}}
    dataset = make_dataset(str(tmp_path / "dataset"), captures_of(20), ledger=ledger)
    assert (
        "The ledger does not balance: 8 images are accounted for, 9 are"
        in dataset_page(dataset).decode()
    )


def test_a_conversion_shows_stages_throughput_and_rejects(
    pipeline: SeasonPipeline, tmp_path: Path, browser: Browser
) -> None:
    """Where the time went, images over time, and what is left of a truncated photograph."""
    url = str(tmp_path / "dataset")
    made = convert_season(pipeline, SerialRunner(), url)
    Store(url=url).write("run/metrics.jsonl", b'{"time": 0, "step": 0}\n{"time": 9, "step": 18}')
    making = Making(pipeline=pipeline, conversion=made)
    with browser.show(saved(dataset_page(open_dataset(url), making), tmp_path), PHONE) as shown:
        shown.check()
        text = shown.text()
        assert "18 images in 9.0 s: 2.0 a second" in text
        assert "decode" in shown.page.inner_text("#making")
        assert shown.page.locator("#rejects img").count() == 1
        states = {row[0]: row[2] for row in table(shown, "Ledger") if row[0]}
        assert number(states["in shards"]) == made.ledger.num_in_shards
        assert number(states["rejected"]) == made.ledger.num_rejected
        assert number(states["excluded"]) == sum(made.ledger.excluded.values())


def test_a_dataset_that_grew_lists_its_editions(
    season: Path, tmp_path: Path, browser: Browser
) -> None:
    """One row for each edition, with what it added."""
    growing = GrowingSeason(season, tmp_path / "season")
    pipeline, url = season_pipeline(str(growing.folder)), str(tmp_path / "dataset")
    convert_season(pipeline, SerialRunner(), url)
    growing.take_all()
    convert_season(pipeline, SerialRunner(), url)
    dataset = open_dataset(url)
    assert len(dataset.info.editions) == 2
    with browser.show(saved(dataset_page(dataset), tmp_path), PHONE) as shown:
        shown.check()
        rows = table(shown, "Editions")
    expected = [
        [str(at + 1), "of the label file", f"{one.num_images:,}", f"{one.num_shards:,}"]
        for at, one in enumerate(dataset.info.editions)
    ]
    assert rows == expected


def test_a_dataset_without_images_has_a_report(tmp_path: Path, browser: Browser) -> None:
    """Nothing is a fault, and it says that there is nothing."""
    dataset = make_dataset(str(tmp_path / "dataset"), [])
    with browser.show(saved(dataset_page(dataset), tmp_path), PHONE) as shown:
        shown.check()
        assert "No image has a date and time" in shown.text()


def test_the_report_lies_beside_the_dataset_and_changes_none_of_it(
    pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Every other file keeps its bytes, and each size has a report of its own."""
    convert_sizes(sizes_pipeline(pipeline.source), SerialRunner(), str(tmp_path / "both"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder in sorted((tmp_path / "both").iterdir()):
        where = report_dataset(str(folder))
        assert where == f"{folder}/report.html"
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} == {"report.html"}
    assert {path: after[path] for path in before} == before


def test_pictures_that_cannot_be_read_are_said(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is there, with the first reasons."""

    def refuse(*_: object) -> bytes:
        raise OSError("the bucket is away")

    monkeypatch.setattr(Store, "read_range", refuse)
    page = dataset_page(dataset).decode()
    assert "the bucket is away" in page
    assert "<img" not in page


def test_states_without_images_are_shown_too() -> None:
    """The ledger has all four states, in one order, with shares of the catalog."""
    ledger = {"num_images": 8, "num_in_shards": 6, "rejected": {"a": 2}, "excluded": {}}
    figures = dataclasses.make_dataclass("Figures", ["num_images"])(6)
    states = conversion._states(ledger, figures)
    assert [(one.key, one.num_images, one.share) for one in states] == [
        ("in_shards", 6, 0.75),
        ("rejected", 2, 0.25),
        ("excluded", 0, 0.0),
        ("duplicates", 0, 0.0),
    ]
