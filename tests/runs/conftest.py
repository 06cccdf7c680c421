"""What tests of runs share."""

from collections.abc import Iterator

import pytest

from serengeti_etl.runs import board
from tests.runs.alert_server import AlertServer, alert_server
from tests.servers import bound_port


@pytest.fixture
def server() -> Iterator[AlertServer]:
    """A real HTTP server that alerts are posted to."""
    with alert_server() as running:
        yield running


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of loopback that refuses connections, and that nobody else can take meanwhile."""
    with bound_port() as port:
        yield port


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy a board's last word takes longer, and is waited for."""
    monkeypatch.setattr(board, "_CLOSE_SECONDS", 60.0)
