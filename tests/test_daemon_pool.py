"""Threads that never keep the process from ending, and otherwise as an executor's."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serengeti_etl.daemon_pool import DaemonPool

ROOT = Path(__file__).parents[1]


def test_results_and_errors_come_as_they_would_without() -> None:
    """Each call has its own result or error, and no more work at once than there are threads."""
    lock, num_inside, most = threading.Lock(), 0, 0

    def work(number: int, *, plus: int) -> int:
        nonlocal num_inside, most
        with lock:
            num_inside += 1
            most = max(most, num_inside)
        time.sleep(0.002)
        with lock:
            num_inside -= 1
        if number % 10 == 3:
            raise KeyError(number)
        return number + plus

    pool = DaemonPool(4, "test")
    futures = [pool.submit(work, number, plus=1) for number in range(40)]
    for number, future in enumerate(futures):
        if number % 10 == 3:
            with pytest.raises(KeyError, match=str(number)):
                future.result(30)
        else:
            assert future.result(30) == number + 1
    assert 1 < most <= 4
    pool.abandon()


def test_what_is_cancelled_is_not_made_and_its_thread_goes_on() -> None:
    """A call that nobody waits for any more is left out; those after it are made."""
    let_go, made = threading.Event(), list[int]()
    pool = DaemonPool(1, "cancelled")
    first = pool.submit(let_go.wait, 30)
    second, third = (pool.submit(made.append, number) for number in (2, 3))
    assert second.cancel()
    let_go.set()
    third.result(30)
    assert first.result(30)
    assert not first.cancel()
    assert made == [3]
    pool.abandon()


def test_an_abandoned_pool_begins_nothing_and_its_threads_end() -> None:
    """Of what waits nothing is done; what is under way is not waited for."""
    begun: list[int] = []
    let_go = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        let_go.wait(30)

    pool = DaemonPool(2, "abandoned")
    for number in range(6):
        pool.submit(work, number)
    while len(begun) < 2:
        time.sleep(0.01)
    pool.abandon()
    let_go.set()
    for thread in pool._threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(begun) == [0, 1]


def test_work_that_hangs_does_not_hold_up_the_end_of_python() -> None:
    """A script ends when it is done, though its pool waits for something that never comes."""
    code = (
        "import threading\n"
        "from serengeti_etl.daemon_pool import DaemonPool\n"
        "DaemonPool(1, 'x').submit(threading.Event().wait)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)
