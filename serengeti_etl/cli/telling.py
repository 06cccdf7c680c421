"""What a training or conversion tells beside its board: alerts of its own, and trackers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from serengeti_etl.cli.alerting import alert_options, open_alerts

if TYPE_CHECKING:
    from serengeti_etl.runs.alerts import Alerts
    from serengeti_etl.runs.board import Board, BoardSettings
    from serengeti_etl.runs.trackers.tracked import Tracked
    from serengeti_etl.train.settings import Event

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_ALERT_NAMES = ("alerts", "alert_level", "alert_quiet")

Listener = Callable[["Event"], object]


def telling_options(command: CommandT) -> CommandT:
    """``command`` with alerts and trackers; ``Telling.taken_from`` takes them."""
    option = click.option(
        "--tracker",
        "trackers",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Log there too: tensorboard[=FOLDER], trackio[=PROJECT], wandb[=PROJECT], "
        "mlflow[=URI]; repeatable.",
    )
    return alert_options(option(command))


@dataclass(frozen=True, kw_only=True, slots=True)
class Telling:
    """What a training was told to tell, and to whom.

    Attributes:
        alerts: urls, least level and quiet minutes of ``--alert``.
        trackers: of ``--tracker``.
        is_supervised: whether a supervisor tells of the end.
    """

    alerts: tuple[Sequence[str], str, float]
    trackers: Sequence[str] = ()
    is_supervised: bool = False

    @classmethod
    def taken_from(cls, options: dict[str, Any], *, is_supervised: bool) -> "Telling":
        """Of a command's options, which are then without these."""
        urls, level, quiet = (options.pop(name) for name in _ALERT_NAMES)
        trackers = options.pop("trackers")
        return cls(alerts=(urls, level, quiet), trackers=trackers, is_supervised=is_supervised)

    @contextmanager
    def open(self, run: str, board: "Board", config: Mapping[str, Any]) -> Iterator[Listener]:
        """What is to hear a training's events; what the block ends with is told as well.

        Args:
            run: folder or url of the run.
            board: of the run; failures become events on it.
            config: what is trained, for trackers.

        Raises:
            ConfigError: an alert or a tracker is impossible.
        """
        from serengeti_etl.runs.trackers.choose import choose_tracker
        from serengeti_etl.runs.trackers.tracked import Tracked

        chosen = [choose_tracker(spec, run) for spec in self.trackers]
        with ExitStack() as stack:
            alerts = stack.enter_context(open_alerts(*self.alerts, alert_noted(board)))
            if not self.is_supervised:
                stack.enter_context(EndTold(alerts, run, board.settings))
            listeners = [_AlertTeller(alerts, run, board.settings.name).tell]
            for kind, tracker in chosen:
                teller = stack.enter_context(
                    _TrackerTeller(Tracked(kind, tracker, _tracker_noted(board)), board, config)
                )
                listeners.append(teller.tell)
            yield lambda event: [listener(event) for listener in listeners]


def alert_noted(board: "Board") -> Callable[[str], object]:
    """What makes an event of an alert that was not sent."""
    return partial(board.event, "alert", level="warning")


class EndTold:
    """A context that sends an alert of how it ended: done, stopped, or failed and why.

    Args:
        alerts: that it goes to.
        run: folder or url of the run.
        settings: of the run's board.
    """

    def __init__(self, alerts: "Alerts", run: str, settings: "BoardSettings") -> None:
        self._alerts, self._run, self._settings = alerts, run, settings

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from serengeti_etl.runs.alert import Alert, Level
        from serengeti_etl.runs.last_word import LastWord

        word = LastWord.of(error, self._settings.kind)
        levels = {"done": Level.INFO, "stopped": Level.WARNING, "failed": Level.CRITICAL}
        # Who is refused has not stopped what is at work there.
        told, what = ("held", "held by another") if word.is_held else (word.ended, word.ended)
        self._alerts.send(
            Alert(
                kind=told,
                run=self._run,
                title=f"{self._settings.name}: {what}",
                text=word.reason,
                level=levels[word.ended],
            )
        )


class _AlertTeller:
    """Sends alerts of what happens in a training: a best score, and what a person should know."""

    def __init__(self, alerts: "Alerts", run: str, name: str) -> None:
        self._alerts, self._run, self._name = alerts, run, name

    def tell(self, event: "Event") -> None:
        values = event.values
        if event.kind == "validated" and values["is_best"]:
            self._tell_best(event, values["score"], values["best_before"])
        elif event.kind == "damaged":
            self._send("damaged", "checkpoint damaged", f"{values['name']} was passed over")
        elif event.kind == "warning":
            self._send("warning", "warning", values["text"])
        elif event.kind == "late":
            self._send("late", "the store is away", values["text"])

    def _tell_best(self, event: "Event", score: float, before: float | None) -> None:
        text = "" if before is None else f"before {before:.4f}; "
        text += f"at {event.step:,} of {event.num_steps:,} steps, {event.stage}"
        self._send("best", f"best score {score:.4f}", text, is_news=True)

    def _send(self, kind: str, what: str, text: str, *, is_news: bool = False) -> None:
        from serengeti_etl.runs.alert import Alert, Level

        level = Level.INFO if is_news else Level.WARNING
        title = f"{self._name}: {what}"
        self._alerts.send(Alert(kind=kind, run=self._run, title=title, text=text, level=level))


class _TrackerTeller:
    """Hands the figures of a training on to a tracker, from its start to the end of the block."""

    def __init__(self, tracked: "Tracked", board: "Board", config: Mapping[str, Any]) -> None:
        self._tracked, self._config = tracked, config
        self._name, self._kind = board.settings.name, board.settings.kind
        self._is_begun = False

    def tell(self, event: "Event") -> None:
        values = event.values
        if event.kind in ("start", "resume"):
            self._begin(event)
        elif event.kind == "log":
            self._tracked.log(event.step, _numbers("train", values))
        elif event.kind == "validated":
            scores = {name: values[name] for name in ("score", "class_means_score")}
            self._tracked.log(event.step, _numbers("val", scores))

    def _begin(self, event: "Event") -> None:
        from serengeti_etl.runs.trackers.tracker import TrackedRun

        self._is_begun = True
        config = dict(_flat({"device": event.values["device"], **self._config}))
        run_id, name = event.values["run_id"], self._name
        run = TrackedRun(run_id=run_id, name=name, step=event.step, config=config)
        self._tracked.start(run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_begun:
            from serengeti_etl.runs.last_word import LastWord

            self._tracked.finish(LastWord.of(error, self._kind).ended)


def _tracker_noted(board: "Board") -> Callable[[str], object]:
    """What says and notes that a tracker failed."""

    def note(text: str) -> None:
        click.echo(f"serengeti-etl: {text}", err=True)
        board.event("tracker", text, "warning")

    return note


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values by dotted name, such as ``stages.0.epochs``."""
    for name, value in config.items():
        if isinstance(value, list | tuple):
            yield from _flat({str(at): one for at, one in enumerate(value)}, f"{before}{name}.")
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _numbers(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an event, by names as trackers group them."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {f"{kind}/{name}": float(value) for name, value in numbers.items()}
