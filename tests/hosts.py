"""Hosts that tests make of this machine: network namespaces on one switch, whose cables can be cut.

Files are shared, as on a cluster with one file system. Needs root and ``ip`` of iproute2.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NETWORK = "10.213.77"

# Keeps a program running as an init system does: begun again when it has ended.
_KEEP = 'while :; do "$@"; sleep 0.5; done'


class HostsUnavailable(RuntimeError):  # noqa: N818 - a state of the machine, read in `except`
    """This machine makes no network namespaces; a fixture may skip and say so."""


@dataclass(frozen=True)
class Host:
    """A host of its own: its network is all that it has for itself.

    Attributes:
        name: of its namespace.
        switch: name of the namespace that holds the switch.
        address: of its only interface.
    """

    name: str
    switch: str
    address: str

    def cut(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", f"to-{self.name}", "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self.switch, "link", "set", f"to-{self.name}", "up")

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs ``python arguments`` on this host."""
        return ["ip", "netns", "exec", self.name, sys.executable, *arguments]


@contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts by their names, which must be short and differ from those of others on this machine.

    Raises:
        HostsUnavailable: the reason in words.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise HostsUnavailable("network namespaces need root and the program ip")
    switch = f"{names[0]}-switch"
    with ExitStack() as stack:
        try:
            _add_namespace(switch, stack)
            _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
            _ip("-n", switch, "link", "set", "bridge0", "up")
            made = [
                Host(name=name, switch=switch, address=f"{NETWORK}.{number}")
                for number, name in enumerate(names, start=1)
            ]
            for host in made:
                _add_namespace(host.name, stack)
                _plug_in(host)
        except subprocess.CalledProcessError as error:
            raise HostsUnavailable(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
        yield dict(zip(names, made, strict=True))


def _add_namespace(name: str, stack: ExitStack) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)


def _plug_in(host: Host) -> None:
    cable = f"to-{host.name}"
    inside = ("-n", host.name)
    _ip(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", cable)
    _ip(*inside, "link", "set", cable, "netns", host.switch)
    _ip("-n", host.switch, "link", "set", cable, "master", "bridge0", "up")
    _ip(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
    for name in ("lo", "eth0"):
        _ip(*inside, "link", "set", name, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def kept_running(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    """Run ``command`` for the length of a ``with`` block, begun again whenever it has ended."""
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["sh", "-c", _KEEP, "sh", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=settings,
            start_new_session=True,  # so that all of it can be ended together
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Return when ``condition`` holds.

    Raises:
        TimeoutError: it does not, after so many seconds.
    """
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)
