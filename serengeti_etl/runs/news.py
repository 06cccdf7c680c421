"""What of a run is news, worth an alert, each once for each change."""

from dataclasses import dataclass

from serengeti_etl.runs.alert import Alert, Level
from serengeti_etl.runs.page import duration
from serengeti_etl.runs.status import State, Status
from serengeti_etl.runs.vigil import Sight

_LEVELS = {
    State.STALLED: Level.CRITICAL,
    State.LOST: Level.CRITICAL,
    State.FAILED: Level.CRITICAL,
    State.STOPPED: Level.WARNING,
    State.DONE: Level.INFO,
}


@dataclass(slots=True)
class News:
    """Remembers what was told of one run.

    Attributes:
        run: folder or url of the run.
        state: the last that was seen; None before the first, of which only trouble is news.
        run_id: of the run whose scores are compared.
        best_score: the lowest yet; None without one.
    """

    run: str
    state: State | None = None
    run_id: str = ""
    best_score: float | None = None

    def of(self, status: Status, sight: Sight) -> list[Alert]:
        """What is new, if anything; ``sight`` has a state."""
        found = [*self._of_state(status, sight), *self._of_score(status)]
        self.state = sight.state
        return found

    def _of_state(self, status: Status, sight: Sight) -> list[Alert]:
        before, after = self.state, sight.state
        if after is None or before is after:
            return []
        if before is None and not after.is_trouble:
            return []
        if after is State.RUNNING:
            kind = "recovered" if before is not None and before.is_trouble else "goes-on"
            return [self._alert(kind, status, kind.replace("-", " "), _where(status))]
        said = {
            State.STALLED: f"came on last {duration(status.heartbeat_at - status.progress_at)} ago",
            State.LOST: f"no word for {duration(sight.silent_seconds)}",
        }.get(after, status.reason)
        text = f"{said}; {_where(status)}" if said else _where(status)
        if before is None:
            text += "; it was so when first seen"
        level = _LEVELS[after]
        return [self._alert(after.value.lower(), status, after.value, text, level)]

    def _of_score(self, status: Status) -> list[Alert]:
        is_first = self.state is None or status.run_id != self.run_id
        if status.run_id != self.run_id:
            self.run_id, self.best_score = status.run_id, None
        score = status.values.get("best_score")
        if score is None or (self.best_score is not None and score >= self.best_score):
            return []
        before, self.best_score = self.best_score, score
        if is_first:
            return []
        text = f"{score:.4f}" if before is None else f"{score:.4f}, before {before:.4f}"
        return [self._alert("best", status, f"best score {score:.4f}", f"{text}; {_where(status)}")]

    def _alert(
        self, kind: str, status: Status, what: str, text: str, level: Level = Level.INFO
    ) -> Alert:
        title = f"{status.name or self.run}: {what}"
        return Alert(kind=kind, run=self.run, title=title, text=text, level=level)


def _where(status: Status) -> str:
    total = "" if status.num_steps is None else f" of {status.num_steps:,}"
    stage = f", {status.stage}" if status.stage else ""
    return f"at {status.step:,}{total} {status.unit}{stage}"
