"""The browser of the tests sees what is wrong with a page."""

from pathlib import Path

import pytest

from tests.browser import SIZES, Browser

GOOD = "<!doctype html><title>t</title><body><h1>Hello</h1>"


@pytest.mark.parametrize("size", SIZES)
def test_a_good_page_passes(browser: Browser, tmp_path: Path, size: tuple[int, int]) -> None:
    """A page without faults passes, in a window of the size asked for, and can be read."""
    (tmp_path / "page.html").write_text(GOOD)
    with browser.show((tmp_path / "page.html").as_uri(), size) as shown:
        shown.check()
        assert shown.text() == "Hello"
        assert shown.page.evaluate("[innerWidth, innerHeight]") == list(size)


@pytest.mark.parametrize(
    "fault",
    [
        "<script>console.error('bad')</script>",
        "<script>missing()</script>",
        "<img src='https://example.org/a.png' alt=''>",
        "<script>alert(1)</script>",
        "<div style='width: 2000px'>wide</div>",
    ],
)
def test_each_fault_is_seen(browser: Browser, tmp_path: Path, fault: str) -> None:
    """Errors, outside requests, dialogs and sideways scrolling fail the check."""
    (tmp_path / "page.html").write_text(GOOD + fault)
    with (
        browser.show((tmp_path / "page.html").as_uri()) as shown,
        pytest.raises(AssertionError),
    ):
        shown.check()
