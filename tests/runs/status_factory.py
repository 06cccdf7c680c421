"""A status to vary, and runs in folders that say it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from serengeti_etl.runs.look import Look
from serengeti_etl.runs.status import STATUS_FILE, Status

NOW = 1_700_000_000.0

STATUS = Status(
    kind="train",
    name="lions",
    run_id="r1",
    said="running",
    stage="head",
    step=70,
    num_steps=1000,
    unit="steps",
    started_at=NOW - 700,
    progress_at=NOW,
    heartbeat_at=NOW,
    heartbeat_seconds=10.0,
    stall_after_seconds=120.0,
)
"""Lost after 40 s."""


def look(heartbeat_at: float = NOW, **changes: Any) -> Look:
    """A look at a run whose last words are of that time."""
    changes = {"progress_at": heartbeat_at} | changes
    status = replace(STATUS, heartbeat_at=heartbeat_at, **changes)
    return Look(status=status, step=status.step, is_there=True)


def say(folder: Path, status: Status) -> None:
    """Put ``status`` there as a run would."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".part"
    part.write_text(json.dumps(status.to_json()))
    part.replace(folder / STATUS_FILE)
