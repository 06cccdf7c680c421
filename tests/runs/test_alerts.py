"""Alerts of a process: repeats are quiet, and no channel can slow or break who sends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serengeti_etl.runs import channels
from serengeti_etl.runs.alert import Alert, Level, SendError
from serengeti_etl.runs.alerts import Alerts, AlertSettings
from serengeti_etl.runs.channels import open_channel
from serengeti_etl.runs.quiet import Quiet
from tests.runs.alert_server import AlertServer

ROOT = Path(__file__).parents[2]
SOON = AlertSettings(quiet_seconds=0, waits_seconds=(0.01, 0.01), flush_seconds=60)
STALLED = Alert(kind="stalled", run="r", title="stalled", text="at step 7", level=Level.WARNING)
NINE = 9 * 3600.0


class Kept:
    """A channel that keeps what it is sent, once it may."""

    name = "kept"

    def __init__(self) -> None:
        self.got: list[Alert] = []
        self.is_asked, self.may_go = threading.Event(), threading.Event()

    def send(self, alert: Alert) -> None:
        """See ``Channel``."""
        self.is_asked.set()
        self.may_go.wait(300)
        self.got.append(alert)


class Broken:
    """A channel with a bug, whose message holds a secret."""

    name = "broken"

    def send(self, alert: Alert) -> None:
        """See ``Channel``."""
        raise RuntimeError(f"secret {alert.title}")


def test_repeats_are_held_back_and_counted() -> None:
    """Once in ten minutes; the last of those held back comes then, with the number of the rest."""
    quiet = Quiet(600)
    assert quiet.take(STALLED, NINE) is STALLED
    assert not quiet.next_due
    for minute in (1, 2, 3):
        assert quiet.take(STALLED, NINE + 60 * minute) is None
    assert quiet.next_due == NINE + 600
    assert quiet.due(NINE + 599) == []
    [late] = quiet.due(NINE + 600)
    assert late.text == "at step 7\nand 2 more since 09:01 UTC"
    assert quiet.take(STALLED, NINE + 700) is None
    assert quiet.rest() == [STALLED]
    assert quiet.rest() == []


def test_other_alerts_are_not_held_back() -> None:
    """Another kind or another run is another alert, and after a quiet time it is news again."""
    quiet = Quiet(600)
    lost, other = (Alert(kind=k, run=r, title="t") for k, r in (("lost", "r"), ("stalled", "s")))
    assert [quiet.take(one, 0.0) for one in (STALLED, lost, other)] == [STALLED, lost, other]
    assert quiet.due(600.0) == []
    assert quiet.take(STALLED, 600.0) is STALLED


def test_a_later_one_tells_of_those_before() -> None:
    """One that comes when the time is over brings the number of those held back."""
    quiet = Quiet(600)
    for at in (0.0, 60.0, 120.0):
        quiet.take(STALLED, at)
    said = quiet.take(STALLED, 601.0)
    assert said is not None
    assert said.text == "at step 7\nand 2 more since 00:01 UTC"


def test_a_failing_server_is_tried_again(server: AlertServer) -> None:
    """Two faults are followed by a third try, and nothing is said."""
    server.answers = [500, 503]
    said: list[str] = []
    with Alerts([open_channel(server.url("webhook"))], SOON, said.append) as alerts:
        alerts.send(STALLED)
        assert server.wait_for(3)[-1].json()["kind"] == "stalled"
    assert said == []


def test_what_is_given_up_is_told_without_secrets(server: AlertServer, dead_port: int) -> None:
    """After the last try, at once where it is refused, and of bugs the kind: one line each."""
    server.answers = [404]
    refused = open_channel(server.url("webhook", "secret", "u:secret@"))
    dead = open_channel(f"ntfy+http://:secret@127.0.0.1:{dead_port}/secret")
    said: list[str] = []
    with Alerts([refused, dead, Broken()], SOON, said.append) as alerts:
        alerts.send(STALLED)
        end = time.monotonic() + 60
        while len(said) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(server.posted) == 1
    assert sorted(line.rpartition(": ")[2] for line in said) == [
        "Connection refused",
        "RuntimeError",
        "it answered 404",
    ]
    assert "secret" not in "".join(said)


def test_one_that_hangs_holds_up_neither_sender_nor_others(server: AlertServer) -> None:
    """Sends return, another channel gets all, too many are dropped, and the end is in time."""
    hanging, said = Kept(), list[str]()
    settings = AlertSettings(quiet_seconds=0, limit=50, flush_seconds=0.3)
    with Alerts([hanging, open_channel(server.url("webhook"))], settings, said.append) as alerts:
        for number in range(120):
            alerts.send(Alert(kind=f"k{number}", run="r", title="t"))
            if number == 0:
                assert hanging.is_asked.wait(60)
            if number % 40 == 39:
                server.wait_for(number + 1)
    assert [one.json()["kind"] for one in server.wait_for(120)][-1] == "k119"
    assert said[-1] == "some alerts were not sent in time"
    assert sum("dropped" in line for line in said) == 120 - 51
    hanging.may_go.set()


def test_the_end_does_not_wait_for_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end each alert has one try; the waits between tries are left out."""
    tries: list[Alert] = []

    def fail(_: object, alert: Alert) -> None:
        tries.append(alert)
        raise SendError("away", may_pass=True)

    monkeypatch.setattr(channels.Webhook, "send", fail)
    settings = AlertSettings(quiet_seconds=0, waits_seconds=(1000.0,), flush_seconds=100)
    said: list[str] = []
    with Alerts([open_channel("webhook+http://h/x")], settings, said.append) as alerts:
        alerts.send(STALLED)
    assert len(tries) == 1
    assert said == ["an alert to webhook+http://h/… was not sent: away"]


def test_what_matters_less_is_not_sent(server: AlertServer) -> None:
    """Below the least level nothing goes out; at it everything does."""
    settings = AlertSettings(least_level=Level.WARNING, flush_seconds=60)
    with Alerts([open_channel(server.url("webhook"))], settings) as alerts:
        alerts.send(Alert(kind="done", run="r", title="t"))
        alerts.send(STALLED)
    assert [one.json()["kind"] for one in server.posted] == ["stalled"]


def test_held_back_ones_are_sent_at_the_end(server: AlertServer) -> None:
    """What is held back when the process ends is sent then."""
    settings = AlertSettings(flush_seconds=60)
    with Alerts([open_channel(server.url("webhook"))], settings) as alerts:
        for _ in range(4):
            alerts.send(STALLED)
    texts = [one.json()["text"] for one in server.posted]
    assert texts[0] == "at step 7"
    assert "and 2 more since" in texts[1]
    assert len(texts) == 2


def test_without_a_channel_nothing_is_started() -> None:
    """No thread, and sends go nowhere."""
    before = set(threading.enumerate())
    with Alerts([]) as alerts:
        alerts.send(STALLED)
        assert set(threading.enumerate()) <= before


def test_a_signal_handler_may_send(server: AlertServer) -> None:
    """A send that interrupts another one does not lock up."""
    with Alerts([open_channel(server.url("webhook"))], SOON) as alerts:
        kinds = iter(range(10_000))

        def again(*_: object) -> None:
            alerts.send(Alert(kind=f"k{next(kinds)}", run="r", title="t"))

        before = signal.signal(signal.SIGUSR1, again)
        try:
            for _ in range(50):
                os.kill(os.getpid(), signal.SIGUSR1)
                again()
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert server.posted


def test_the_command_says_what_came_of_it(server: AlertServer) -> None:
    """Exit 0 when sent, 3 when it may pass, 4 when refused; one line each, without secrets."""

    def run(*urls: str) -> tuple[int, str]:
        options = [word for url in urls for word in ("--alert", url)]
        command = [sys.executable, "-m", "serengeti_etl", "alert", "--test", *options]
        shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert "secret" not in shown.stdout + shown.stderr
        return shown.returncode, shown.stdout

    hook, ntfy = server.url("webhook", "secret"), server.url("ntfy", "secret")
    code, said = run(hook, ntfy)
    assert (code, said.count(": sent\n")) == (0, 2)
    assert b"alerts of serengeti-etl get through" in server.posted[1].body
    server.answers = [503]
    assert run(hook)[0] == 3
    server.answers = [403, 200]
    code, said = run(hook, ntfy)
    assert (code, said.splitlines()[0][-24:]) == (4, "not sent: it answered 403"[-24:])
    assert said.endswith(": sent\n")
    assert run("https://example.org/secret")[0] == 4
