"""One writer per place, or file in it: a lease says who writes, and runs out soon after a kill.

A lease is a small file, put where there is none, renewed while its holder lives, deleted at the
end. Who finds that of another is refused, unless its holder is dead: the time has run out, the
process is gone from this very machine (which only Linux tells), or one elsewhere has not renewed it
for a life, which is waited for: its machine may have died.
Where a store may take a write on a condition for a plain one, each writer reads back after a
moment, so that one of two wins.

It saves two people from working on one place unawares; that bytes are right does not rest on it,
for every write is whole and the same plan gives the same bytes. So clocks are taken as they are:
the life is long beside what clocks usually differ by. Where one is seen to be wrong, as after a
jump, the lease is watched for a life instead: who lives renews it. Where a clock of another
machine is wrong unseen, a living holder looks dead, is taken over, and stops at its next look.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serengeti_etl.errors import OutputHeld
from serengeti_etl.storage import Store

LEASE_FILE = "lease.json"
"""Of a whole place; that of one file is hidden beside it, and named after it."""

LIFE_SECONDS = 60.0
"""A lease runs out so long after its last renewal; it is renewed three times as often."""

_SETTLE_SECONDS = {"bucket": (1.0, 2.0), "folder": (0.0, 0.2)}
"""Time in which all that take a lease at once have written: a free one, and one of the dead."""

_LEAVE_SECONDS = 3.0
"""Longest wait for the store when the work has failed: the lease runs out by itself."""

_LOOK_SECONDS = 1.0
"""How often a lease is looked at whose holder may be alive or dead."""

_NUM_TRIES = 3
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lease: the contents of its file.

    Attributes:
        token: random; names this one lease.
        host: name of the machine, for people.
        pid: of the process.
        machine: names the machine since its last start and its space of process ids; "" unknown.
        started: when the process started, in clock ticks since the machine did; 0 unknown.
        since: when the lease was taken, UTC.
        expires_at: when it runs out, UTC.
    """

    token: str
    host: str
    pid: int
    machine: str
    started: int
    since: datetime
    expires_at: datetime

    @staticmethod
    def here() -> "Holder":
        """This process, with a new lease."""
        return Holder(
            token=secrets.token_hex(16),
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()),
            since=_now(),
            expires_at=_now() + timedelta(seconds=LIFE_SECONDS),
        )

    def renewed(self) -> "Holder":
        """The same with a whole life ahead."""
        end = _now() + timedelta(seconds=LIFE_SECONDS)
        return dataclasses.replace(self, expires_at=end)

    def is_here(self) -> bool:
        """True when it is a process of this machine, so that one can see whether it lives."""
        return self.machine != "" and self.machine == _machine()

    def is_dead(self) -> bool | None:
        """True when its time is over, or its process is known to be; None if none of it is sure.

        That is after a jump of a clock: the time has run out, but the process is still there; or
        more time is left than a lease ever has, also where clocks differ a little.
        """
        is_here = self.is_here()
        if is_here and _is_gone(self):
            return True
        seconds_left = (self.expires_at - _now()).total_seconds()
        if seconds_left <= 0:
            return None if is_here else True
        return None if seconds_left > 2 * LIFE_SECONDS else False

    def as_bytes(self) -> bytes:
        """As JSON that people can read."""
        times = {name: getattr(self, name).isoformat() for name in ("since", "expires_at")}
        return f"{json.dumps(dataclasses.asdict(self) | times, indent=1)}\n".encode()

    @staticmethod
    def from_bytes(content: bytes) -> "Holder":
        """From what ``as_bytes`` gave. Raises ValueError or TypeError if it is something else."""
        value = json.loads(content)
        for name in ("since", "expires_at"):
            value[name] = datetime.fromisoformat(value[name]).astimezone(UTC)
        return Holder(**value)

    def __str__(self) -> str:
        """For messages."""
        return (
            f"process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S} UTC "
            f"(its lease runs out at {self.expires_at:%H:%M:%S} UTC unless renewed, and it is "
            f"{_now():%H:%M:%S} now)"
        )


def lease_file(of: str = "") -> str:
    """Name of the lease on the file ``of``; on the whole store for ""."""
    return f".{of}.{LEASE_FILE}" if of else LEASE_FILE


def is_lease(name: str) -> bool:
    """True for the name of a lease, in whatever folder."""
    return name.endswith((f"/{LEASE_FILE}", f".{LEASE_FILE}")) or name == LEASE_FILE


@contextmanager
def hold(store: Store, of: str = "") -> Iterator["Lease"]:
    """A lease on ``store``, or one file in it, for the length of a ``with`` block.

    Args:
        store: the place that is to be written.
        of: the file directly in it that is to be written; "" for all that lies there.

    Raises:
        OutputHeld: another process holds it.
        OSError: the store failed on every try.
    """
    lease = Lease(store, of)
    lease.take()
    is_done = False
    try:
        yield lease
        is_done = True
    finally:
        if is_done:
            lease.release()
        else:
            lease.release_soon()


class Lease:
    """What ``hold`` gives.

    Args:
        store: the place that is to be written.
        of: as of ``hold``.
    """

    def __init__(self, store: Store, of: str) -> None:
        self._store, self._name = store, lease_file(of)
        self._url = store.at(of).url
        kind = "bucket" if store.local_path("") is None else "folder"
        self._settle_seconds = _SETTLE_SECONDS[kind]
        self._mine = Holder.here()
        self._lost: OutputHeld | None = None
        self._lock = threading.Lock()  # no renewal after the release
        self._ended = threading.Event()
        # A daemon: what is killed, or ends without a release, renews no more.
        self._renewer = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def is_lost(self) -> bool:
        """True once another is known to have it; asks no store, so an outage takes no time."""
        return self._lost is not None

    def check(self) -> None:
        """Nothing, as long as the lease is this process's.

        Raises:
            OutputHeld: another has taken it over.
            OSError: it ran out, and the store failed when it was to be renewed.
        """
        if self._lost is None and _now() >= self._mine.expires_at:
            # The machine slept, or the store was away: nothing goes on before it is known whose.
            self._renew()
        if self._lost is not None:
            raise self._lost

    def take(self) -> None:
        """Take the lease, and renew it from now on. Raises as ``hold``."""
        for _ in range(_NUM_TRIES):
            there = dead = self._read()
            if dead is not None:
                self._bury(dead)
                there = self._read()  # by now, another's perhaps
            if there is None and self._put(self._settle_seconds[dead is not None]):
                self._renewer.start()
                return
        raise OutputHeld(
            f"several processes try to write to {self._url} at once: stop all but one, and "
            "run the same command again"
        )

    def release(self) -> None:
        """Delete the lease if it is still this process's. Raises OSError if the store fails."""
        self._ended.set()
        with self._lock:
            self._delete(self._mine.token)

    def release_soon(self) -> None:
        """As ``release``, but a store that fails or hangs keeps nobody for long."""

        def release() -> None:
            with contextlib.suppress(OSError, OutputHeld):
                self.release()

        self._ended.set()
        releaser = threading.Thread(target=release, name="release", daemon=True)
        releaser.start()
        releaser.join(_LEAVE_SECONDS)

    def _bury(self, holder: Holder) -> None:
        """Delete the lease of a dead holder; refuse if it lives."""
        is_dead = holder.is_dead()
        # One elsewhere gets a lease's life to show that it is alive: its machine may have died, and
        # the work goes on here.
        if is_dead is None or (not is_dead and not holder.is_here()):
            is_dead = self._is_left(holder)
        if not is_dead:
            raise OutputHeld(
                f"{self._url} is being written by {holder}. Wait until it has finished, or "
                "stop it, and run the same command again"
            )
        self._delete(holder.token)

    def _is_left(self, holder: Holder) -> bool:
        """True if its lease goes, or stays as it is for a life: who lives would have renewed it."""
        end = time.monotonic() + LIFE_SECONDS
        while time.monotonic() < end:
            time.sleep(min(_LOOK_SECONDS, LIFE_SECONDS))
            there = self._read()
            if there is None or there.token != holder.token:
                return True
            if there != holder:
                return False
        return True

    def _put(self, settle_seconds: float) -> bool:
        """Write the lease where there is none; True if it is what all see there in the end."""
        self._mine = self._mine.renewed()
        if self._store.write_new(self._name, self._mine.as_bytes()):
            # Another may have found the place free, or be about to delete what it found dead.
            time.sleep(settle_seconds)
        there = self._read()
        return there is not None and there.token == self._mine.token

    def _keep(self) -> None:
        """Renew the lease until it ends; runs in a thread of its own."""
        seconds = LIFE_SECONDS / 3
        while self._lost is None and not self._ended.wait(seconds):
            seconds = LIFE_SECONDS / 3
            try:
                self._renew()
            except OSError:
                seconds = min(seconds, _RETRY_SECONDS)

    def _renew(self) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            try:
                there = self._read()
            except OutputHeld as error:
                self._lost = error
                return
            if there is not None and there.token != self._mine.token:
                self._lost = OutputHeld(
                    f"{self._url} was taken over by {there}, as this process had not renewed "
                    "its lease in time: it was stopped, or the store out of its reach. What was "
                    "finished is kept"
                )
                return
            renewed = self._mine.renewed()
            if there is None:
                self._store.write_new(self._name, renewed.as_bytes())
            else:
                self._store.write(self._name, renewed.as_bytes())
            self._mine = renewed

    def _delete(self, token: str) -> None:
        """Delete the lease of that token, and no other."""
        there = self._read()
        if there is not None and there.token == token:
            self._store.delete(self._name)

    def _read(self) -> Holder | None:
        """Who holds the lease; None if nobody does."""
        try:
            return Holder.from_bytes(self._store.read(self._name))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            where = self._store.at(self._name).url
            raise OutputHeld(
                f"{where} should say who writes to {self._url}, but cannot be read ({error}): if "
                "nobody does, delete it and run the same command again"
            ) from error


def _now() -> datetime:
    return datetime.now(UTC)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_gone(holder: Holder) -> bool:
    """True when a process of this machine is no more."""
    try:
        os.kill(holder.pid, 0)  # only asks
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's
    return holder.started != 0 and _started(holder.pid) not in (0, holder.started)


def _started(pid: int) -> int:
    """When a process started, in ticks since the machine did; 0 unknown, −1 for a dead one."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    is_dead = fields[0] in "ZX"  # and its parent has not taken note of it
    return -1 if is_dead else int(fields[19])
