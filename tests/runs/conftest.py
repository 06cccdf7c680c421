"""What tests of runs share."""

from collections.abc import Iterator

import pytest

from tests.runs.alert_server import AlertServer, alert_server


@pytest.fixture
def server() -> Iterator[AlertServer]:
    """A real HTTP server that alerts are posted to."""
    with alert_server() as running:
        yield running
