"""Runs one command and tells what its whole process tree took, as one line of JSON (Linux).

    python benchmarks/peer_watch.py TIMEOUT_SECONDS COMMAND ...

Daemons that the command leaves behind become children of this process (it is a subreaper) and are
ended and counted too. CPU is the larger of what the kernel adds up for reaped children and what
was last seen of each process ten times a second: some parents reap so that the kernel's sum misses
their children. Memory is the sum of RSS at 10 Hz; at each new high of it PSS is read, and that is
what is told.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

INTERVAL = 0.1
GRACE_SECONDS = 10.0
"""How long processes that outlive the command may go on before they are ended."""
NEW_HIGH = 1.01
_SUBREAPER = 36
_PROC = Path("/proc")
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_PPID, _UTIME, _STIME, _RSS = 1, 11, 12, 21  # places in stat, counted from the state


@dataclass(kw_only=True, slots=True)
class Tree:
    """What has been seen of the processes below this one.

    Attributes:
        cpu: last seen CPU seconds of each process, by pid.
        rss: highest RSS of each, bytes.
        peak_rss: highest sum of RSS at one moment, bytes.
        peak_bytes: highest sum of PSS, bytes; of RSS where PSS cannot be read.
        alive: pids at the last look.
        foreign: pids that are no descendants.
    """

    cpu: dict[int, float] = field(default_factory=dict)
    rss: dict[int, int] = field(default_factory=dict)
    peak_rss: int = 0
    peak_bytes: int = 0
    alive: set[int] = field(default_factory=set)
    foreign: set[int] = field(default_factory=set)

    def look(self) -> None:
        """Take one sample."""
        now = {int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()}
        self.foreign &= now
        self.alive &= now
        total = 0
        for pid in sorted(now - self.foreign - {os.getpid()}):
            total += self._look_at(pid)
        if total > self.peak_rss * NEW_HIGH:
            self.peak_rss = total
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss, self.alive)) or total)

    def _look_at(self, pid: int) -> int:
        """RSS of a descendant; 0 for any other process."""
        stat = _stat(pid)
        if not stat:
            return 0
        parent = int(stat[_PPID])
        if pid not in self.alive and parent != os.getpid() and parent not in self.alive:
            self.foreign.add(pid)
            return 0
        self.alive.add(pid)
        self.cpu[pid] = (int(stat[_UTIME]) + int(stat[_STIME])) / _TICKS
        rss = int(stat[_RSS]) * _PAGE
        self.rss[pid] = max(rss, self.rss.get(pid, 0))
        return rss


def _stat(pid: int) -> list[str]:
    """The fields of stat from the state on; nothing when the process has gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _pss(pid: int) -> int:
    """Bytes, each page shared among those who map it; 0 when it cannot be read."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    values = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return int(values[0]) * 1024 if values else 0


def watch(command: list[str], timeout: float, output: BinaryIO) -> dict[str, object]:
    """Run ``command`` to its end, and that of all its descendants."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    tree, started = Tree(), time.perf_counter()
    main = subprocess.Popen(  # noqa: S603 - the benchmark's own command
        command, stdout=output, stderr=output, start_new_session=True
    )
    timed_out = False
    while main.poll() is None:
        if time.perf_counter() - started > timeout and not timed_out:
            timed_out = True
            _end(tree.alive, signal.SIGKILL)
        tree.look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            main.wait(INTERVAL)
    seconds = time.perf_counter() - started
    _reap(tree)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = [size for pid, size in tree.rss.items() if pid != main.pid]
    return {
        "exit": main.returncode,
        "timed_out": timed_out,
        "seconds": seconds,
        "cpu_seconds": max(usage.ru_utime + usage.ru_stime, sum(tree.cpu.values())),
        "peak_bytes": tree.peak_bytes,
        "worker_bytes": max(others, default=0),
        "driver_bytes": tree.rss.get(main.pid, 0),
    }


def _reap(tree: Tree) -> None:
    """Wait for what is left of the tree; end it when it does not end by itself."""
    started = time.monotonic()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        tree.look()
        waited = time.monotonic() - started
        if waited > GRACE_SECONDS:
            _end(tree.alive, signal.SIGKILL if waited > 2 * GRACE_SECONDS else signal.SIGTERM)
        time.sleep(INTERVAL)


def _end(pids: set[int], how: signal.Signals) -> None:
    for pid in sorted(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


def main() -> None:
    """Print one line: what was taken, and the end of what the command printed."""
    with tempfile.TemporaryFile() as output:
        found = watch(sys.argv[2:], float(sys.argv[1]), output)
        output.seek(0)
        found["output"] = output.read().decode(errors="replace")[-20_000:]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
