"""A table as text, for whatever a command shows."""

import io
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 200
"""Columns of text; wide enough that nothing is cut, whatever the output is connected to."""

_WORDS = ("reason", "of", "meaning", "example", "file")
"""Columns of text, and so to the left."""


def table_text(title: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """A table as text, numbers to the right; "" when there are no rows."""
    if not rows:
        return ""
    table = Table(box=SIMPLE_HEAD)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at and column not in _WORDS else "left")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    text = io.StringIO()
    Console(file=text, width=WIDTH, highlight=False).print(table)
    # Not as the table's own title, which would be broken at the width of a narrow table.
    lines = [title, *text.getvalue().splitlines()]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cell(value: Any) -> Text:
    # As Text, or a site called "[red]" would be taken for markup.
    return Text(f"{value:,}" if isinstance(value, int) else str(value))
