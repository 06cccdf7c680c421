"""Headless Chromium, which shows a page and tells of everything that is wrong with it."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PHONE, DESK = (390, 844), (1280, 800)
SIZES = (PHONE, DESK)

_MILLISECONDS = 120_000
"""After which something that does not happen is an error, however busy the machine is."""

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Path of Chromium; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


@dataclass
class Shown:
    """A page in the browser, and what went wrong in it.

    Attributes:
        page: playwright's page.
        errors: what its console called an error, and exceptions of its scripts.
        outside: addresses that it asked for, other than files and its own server.
        dialogs: what it popped up.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Nothing, for a page without errors, outside requests, dialogs and sideways scrolling."""
        assert self.errors == []
        assert self.outside == []
        assert self.dialogs == []
        wide = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"the page is {wide} px wider than its window"

    def follow(self, link: Any) -> None:
        """Click on a playwright locator that leads to another page, and wait for all of that."""
        with self.page.expect_navigation():
            link.click()

    def text(self) -> str:
        """What a person reads on it."""
        return str(self.page.inner_text("body"))

    def screenshot(self, path: Path) -> None:
        """All of it as a PNG, to look at."""
        self.page.screenshot(path=str(path), full_page=True)


class Browser:
    """Shows pages, each in a context of its own.

    Args:
        inner: playwright's browser.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @contextlib.contextmanager
    def show(
        self, url: str, size: tuple[int, int] = PHONE, *, is_dark: bool = False, **context: Any
    ) -> Iterator[Shown]:
        """``url`` in a window of ``size`` px; nothing outside ``url``'s own server is answered."""
        scheme = "dark" if is_dark else "light"
        viewport = {"width": size[0], "height": size[1]}
        opened = self._inner.new_context(viewport=viewport, color_scheme=scheme, **context)
        opened.set_default_timeout(_MILLISECONDS)
        with contextlib.closing(opened):
            page = opened.new_page()
            shown = Shown(page)
            own = "/".join(url.split("/")[:3])

            def answer(route: Any) -> None:
                if route.request.url.startswith((own, "data:", "blob:")):
                    route.continue_()
                else:
                    shown.outside.append(route.request.url)
                    route.abort()

            def dismiss(dialog: Any) -> None:
                shown.dialogs.append(dialog.message)
                dialog.dismiss()

            page.route("**/*", answer)
            page.on("dialog", dismiss)
            page.on("pageerror", lambda error: shown.errors.append(str(error)))
            page.on(
                "console",
                lambda said: shown.errors.append(said.text) if said.type == "error" else None,
            )
            page.goto(url)
            yield shown


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium, headless; skips where there is none."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        inner = playwright.chromium.launch(
            executable_path=path, args=list(_ARGUMENTS), timeout=_MILLISECONDS
        )
        with contextlib.closing(inner):
            yield Browser(inner)
