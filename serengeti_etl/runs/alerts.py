"""Alerts of a process: sent beside its work, which they can neither slow nor break."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from serengeti_etl.errors import require
from serengeti_etl.runs.alert import Alert, Level, SendError
from serengeti_etl.runs.aside import Aside, join_all
from serengeti_etl.runs.channels import Channel
from serengeti_etl.runs.quiet import Quiet


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertSettings:
    """How alerts are sent.

    Attributes:
        least_level: what matters less is not sent.
        quiet_seconds: between two alerts of the same kind of the same run.
        waits_seconds: between tries of one that does not get through; one try more than these.
        limit: alerts that wait for each place; more are dropped.
        flush_seconds: at the end, for what still waits.
    """

    least_level: Level = Level.INFO
    quiet_seconds: float = 600.0
    waits_seconds: Sequence[float] = (2.0, 8.0, 30.0)
    limit: int = 100
    flush_seconds: float = 5.0

    def __post_init__(self) -> None:
        require(self.quiet_seconds >= 0, "quiet_seconds", self.quiet_seconds, "0 or more")
        require(self.limit > 0, "limit", self.limit, "positive")


@dataclass(frozen=True, slots=True)
class _Way:
    """A channel with the thread that sends to it: one that hangs does not hold up the others."""

    channel: Channel
    aside: Aside = field(repr=False)


class Alerts:
    """Sends alerts to every channel, from threads of its own, from entering to leaving it.

    Args:
        channels: from ``channels.open_channels``; without any, nothing is done at all.
        settings: how.
        on_failure: called in a thread with one line, free of secrets, when one is given up.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        settings: AlertSettings | None = None,
        on_failure: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings, self._on_failure = settings or AlertSettings(), on_failure
        self._quiet = Quiet(self._settings.quiet_seconds)
        self._waiting: SimpleQueue[Alert | None] = SimpleQueue()
        self._hurry = threading.Event()
        self._ways = [self._way(channel) for channel in channels]
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)

    def __enter__(self) -> Self:
        if self._ways:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, alert: Alert) -> None:
        """Have ``alert`` sent, if it matters enough. Never waits, even in a signal handler."""
        is_wanted = alert.level.rank >= self._settings.least_level.rank
        if self._ways and is_wanted and self._waiting.qsize() < self._settings.limit:
            self._waiting.put(alert)

    def close(self) -> None:
        """Send what waits within ``flush_seconds``; then leave the rest."""
        if not self._thread.is_alive():
            return
        end = time.monotonic() + self._settings.flush_seconds
        self._hurry.set()
        self._waiting.put(None)
        self._thread.join(self._settings.flush_seconds)
        if not join_all([way.aside for way in self._ways], end - time.monotonic()):
            self._on_failure("some alerts were not sent in time")

    def _work(self) -> None:
        while True:
            due = self._quiet.next_due
            timeout = None if due is None else max(0.0, due - time.time())
            try:
                alert = self._waiting.get(timeout=timeout)
            except Empty:
                self._hand_out(self._quiet.due(time.time()))
                continue
            if alert is None:
                break
            now_sent = self._quiet.take(alert, time.time())
            self._hand_out([] if now_sent is None else [now_sent])
        self._hand_out(self._quiet.rest())
        for way in self._ways:
            way.aside.close()

    def _hand_out(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            for way in self._ways:
                if not way.aside.put(partial(self._deliver, way.channel, alert)):
                    self._on_failure(f"alert {alert.kind!r} dropped: too many wait")

    def _deliver(self, channel: Channel, alert: Alert) -> None:
        for wait in self._settings.waits_seconds:
            try:
                channel.send(alert)
            except SendError as error:
                # At the end of the process there is no time for another try.
                if not error.may_pass or self._hurry.wait(wait):
                    raise
            else:
                return
        channel.send(alert)

    def _way(self, channel: Channel) -> _Way:
        def tell(error: BaseException) -> None:
            # Of what is no SendError nobody knows whether it holds secrets.
            why = str(error) if isinstance(error, SendError) else type(error).__name__
            self._on_failure(f"an alert to {channel.name} was not sent: {why}")

        return _Way(channel, Aside(f"alerts to {channel.name}", tell, self._settings.limit))
