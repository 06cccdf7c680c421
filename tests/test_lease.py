"""One writer per place: who comes second is told who is first; the dead hold nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serengeti_etl import lease
from serengeti_etl.errors import OutputHeld
from serengeti_etl.lease import LEASE_FILE, Holder, hold, is_lease, lease_file
from serengeti_etl.storage import Store
from tests.leases import again_and_again
from tests.servers import ServerUnavailable, azure_server, open_server

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["folder", "bucket", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same store as a local folder, in a real S3 bucket and in memory."""
    if request.param == "bucket":
        make_bucket: Callable[[str], str] = request.getfixturevalue("make_bucket")
        return Store(url=f"{make_bucket('lease')}/out")
    url = str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}"
    return Store(url=url)


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """An empty local folder."""
    return Store(url=str(tmp_path))


def holder_of(store: Store) -> Holder:
    return Holder.from_bytes(store.read(LEASE_FILE))


def put(store: Store, holder: Holder) -> None:
    store.write(LEASE_FILE, holder.as_bytes())


def elsewhere(seconds_left: float) -> Holder:
    """A holder on another machine, whose lease runs out in so many seconds."""
    end = datetime.now(UTC) + timedelta(seconds=seconds_left)
    return replace(Holder.here(), host="far-away", machine="another", pid=7, expires_at=end)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def test_the_second_is_told_who_the_first_is(store: Store) -> None:
    """While one holds a place another is refused with host, process and what to do; then not."""
    with hold(store):
        first = holder_of(store)
        with pytest.raises(OutputHeld) as refused, hold(store):
            pass
        assert holder_of(store) == first
        for words in (
            store.url,
            f"process {os.getpid()} on {first.host}, since {first.since:%Y-%m-%d %H:%M:%S} UTC",
            f"runs out at {first.expires_at:%H:%M:%S} UTC",
            "Wait until it has finished, or stop it",
        ):
            assert words in str(refused.value)
    assert store.find("") == ()
    with hold(store):
        pass


def test_files_of_one_place_are_held_each(store: Store) -> None:
    """Whatever they are called, beside each other and the whole place; a message names the file."""
    names = ("", "a.csv", ".a.csv", "a", LEASE_FILE, lease_file("a.csv"))
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(hold(store, name))
        assert set(store.find("")) == {lease_file(name) for name in names}
        assert len(store.find("")) == len(names)
        assert all(is_lease(name) for name in store.find(""))
        with pytest.raises(OutputHeld, match=f"{store.url}/a.csv is being written"):
            stack.enter_context(hold(store, "a.csv"))
    assert store.find("") == ()
    assert not any(is_lease(name) for name in ("a.csv", "release.json", "a/b.json"))


def test_work_that_fails_releases_too(store: Store) -> None:
    """An error passes through, and the place is free."""
    with pytest.raises(ZeroDivisionError), hold(store):
        raise ZeroDivisionError
    assert not store.exists(LEASE_FILE)


HOLD_CODE = """
import sys, time
from serengeti_etl.lease import hold
from serengeti_etl.storage import Store
with hold(Store(url=sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("is_reaped", [True, False])
def test_a_killed_holder_on_this_machine_holds_nothing(folder: Store, *, is_reaped: bool) -> None:
    """Refused while it runs; after SIGKILL the place is taken at once, before its time is up."""
    command = [sys.executable, "-c", HOLD_CODE, folder.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputHeld, match=f"process {process.pid} "), hold(folder):
            pass
        process.send_signal(signal.SIGKILL)
        if is_reaped:
            process.wait()
        else:
            wait_until(lambda: lease._started(process.pid) == -1)
        assert holder_of(folder).expires_at > datetime.now(UTC)
        with hold(folder):
            assert holder_of(folder).pid == os.getpid()


def test_a_process_id_that_is_another_s_by_now_holds_nothing(folder: Store) -> None:
    """A living process of the same id that started at another time is not the holder."""
    put(folder, replace(Holder.here(), started=1))
    with hold(folder):
        pass
    put(folder, Holder.here())
    with pytest.raises(OutputHeld), hold(folder):
        pass


def test_another_machine_is_watched_for_a_life(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other machines, or with other process ids, only renewals tell; or a time that is over."""
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.1)
    left = elsewhere(60)
    put(store, left)

    def renew() -> None:
        nonlocal left
        left = replace(left, expires_at=left.expires_at + timedelta(seconds=1))
        put(store, left)

    with (
        again_and_again(renew),
        pytest.raises(OutputHeld, match="process 7 on far-away"),
        hold(store),
    ):
        pass
    assert holder_of(store) == left
    monkeypatch.setattr(lease, "LIFE_SECONDS", 1.0)
    started = time.monotonic()
    with hold(store):
        assert time.monotonic() - started >= 1
    put(store, elsewhere(-1))
    with hold(store):
        assert holder_of(store).pid == os.getpid()
    assert not store.exists(LEASE_FILE)


def test_a_lease_that_cannot_be_read_is_for_a_person_to_judge(folder: Store) -> None:
    """What is no lease is not written over: the message says what to delete, and when."""
    for content in (b"", b"[]", b"{}", b'{"token": 1}', b"\xff"):
        folder.write(LEASE_FILE, content)
        with (
            pytest.raises(OutputHeld, match="if nobody does, delete it"),
            hold(folder),
        ):
            pass
        assert folder.read(LEASE_FILE) == content


def test_it_is_renewed_while_its_holder_lives(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end moves ahead, of the same lease, also after somebody deleted the file."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 3.0)
    with hold(store) as mine:
        first = holder_of(store)
        wait_until(lambda: holder_of(store).expires_at > first.expires_at)
        mine.check()
        assert replace(holder_of(store), expires_at=first.expires_at) == first
        store.delete(LEASE_FILE)
        wait_until(lambda: store.exists(LEASE_FILE))
        assert holder_of(store).token == first.token
    assert not store.exists(LEASE_FILE)


def test_one_that_is_taken_over_stops_and_leaves_the_other_s(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look raises, names who has it now, and their lease stays as it is."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.3)
    other = elsewhere(60)

    def look_on() -> None:
        with hold(store) as mine:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                # Again each time, for a renewal under way may have written over it.
                put(store, other)
                mine.check()
                time.sleep(0.02)

    with pytest.raises(OutputHeld, match="was taken over by process 7 on far-away"):
        look_on()
    assert holder_of(store) == other


def test_one_that_ran_out_is_renewed_before_work_goes_on(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that slept asks whose the place is, before its thread has had a chance to."""
    with hold(folder) as mine:
        mine.check()
        asleep = datetime.now(UTC) + timedelta(hours=1)
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_now", lambda: asleep)
            mine.check()
            assert holder_of(folder).expires_at > asleep
            put(folder, elsewhere(7200))
            mine.check()  # not looked at each time: it has a minute
            patch.setattr(lease, "_now", lambda: asleep + timedelta(hours=1))
            with pytest.raises(OutputHeld, match="was taken over"):
                mine.check()


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)], ids=str)
def test_a_clock_that_jumps_unseats_nobody_who_lives(
    folder: Store, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """However wrong the lease's end looks, who comes second waits for the next renewal."""
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.1)
    is_left = lease.Lease._is_left
    with hold(folder) as mine:

        def look_on(second: lease.Lease, found: Holder) -> bool:
            with again_and_again(mine._renew):  # as its thread does, but sooner
                return is_left(second, found)

        monkeypatch.setattr(lease.Lease, "_is_left", look_on)
        monkeypatch.setattr(lease, "_now", lambda: datetime.now(UTC) + jump)
        with pytest.raises(OutputHeld, match=f"process {os.getpid()} "), hold(folder):
            pass
        mine.check()
    assert not folder.exists(LEASE_FILE)


@pytest.mark.parametrize("seconds_left", [86400, -1], ids=["ahead", "over"])
def test_a_lease_that_is_not_renewed_is_over_after_a_life(
    folder: Store, monkeypatch: pytest.MonkeyPatch, seconds_left: float
) -> None:
    """That of the dead does not hold for a day, nor that of a process that renews no more."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 1.0)
    left = elsewhere(seconds_left)
    if seconds_left < 0:  # this very process: it lives, but has forgotten it
        left = replace(Holder.here(), expires_at=left.expires_at)
    put(folder, left)
    started = time.monotonic()
    with hold(folder):
        assert holder_of(folder).token != left.token
    assert 1.0 <= time.monotonic() - started < 20


def test_a_lease_that_is_released_while_it_is_watched_is_taken(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a renewal sees that the holder has finished, and goes on."""
    put(folder, elsewhere(86400))
    leave = threading.Timer(0.5, folder.delete, (LEASE_FILE,))
    leave.start()
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.1)
    with hold(folder):
        assert holder_of(folder).pid == os.getpid()
    leave.join()


def test_a_store_that_is_away_for_a_while_costs_nothing(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewal goes on when the store is back."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.6)
    monkeypatch.setattr(lease, "_RETRY_SECONDS", 0.05)
    real, num_left = Store.write, 3

    def failing(self: Store, name: str, content: bytes) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left >= 0:
            raise ConnectionError("the store is away")
        real(self, name, content)

    monkeypatch.setattr(Store, "write", failing)
    with hold(folder):
        first = holder_of(folder)
        wait_until(lambda: holder_of(folder).expires_at > first.expires_at)
    assert num_left < 0


def as_plain_writes(self: Store, name: str, content: bytes) -> bool:
    """``Store.write_new`` of a store that takes a write on a condition for any other."""
    self.write(name, content)
    return True


@pytest.mark.parametrize("is_conditional", [True, False])
@pytest.mark.parametrize("there", [None, "dead"])
def test_of_several_at_once_one_wins(
    store: Store, there: str | None, monkeypatch: pytest.MonkeyPatch, *, is_conditional: bool
) -> None:
    """Six try to take a free or a dead place together: one has it, the others are told so."""
    if not is_conditional:
        monkeypatch.setattr(Store, "write_new", as_plain_writes)
        # The server and six threads may share a busy core.
        for kind in lease._SETTLE_SECONDS:
            monkeypatch.setitem(lease._SETTLE_SECONDS, kind, (2.0, 4.0))
    elif there is not None:
        # One of the six may be held up between its look at the dead lease and the deletion of it.
        monkeypatch.setitem(lease._SETTLE_SECONDS, "folder", (0.0, 2.0))
    if there is not None:
        put(store, elsewhere(-1))
    assert outcomes_of(6, store) == ["held", *["refused"] * 5]
    assert store.find("") == ()


@contextmanager
def google_without_conditions(scratch: Path) -> Iterator[Store]:
    """A real store that takes a write on Google's condition for any other."""
    with open_server(scratch) as endpoint:
        request = urllib.request.Request(f"{endpoint}/lease", b"", method="PUT")  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310 - loopback
        # A token of any kind, for the client looks for one before it writes.
        options = {"endpoint_url": endpoint, "bearer_token": "test"}
        store = Store(url="gs://lease/out", options=options)
        assert store.write_new("x", b"1")
        assert store.write_new("x", b"2"), "it knows conditions by now: take another store"
        yield store


@contextmanager
def azure(scratch: Path) -> Iterator[Store]:
    """A container of Azurite."""
    with azure_server(scratch) as server:
        server.make_container("lease")
        options = {
            "account_name": server.account_name,
            "account_key": server.account_key,
            "endpoint": server.endpoint,
        }
        store = Store(url="az://lease/out", options=options)
        assert store.write_new("x", b"1")
        assert not store.write_new("x", b"2")
        yield store


@pytest.mark.parametrize("serve", [google_without_conditions, azure])
def test_of_three_at_real_stores_one_wins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Path], AbstractContextManager[Store]],
) -> None:
    """One that keeps the condition of a write, and one that does not."""
    monkeypatch.setitem(lease._SETTLE_SECONDS, "bucket", (2.0, 4.0))  # for machines that are busy
    try:
        with serve(tmp_path) as store:
            assert outcomes_of(3, store) == ["held", "refused", "refused"]
            assert not store.exists(LEASE_FILE)
    except ServerUnavailable as error:
        pytest.skip(str(error))


def outcomes_of(num_threads: int, store: Store) -> list[str]:
    """What became of so many that try to hold a place together, sorted."""
    together, release = threading.Barrier(num_threads), threading.Event()
    found: list[str] = []

    def work() -> None:
        together.wait()
        try:
            with hold(store):
                found.append("held")
                release.wait(30)
        except OutputHeld:
            found.append("refused")

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(found) == num_threads)
    release.set()
    for thread in threads:
        thread.join()
    return sorted(found)


def test_a_store_that_hangs_does_not_hold_up_an_error(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the work has failed, the release is given up after a moment, and runs out by itself."""
    monkeypatch.setattr(lease, "_LEAVE_SECONDS", 0.1)
    back = threading.Event()
    real = Store.delete

    def hanging(self: Store, name: str) -> None:
        back.wait(30)
        real(self, name)

    monkeypatch.setattr(Store, "delete", hanging)
    with pytest.raises(ZeroDivisionError), hold(folder):
        raise ZeroDivisionError
    assert folder.exists(LEASE_FILE)
    back.set()
    wait_until(lambda: not folder.exists(LEASE_FILE))


def test_people_can_read_it(folder: Store) -> None:
    """The file is JSON with host, process and times in UTC."""
    with hold(folder):
        value = json.loads(folder.read(LEASE_FILE))
    assert value["pid"] == os.getpid()
    assert value["host"]
    for name in ("since", "expires_at"):
        assert datetime.fromisoformat(value[name]).utcoffset() == timedelta(0)
