"""The pages in Chromium, on a phone and on a desk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.browse.pages import open_pages
from serengeti_etl.web.guard import WebSettings
from serengeti_etl.web.server import WebServer
from tests.browse.rows import HOSTILE, drawn_rows, hostile_rows
from tests.browse.test_query import probabilities
from tests.browser import DESK, PHONE, SIZES, Browser, Shown
from tests.dataset_factory import dataset_of_rows

ROWS = drawn_rows(60)
ZEBRAS = [row for row in ROWS if "zebra" in row["labels"]]
each_size = pytest.mark.parametrize("size", SIZES, ids=["phone", "desk"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """Shows ``ROWS`` and predictions of them."""
    folder = tmp_path_factory.mktemp("dataset")
    dataset_of_rows(str(folder), ROWS)
    probabilities(ROWS).to_parquet(folder / "said.parquet")
    pages = open_pages(str(folder), str(folder / "said.parquet"))
    with WebServer(pages.routes()) as running:
        yield running


def open_filters(shown: Shown, size: tuple[int, int]) -> None:
    """On a phone they are folded away."""
    if size == PHONE:
        assert not shown.page.is_visible("aside")
        shown.page.click(".opener")
    assert shown.page.is_visible("aside")


def all_pictures_are_shown(page: Any) -> bool:
    """Whether each picture of the page, once scrolled to, has pixels."""
    page.evaluate("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
    page.evaluate(
        "Promise.all([...document.images].map(one => one.complete || new Promise(done => {"
        " one.onload = done; one.onerror = done; })))"
    )
    return bool(page.evaluate("[...document.images].every(one => one.naturalWidth > 0)"))


@each_size
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_the_first_page_is_whole(
    browser: Browser,
    server: WebServer,
    size: tuple[int, int],
    is_dark: bool,  # noqa: FBT001 - as pytest hands it over
) -> None:
    """No error, nothing from outside, nothing sideways; every tile has its picture."""
    with browser.show(server.url, size, is_dark=is_dark) as shown:
        assert shown.page.locator(".tile").count() == 60
        assert all_pictures_are_shown(shown.page)
        shown.check()


@each_size
def test_a_click_on_a_filter_shows_as_many_tiles(
    browser: Browser, server: WebServer, size: tuple[int, int]
) -> None:
    """A click on a category gives as many tiles as it said; back and again take it away."""
    with browser.show(server.url, size) as shown:
        open_filters(shown, size)
        choice = shown.page.locator("[data-facet=category] a", has_text="zebra")
        assert choice.locator(".count").inner_text() == str(len(ZEBRAS))
        shown.follow(choice)
        assert shown.page.url.endswith("?category=zebra")
        assert shown.page.locator(".tile").count() == len(ZEBRAS)
        shown.page.go_back()
        assert shown.page.locator(".tile").count() == 60
        shown.page.go_forward()
        shown.follow(shown.page.locator(".chips a").first)
        assert shown.page.url == f"{server.url}?"
        shown.check()


@each_size
def test_what_is_chosen_in_a_form_is_shown_at_once(
    browser: Browser, server: WebServer, size: tuple[int, int]
) -> None:
    """A site, a first day and "wrong only" join what is chosen, with nothing empty beside them."""
    with browser.show(f"{server.url}?category=zebra", size) as shown:
        open_filters(shown, size)
        with shown.page.expect_navigation():
            shown.page.select_option("#site", "B3")
        assert shown.page.url == f"{server.url}?category=zebra&site=B3"
        wanted = [row for row in ZEBRAS if row["site"] == "B3"]
        assert shown.page.locator(".tile").count() == len(wanted)
        open_filters(shown, size)
        with shown.page.expect_navigation():
            shown.page.fill("[name=since]", "2012-06-01")
        assert "since=2012-06-01" in shown.page.url
        open_filters(shown, size)
        with shown.page.expect_navigation():
            shown.page.check("[name=wrong]")
        assert "wrong=1" in shown.page.url
        assert shown.page.locator(".tile .right").count() == 0
        for word, name in (("from", "since="), ("prediction", "wrong=")):
            shown.follow(shown.page.locator(".chips a", has_text=word))
            assert name not in shown.page.url
        assert shown.page.url == f"{server.url}?category=zebra&site=B3"
        shown.page.goto(f"{server.url}?wrong=1")
        assert shown.page.locator(".tile .wrong").count() == shown.page.locator(".tile").count() > 0
        shown.check()


@each_size
def test_a_click_on_a_tile_shows_its_sequence(
    browser: Browser, server: WebServer, size: tuple[int, int]
) -> None:
    """A sample's page has the frames of its sequence, and says that the shard agrees."""
    with browser.show(f"{server.url}?category=zebra", size) as shown:
        shown.page.click(".tile >> nth=4")
        shown.page.wait_for_selector(".check.right")
        key = shown.page.inner_text("dd >> nth=0")
        (row,) = [row for row in ROWS if row["image_id"] == key]
        frames = [other for other in ROWS if other["seq_id"] == row["seq_id"]]
        assert shown.page.locator("figure").count() == len(frames)
        assert shown.page.locator("figure.this b").inner_text() == str(row["frame_num"])
        assert all_pictures_are_shown(shown.page)
        assert f'"image_id": "{key}"' in shown.page.inner_text("pre")
        boxes = [one.bounding_box() for one in shown.page.locator("figure").all()]
        tops = {round(box["y"]) for box in boxes if box}
        assert len(tops) == (1 if size == DESK else len(frames))
        shown.check()


def test_keys_lead_through_the_samples(browser: Browser, server: WebServer) -> None:
    """Arrows lead to the next image of the filter and back, Escape to its page."""
    with browser.show(f"{server.url}?site=B3", DESK) as shown:
        links = [one.get_attribute("href") for one in shown.page.locator(".tile").all()]
        shown.page.click(".tile >> nth=0")
        for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
            shown.page.wait_for_selector(".check.right")
            with shown.page.expect_navigation():
                shown.page.keyboard.press(key)
            assert shown.page.url.endswith(links[place])
        with shown.page.expect_navigation():
            shown.page.keyboard.press("Escape")
        assert shown.page.locator(".tile").count() == len(links)
        shown.check()


def test_without_scripts_the_pages_work(browser: Browser, server: WebServer) -> None:
    """Filters are links and a form with a button; a sample leads to what the shard says."""
    with browser.show(server.url, PHONE, java_script_enabled=False) as shown:
        shown.page.click(".opener")
        shown.page.select_option("#site", "B3")
        shown.follow(shown.page.locator("aside button"))
        count = sum(row["site"] == "B3" for row in ROWS)
        assert shown.page.locator(".tile").count() == count
        shown.follow(shown.page.locator(".tile >> nth=0"))
        assert shown.page.locator("figure img").count() > 0
        assert shown.page.is_visible("noscript a")


@each_size
def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path, size: tuple[int, int]) -> None:
    """Names that would be scripts are shown as they are, on every page, and run nowhere."""
    dataset_of_rows(str(tmp_path), hostile_rows())
    with (
        WebServer(open_pages(str(tmp_path)).routes()) as server,
        browser.show(server.url, size) as shown,
    ):
        open_filters(shown, size)
        names = shown.page.locator("[data-facet=category] .name").all_inner_texts()
        assert {*names} == {*HOSTILE}
        shown.check()
        for place in range(len(HOSTILE)):
            shown.page.goto(server.url)
            shown.page.click(f".tile >> nth={2 * place}")
            shown.page.wait_for_selector(".check.right")
            assert shown.page.locator("figure").count() == 2
            assert shown.page.inner_text("h1") in HOSTILE
            shown.check()


def test_a_page_with_a_token_is_seen_with_it_only(browser: Browser, server: WebServer) -> None:
    """The address with the token leads to the page without it; another browser sees nothing."""
    token = "a-token_of-24-characters"  # noqa: S105 - of no use elsewhere
    settings = WebSettings(token=token)
    with WebServer(server._routes, settings) as guarded:
        with browser.show(f"{guarded.url}?site=B3&token={token}", PHONE) as shown:
            shown.page.wait_for_selector(".tile")
            assert shown.page.url == f"{guarded.url}?site=B3"
            assert all_pictures_are_shown(shown.page)
            shown.check()
        with browser.show(guarded.url, PHONE) as shown:
            assert "needs a token" in shown.text()
            assert shown.page.locator(".tile").count() == 0
