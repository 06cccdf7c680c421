"""The supervisor's decisions, in a world with a clock of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError
from serengeti_etl.runs.alert import Alert, Level
from serengeti_etl.runs.look import Look
from serengeti_etl.runs.supervise import Ending, Outcome, Supervisor, World
from serengeti_etl.runs.supervise_settings import SuperviseSettings
from tests.runs import status_factory

LOOK_SECONDS = 7.0
STATUS = replace(status_factory.STATUS, step=0, started_at=0, progress_at=0, heartbeat_at=0)


@dataclass
class Life:
    """What one start of the command does.

    Attributes:
        seconds: until it ends by itself.
        code: its exit code then.
        num_steps: that it comes on, over its life.
        hangs_after: seconds, from when it comes on no more.
        is_silent: whether it then writes no more either.
        begins_after: seconds, until it writes its first status.
    """

    seconds: float
    code: int
    num_steps: int = 0
    hangs_after: float = float("inf")
    is_silent: bool = False
    begins_after: float = 0.0


@dataclass
class Universe:
    """A clock, the command's lives one after the other, and all that happened."""

    lives: list[Life]
    asks_at: float = float("inf")
    away: tuple[float, float] = (0.0, 0.0)
    now: float = 0.0
    step: int = 0
    said: Look = field(default_factory=Look)
    started: list[float] = field(default_factory=list)
    done: list[tuple[str, float]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def run(self, settings: SuperviseSettings | None = None) -> Outcome:
        """What becomes of it."""
        world = World(
            start=lambda: FakeProcess(self),
            watch=self.watch,
            look_anew=self.look,
            wait=self.wait,
            tell=self.alerts.append,
            clock=lambda: self.now,
        )
        return Supervisor("runs/lions", settings or SuperviseSettings(), world).supervise()

    def wait(self, seconds: float) -> bool:
        """Time passes."""
        self.now = max(min(self.now + seconds, self.asks_at), self.now)
        return self.now >= self.asks_at

    def watch(self) -> Callable[[], Look]:
        """Looks anew every few seconds, as ``look.Looker`` does."""
        taken: list[tuple[float, Look]] = []

        def latest() -> Look:
            if not taken or self.now - taken[-1][0] >= LOOK_SECONDS:
                taken.append((self.now, self.look()))
            return taken[-1][1]

        return latest

    def look(self) -> Look:
        """The last status that was written, by the present life or one before."""
        if self.away[0] <= self.now < self.away[1]:
            return Look(fault="away")
        if self.started and self.now - self.started[-1] >= self.life.begins_after:
            self.said = self.written()
        return self.said

    def written(self) -> Look:
        """The status of the present life."""
        life, age = self.life, self.now - self.started[-1]
        lived = min(age, life.hangs_after, life.seconds)
        beat = (min(age, life.seconds) if not life.is_silent else lived) // 10 * 10
        step = self.step + int(life.num_steps * lived / life.seconds)
        status = replace(
            STATUS,
            step=step,
            heartbeat_at=self.started[-1] + beat,
            progress_at=self.started[-1] + min(lived, beat),
        )
        return Look(status=status, step=step)

    @property
    def life(self) -> Life:
        """The present one; the last goes on for ever."""
        return self.lives[min(len(self.started), len(self.lives)) - 1]


class FakeProcess:
    """See ``supervise.Process``."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        universe.started.append(universe.now)
        self._killed: int | None = None

    def code(self) -> int | None:
        """Its own, or the signal's that killed it."""
        life, universe = self._universe.life, self._universe
        is_over = universe.now - universe.started[-1] >= life.seconds
        return self._killed if self._killed is not None else life.code if is_over else None

    def ask_to_stop(self) -> None:
        """It saves and ends, as a training does."""
        self._note("asked")
        self._killed = 3

    def wait(self, seconds: float) -> int | None:
        """It is quick."""
        assert seconds > 0
        return self.code()

    def dump(self) -> None:
        """It dies of it."""
        self._note("dumped")
        self._killed = 134

    def end(self) -> None:
        """Nothing of it is left."""
        universe = self._universe
        life, age = universe.life, universe.now - universe.started[-1]
        universe.step += int(life.num_steps * min(age, life.seconds) / life.seconds)
        self._note("ended")
        self._killed = 137 if self.code() is None else self._killed
        universe.lives.append(universe.lives[-1])

    def tail(self, num_lines: int) -> str:
        """Some output."""
        return f"last {num_lines} lines"

    def _note(self, what: str) -> None:
        self._universe.done.append((what, self._universe.now))


def gaps(universe: Universe, life_seconds: float) -> list[float]:
    """Seconds between a death and the next start."""
    pairs = zip(universe.started, universe.started[1:], strict=False)
    return [later - earlier - life_seconds for earlier, later in pairs]


@pytest.mark.parametrize("code", [0, 2])
def test_what_is_done_is_not_begun_again(code: int) -> None:
    """Exit 0 and 2 end it, with one alert that it is finished."""
    universe = Universe([Life(5, code)])
    outcome = universe.run()
    assert (outcome.ending, outcome.code, outcome.num_restarts) == (Ending.DONE, code, 0)
    assert [(one.kind, one.title) for one in universe.alerts] == [("finished", "lions: finished")]
    assert universe.alerts[0].tail == "last 30 lines"


@pytest.mark.parametrize("code", [4, 126, 127])
def test_what_is_refused_is_given_up_at_once(code: int) -> None:
    """Where the same again would end the same, there is no second start."""
    universe = Universe([Life(5, code)])
    outcome = universe.run()
    assert (outcome.ending, len(universe.started)) == (Ending.REFUSED, 1)
    assert (universe.alerts[0].kind, universe.alerts[0].level) == ("gave-up", Level.CRITICAL)


@pytest.mark.parametrize("code", [1, 3, 134, 137, 143])
def test_a_death_is_begun_again_after_growing_waits(code: int) -> None:
    """1, 2, 4 … 300 s; after ten restarts without progress it is given up."""
    universe = Universe([Life(5, code)])
    outcome = universe.run()
    assert gaps(universe, 5) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert (outcome.ending, outcome.num_restarts) == (Ending.GAVE_UP, 10)
    assert "did not come on in 10 restarts" in outcome.reason
    assert [one.kind for one in universe.alerts] == ["died"] * 10 + ["gave-up"]
    assert "restart 3 of 10 without progress in 4 s" in universe.alerts[2].text


@pytest.mark.parametrize(
    ("reason", "num_starts"), [("RunError: the loss is no longer finite", 1), ("OSError: away", 4)]
)
def test_a_run_that_says_why_it_cannot_go_on_is_believed(reason: str, num_starts: int) -> None:
    """A failure that would come again gives up at once, though torchrun ends with 1 for all."""
    universe = Universe([Life(5, 1)])
    outcome, failed = None, replace(STATUS, said="failed", reason=reason)

    def fails() -> Look:
        return Look(status=replace(failed, started_at=universe.now if universe.started else 0.0))

    universe.look = fails  # type: ignore[method-assign]
    outcome = universe.run(SuperviseSettings(max_restarts=3))
    assert len(universe.started) == num_starts
    assert (outcome.ending is Ending.REFUSED) is (num_starts == 1)


def test_an_old_failure_is_not_this_starts() -> None:
    """What an earlier start said is no reason to give this one up."""
    universe = Universe([Life(5, 1)])
    old = Look(status=replace(STATUS, said="failed", reason="RunError: x"))
    universe.look = lambda: old  # type: ignore[method-assign]
    assert universe.run(SuperviseSettings(max_restarts=2)).ending is Ending.GAVE_UP


def test_progress_starts_the_count_again() -> None:
    """A run that comes on a little in each life is begun again for ever, after a second each."""
    dying = [Life(5, 137, num_steps=1)] * 30
    universe = Universe([*dying, Life(5, 0)])
    outcome = universe.run(SuperviseSettings(max_restarts=2))
    assert (outcome.ending, outcome.num_restarts) == (Ending.DONE, 30)
    assert set(gaps(universe, 5)) == {1}
    assert universe.alerts[-1].text == "after 30 restarts"


def test_steps_done_again_are_no_progress() -> None:
    """A run that falls back to its checkpoint and dies at the same step comes on no more."""
    universe = Universe([Life(5, 137, num_steps=7)])

    def falls_back() -> Look:
        return Look(step=100 if universe.started else 0)

    universe.look = falls_back  # type: ignore[method-assign]
    outcome = universe.run(SuperviseSettings(max_restarts=3))
    assert (outcome.ending, outcome.num_restarts) == (Ending.GAVE_UP, 3)


def test_what_could_not_be_seen_in_between_is_no_progress() -> None:
    """A store that is away between two starts does not make old steps new."""
    universe = Universe([Life(5, 137)])

    def away_in_between() -> Look:
        is_alive = universe.started and universe.now - universe.started[-1] <= 5
        return Look(step=90) if is_alive else Look(fault="away")

    universe.look = away_in_between  # type: ignore[method-assign]
    assert universe.run(SuperviseSettings(max_restarts=3)).ending is Ending.GAVE_UP


@pytest.mark.parametrize(("is_silent", "after"), [(False, 120 + 60), (True, 40 + 300)])
def test_a_child_that_hangs_is_killed_and_begun_again(after: float, *, is_silent: bool) -> None:
    """By its progress, or by a heartbeat that stands still: stacks first, then the end."""
    hung = Life(1e6, 0, num_steps=1000, hangs_after=500, is_silent=is_silent)
    universe = Universe([hung, Life(50, 0)])
    outcome = universe.run()
    assert (outcome.ending, outcome.num_restarts) == (Ending.DONE, 1)
    (what, at), (then, _) = universe.done[:2]
    assert (what, then) == ("dumped", "ended")
    assert 500 + after < at <= 500 + after + 15
    assert "was killed" in universe.alerts[0].text


def test_nothing_is_held_against_a_child_that_cannot_be_seen() -> None:
    """While the bucket is away, and where a command writes no status, nobody is killed."""
    universe = Universe([Life(5000, 0)], away=(500, 4500))
    assert universe.run().num_restarts == 0
    silent = Universe([Life(50_000, 0)])
    silent.look = Look  # type: ignore[method-assign]
    assert silent.run().num_restarts == 0


START = SuperviseSettings(start_seconds=1800, max_restarts=3)
SLACK = 3 * LOOK_SECONDS
"""Of what is seen every few seconds, at the beginning and end of an outage too."""


def test_a_child_that_hangs_at_its_start_is_killed_and_begun_again() -> None:
    """One that has written nothing of its own in time, whatever an earlier start has written."""
    never = Life(1e6, 0, begins_after=1e6)
    for lives in ([never], [Life(500, 137, num_steps=9), never]):
        universe = Universe([*lives, Life(50, 0)])
        outcome = universe.run(START)
        assert (outcome.ending, outcome.num_restarts) == (Ending.DONE, len(lives))
        begun = universe.started[-2]
        assert ("dumped", begun + 1801) in universe.done
        told = universe.alerts[-2]
        assert told.kind == "died"
        assert "it had written no status 1801 s after its start and was killed" in told.text
    forever = Universe([never])
    outcome = forever.run(START)
    assert (outcome.ending, len(forever.started)) == (Ending.GAVE_UP, 4)


def test_a_start_has_all_its_time_however_the_one_before_ended() -> None:
    """The last words before a death that nobody had read yet are not the next start's."""
    universe = Universe([Life(501, 137, num_steps=9), Life(3000, 0, begins_after=1700)])
    outcome = universe.run(START)
    assert (outcome.ending, outcome.num_restarts) == (Ending.DONE, 1)
    assert not [what for what, _ in universe.done if what == "dumped"]


@settings(max_examples=50)
@given(
    begins_after=st.floats(0, 4000),
    away=st.tuples(st.floats(0, 3000), st.floats(0, 3000)),
    is_ours=st.booleans(),
)
def test_a_start_is_killed_by_the_time_that_it_could_be_seen(
    begins_after: float, away: tuple[float, float], *, is_ours: bool
) -> None:
    """Neither sooner nor later, and never if it may be a command that writes no status."""
    since, seconds = away
    universe = Universe([Life(1e5, 0, begins_after=begins_after)], away=(since, since + seconds))
    universe.asks_at = 9000
    limit = 1800.0
    universe.run(SuperviseSettings(start_seconds=limit if is_ours else None, poll_seconds=5))
    dumped = [at for what, at in universe.done if what == "dumped"]
    due = limit if limit < since else limit + seconds
    if is_ours and begins_after > due + SLACK:
        assert due - SLACK <= dumped[0] <= due + SLACK
    if not is_ours or begins_after < due - SLACK:
        assert dumped == []


def test_a_status_that_is_damaged_is_no_sign_of_life() -> None:
    """It can be seen, and who begins writes over it."""
    universe = Universe([Life(5000, 0)])
    universe.look = lambda: Look(fault="no JSON", is_there=True)  # type: ignore[method-assign]
    assert universe.run(START).ending is Ending.GAVE_UP


def test_a_status_of_an_earlier_start_is_not_the_childs() -> None:
    """A heartbeat that is old when the child starts says nothing of it, while it imports."""
    universe = Universe([Life(5000, 0)])
    old = Look(status=replace(STATUS, heartbeat_at=-9e5, progress_at=-9e6))
    universe.look = lambda: old  # type: ignore[method-assign]
    assert universe.run().num_restarts == 0


@pytest.mark.parametrize(
    ("limits", "hours"),
    [
        ({"max_hours": 2.0}, 2.0),
        ({"hourly_rate": 3.0, "max_cost": 4.5}, 1.5),
        ({"max_hours": 1.0, "hourly_rate": 3.0, "max_cost": 4.5}, 1.0),
    ],
)
def test_a_limit_lets_it_save_and_ends(limits: dict[str, float], hours: float) -> None:
    """Over all its starts together; by the own clock here."""
    lives = [Life(600, 137, num_steps=5)]
    universe = Universe(lives)
    outcome = universe.run(SuperviseSettings(**limits))  # type: ignore[arg-type]
    assert outcome.ending is Ending.LIMIT
    assert universe.done[-2][0] == "asked"
    assert hours * 3600 <= universe.now < hours * 3600 + 5
    assert universe.alerts[-1].kind == "limit"


def test_time_before_counts_towards_a_limit() -> None:
    """What earlier supervisors' processes took is in the status, and is not forgotten."""
    universe = Universe([Life(5000, 0)])
    seen = Look(status=replace(STATUS, seconds_before=7000.0, heartbeat_at=300.0))
    universe.look = lambda: seen  # type: ignore[method-assign]
    outcome = universe.run(SuperviseSettings(max_hours=2))
    assert outcome.ending is Ending.LIMIT
    assert "it has taken 2.028 hours, and may take 2" in outcome.reason


@pytest.mark.parametrize("at", [2.0, 5.5])
def test_asked_to_stop_it_lets_the_child_save(at: float) -> None:
    """While the child works it is asked to stop; between two starts there is no other."""
    universe = Universe([Life(5, 137)], asks_at=at)
    outcome = universe.run()
    assert outcome.ending is Ending.STOPPED
    assert (len(universe.started), universe.alerts[-1].kind) == (1, "stopped")
    assert (("asked", at) in universe.done) is (at < 5)


def test_costs_need_a_rate() -> None:
    """A limit of cost without a price of the hour is refused, as are limits of nothing."""
    with pytest.raises(ConfigError, match="hourly_rate is None"):
        SuperviseSettings(max_cost=5)
    with pytest.raises(ConfigError, match="max_hours is 0"):
        SuperviseSettings(max_hours=0)
