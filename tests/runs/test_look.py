"""Looks at a run beside other work."""

import threading
from pathlib import Path

from serengeti_etl.runs.look import look_anew
from serengeti_etl.storage import Store
from tests.runs.status_factory import STATUS, say
from tests.runs.test_supervised import wait_until


def test_a_look_leaves_no_thread_behind(tmp_path: Path) -> None:
    """A supervisor looks anew with every start, for weeks."""
    say(tmp_path, STATUS)
    for _ in range(5):
        assert look_anew(Store(url=str(tmp_path)), 20).step == STATUS.step
    names = {"look anew at the run"}
    wait_until(lambda: not names & {thread.name for thread in threading.enumerate()}, 20)
