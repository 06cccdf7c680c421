"""What is saved while a store is away: it waits beside the training, and comes once."""

import threading
from collections.abc import Callable

import pytest

from serengeti_etl.errors import Incomplete
from serengeti_etl.train import outbox as outbox_module
from serengeti_etl.train.outbox import Outbox


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_SECONDS", 0.01)
    # Whoever waits for more than an answer does so for ever.
    monkeypatch.setattr(outbox_module, "PROMPT_SECONDS", 1000.0)


def assert_no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name == "outbox":
            thread.join(30)
            assert not thread.is_alive()


class Away:
    """A store that is away until told otherwise; ``got`` is what it was given."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error: OSError | None = error
        self.got: list[str] = []
        self.asked = threading.Semaphore(0)

    def deliver(self, what: str) -> Callable[[], None]:
        """A function that gives it ``what``."""

        def give() -> None:
            self.asked.release()
            if self.error is not None:
                raise self.error
            self.got.append(what)

        return give

    def await_next_try(self) -> None:
        """Until it is asked by a try that begins after the call."""
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have been under way
            assert self.asked.acquire(timeout=30)


def test_what_can_be_delivered_is_delivered_at_once() -> None:
    """It is there when the call returns, and is told once; no thread is left afterwards."""
    store, late = Away(), list[OSError]()
    with Outbox(late.append) as outbox:
        for number in (1, 2):
            outbox.send("state", f"state {number}", store.deliver(f"state {number}"))
            assert store.got[-1] == f"state {number}"
        outbox.finish(0)
        assert outbox.arrived() == ["state 1", "state 2"]
        assert outbox.arrived() == []
    assert late == []
    assert_no_thread_is_left()


def test_what_is_late_comes_in_order_and_only_the_newest_of_its_kind() -> None:
    """Of three states and a model for a store that is away, the last state and the model come."""
    store, late = Away(ConnectionError("away")), list[OSError]()
    with Outbox(late.append) as outbox:
        outbox.send("state", "state 1", store.deliver("state 1"))
        outbox.send("model", "model", store.deliver("model"))
        for number in (2, 3):
            outbox.send("state", f"state {number}", store.deliver(f"state {number}"))
        assert [str(error) for error in late] == ["away"]
        assert outbox.arrived() == []
        # A try of what was there before may still be under way.
        store.await_next_try()
        store.error = None
        outbox.finish(30)
        told = outbox.arrived()
        assert told == store.got
        assert told[-2:] == ["model", "state 3"]
        assert "state 2" not in told
        outbox.send("state", "state 4", store.deliver("state 4"))
        assert store.got[-1] == "state 4"


def test_an_error_that_does_not_pass_is_raised() -> None:
    """At once from the call, and from the next one where the thread met it."""
    store = Away(PermissionError("denied"))
    with Outbox() as outbox, pytest.raises(PermissionError, match="denied"):
        outbox.send("state", "state 1", store.deliver("state 1"))
    for then in ("finish", "send"):
        store.error = ConnectionError("away")
        with Outbox() as outbox:
            outbox.send("state", "state 1", store.deliver("state 1"))
            store.error = PermissionError("denied")
            if then == "finish":
                with pytest.raises(PermissionError, match="denied"):
                    outbox.finish(30)
            else:
                with outbox._changed:
                    assert outbox._changed.wait_for(lambda: outbox._error is not None, 30)
                with pytest.raises(PermissionError, match="denied"):
                    outbox.send("state", "state 2", store.deliver("state 2"))
    assert store.got == []


def test_what_does_not_come_in_time_is_named() -> None:
    """The run is incomplete, not failed; after the block nothing is tried any more."""
    store = Away(ConnectionError("away"))
    with Outbox() as outbox:
        outbox.send("state", "state 1", store.deliver("state 1"))
        with pytest.raises(Incomplete, match=r"state 1 could not be written within 0 s"):
            outbox.finish(0.05)
    assert_no_thread_is_left()
    store.error = None
    assert store.got == []


def test_a_store_that_swallows_packets_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training goes on after a while, nothing is told; the newest comes in the end."""
    monkeypatch.setattr(outbox_module, "PROMPT_SECONDS", 0.05)
    store, late, answers = Away(), list[OSError](), threading.Event()

    def swallowed() -> None:
        assert answers.wait(30)
        store.deliver("state 1")()

    with Outbox(late.append) as outbox:
        outbox.send("state", "state 1", swallowed)
        for number in (2, 3):
            outbox.send("state", f"state {number}", store.deliver(f"state {number}"))
        assert (store.got, outbox.arrived()) == ([], [])
        answers.set()
        outbox.finish(30)
        assert store.got == outbox.arrived() == ["state 1", "state 3"]
    assert late == []


def test_silence_that_became_an_error_is_told_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, in the thread that asks; and again when the store was there in between."""
    monkeypatch.setattr(outbox_module, "PROMPT_SECONDS", 0.05)
    store, told, answers = Away(ConnectionError("away")), list[str](), threading.Event()

    def swallowed() -> None:
        answers.wait(30)
        store.deliver("state 1")()

    with Outbox(lambda error: told.append(f"{error} {threading.current_thread().name}")) as outbox:
        outbox.send("state", "state 1", swallowed)
        assert told == []
        answers.set()
        for _ in range(2):
            assert store.asked.acquire(timeout=30)
        for _ in range(3):
            assert outbox.arrived() == []
        assert told == ["away MainThread"]
        store.error = None
        outbox.finish(30)
        assert outbox.arrived() == ["state 1"]
        monkeypatch.setattr(outbox_module, "PROMPT_SECONDS", 1000.0)  # until it has been asked
        store.error = TimeoutError("away again")
        outbox.send("state", "state 2", store.deliver("state 2"))
        assert told == ["away MainThread", "away again MainThread"]


def test_a_fault_of_ours_is_raised_where_it_is_waited_for() -> None:
    """What is no error of a store does not end in a thread that nobody hears of."""
    with Outbox() as outbox:
        with pytest.raises(ZeroDivisionError):
            outbox.send("state", "state 1", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            outbox.finish(30)
