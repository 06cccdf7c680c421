"""Templates: what enters a page stays text, and what is missing is an error."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serengeti_etl.templates import Templates

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a template in it."""
    folder = tmp_path / "drawn_package"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "templates" / "page.html").write_text("<p title='{{ value }}'>{{ value | loud }}</p>")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder.name
    sys.modules.pop(folder.name, None)


def test_whatever_enters_a_page_is_text(package: str) -> None:
    """Markup in a value is escaped, in attributes and after filters too."""
    page = Templates(package, filters={"loud": str.upper}).page("page.html", value=HOSTILE)
    inside = page.removeprefix("<p title='").removesuffix("</p>")
    for mark in '<"':
        assert mark not in inside
    assert inside.count("'") == 1
    assert inside.count(">") == 1
    assert "&lt;SCRIPT&gt;" in inside


def test_what_is_missing_is_an_error(package: str) -> None:
    """A value that the template wants, or the template itself, is named."""
    templates = Templates(package, filters={"loud": str.upper})
    with pytest.raises(ValueError, match=r"page\.html: 'value' is undefined"):
        templates.page("page.html")
    with pytest.raises(ValueError, match=r"other\.html"):
        templates.page("other.html")
