"""What ``watch --once`` shows, as text."""

from collections.abc import Sequence

from serengeti_etl.runs.page import duration
from serengeti_etl.runs.watch import SeenRun
from serengeti_etl.text_table import table_text

_COLUMNS = ("run", "state", "stage", "done", "left", "score", "loss", "last seen", "cost", "reason")


def runs_text(runs: Sequence[SeenRun]) -> str:
    """A table of the runs that a watcher sees; "" without any."""
    rows = [tuple(_printable(cell) for cell in _row(run)) for run in runs]
    return table_text("runs", _COLUMNS, rows)


def _printable(text: str) -> str:
    # A run's name may hold what a terminal would obey.
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _row(run: SeenRun) -> tuple[str, ...]:
    status, sight = run.status, run.sight
    state = sight.state.value if sight.state else "?"
    if status is None:
        return (run.title, state, "", "", "", "", "", "", "", run.fault)
    return (
        run.title,
        state if sight.is_sure or not sight.state else f"{state}?",
        status.stage,
        done_text(run),
        "" if status.eta_seconds is None else duration(status.eta_seconds),
        figure_text(run, "score"),
        figure_text(run, "loss"),
        f"{duration(sight.silent_seconds)} ago" if sight.state else "",
        "" if status.cost is None else f"{status.cost:.2f}",
        run.fault or status.reason,
    )


def done_text(run: SeenRun) -> str:
    """Steps done, of how many, and their unit; "" while unknown."""
    status = run.status
    if status is None:
        return ""
    total = "" if status.num_steps is None else f" of {status.num_steps:,}"
    return f"{status.step:,}{total} {status.unit}"


def figure_text(run: SeenRun, name: str) -> str:
    """The latest figure of that name; "" without one."""
    value = None if run.status is None else run.status.values.get(name)
    return "" if value is None else f"{value:.4f}"
