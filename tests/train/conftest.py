"""What tests of training share."""

import pytest
import torch

from serengeti_etl.runs import board
from serengeti_etl.train import outbox


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Of arithmetic: the tests' networks are too small for more."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy a write and a board's last word take longer, and are waited for."""
    monkeypatch.setattr(board, "_CLOSE_SECONDS", 60.0)
    monkeypatch.setattr(outbox, "PROMPT_SECONDS", 60.0)
