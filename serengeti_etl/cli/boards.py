"""Boards of the commands that run long: options, and what is on them beside progress."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from serengeti_etl.runs.board import Board

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

TRAINING_STALL_SECONDS = 600.0

CONVERSION_STALL_SECONDS = 1800.0
"""A conversion comes on with each finished shard: many workers behind a slow line finish their
first ones late, and all at once."""


def board_options(stall_seconds: float) -> Callable[[CommandT], CommandT]:
    """What adds to a command what its page needs to be told.

    Args:
        stall_seconds: the default of how long it may be without progress.
    """
    options = (
        click.option("--name", help="Of the run, on its page; by default its folder's."),
        click.option(
            "--stall-after",
            type=click.FloatRange(min=0, min_open=True),
            default=stall_seconds,
            show_default=True,
            metavar="SECONDS",
            help="Without progress it counts as stalled; a supervisor ends it a minute later.",
        ),
        click.option(
            "--hourly-rate",
            type=click.FloatRange(min=0),
            metavar="PRICE",
            help="Of the machines; then the page shows what the run costs.",
        ),
    )

    def add(command: CommandT) -> CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@contextlib.contextmanager
def training_board(
    run: str,
    name: str | None = None,
    stall_after: float = TRAINING_STALL_SECONDS,
    hourly_rate: float | None = None,
) -> Iterator["Board"]:
    """The board of the training at ``run``; it ends with what the block ends with."""
    from serengeti_etl.runs.board import Board, BoardSettings
    from serengeti_etl.storage import Store
    from serengeti_etl.versions import code_versions

    settings = BoardSettings(
        kind="train",
        name=name or _last_part(run),
        stall_after_seconds=stall_after,
        hourly_rate=hourly_rate,
        versions=code_versions() | {"torch": version("torch")},
    )
    with Board(Store(url=run), settings) as board, logged_on(board):
        yield board


@contextlib.contextmanager
def conversion_board(
    output: str,
    name: str | None = None,
    stall_after: float = CONVERSION_STALL_SECONDS,
    hourly_rate: float | None = None,
) -> Iterator["Board"]:
    """The board of the conversion to ``output``; it ends with what the block ends with."""
    from serengeti_etl.convert.telling import FOLDER
    from serengeti_etl.convert.versions import conversion_versions
    from serengeti_etl.runs.board import Board, BoardSettings
    from serengeti_etl.storage import Store, join_url

    settings = BoardSettings(
        kind="convert",
        name=name or _last_part(output),
        unit="images",
        stall_after_seconds=stall_after,
        hourly_rate=hourly_rate,
        versions=conversion_versions(),
    )
    with Board(Store(url=join_url(output, FOLDER)), settings) as board, logged_on(board):
        yield board


def _last_part(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2] or url


@contextlib.contextmanager
def logged_on(board: "Board") -> Iterator[None]:
    """What this package logs in the block stands on the board too."""
    logger = logging.getLogger("serengeti_etl")
    handlers: list[logging.Handler] = [_BoardHandler(board)]
    if not logger.hasHandlers() and logging.lastResort is not None:
        handlers.append(logging.lastResort)  # which Python leaves out where there is another
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)


class _BoardHandler(logging.Handler):
    def __init__(self, board: "Board") -> None:
        super().__init__(logging.INFO)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._board.log(text)
        if record.levelno >= logging.WARNING:
            self._board.event("log", text, "warning")
