"""The rule by which a watcher calls a run lost, with clocks that are wrong."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serengeti_etl.runs.look import Look
from serengeti_etl.runs.news import News
from serengeti_etl.runs.status import State
from serengeti_etl.runs.vigil import CLOCK_SECONDS, Sight, Vigil
from tests.runs.status_factory import NOW, STATUS, look

LIMIT = STATUS.lost_after_seconds
AWAY = Look(fault="away")


def states(vigil: Vigil, looks: list[tuple[Look, float]], skew: float = 0.0) -> list[State | None]:
    """What each look at so many seconds makes of it, by a clock that is wrong by ``skew``."""
    return [vigil.see(one, NOW + at + skew, 1000.0 + at).state for one, at in looks]


@given(
    skew=st.floats(-CLOCK_SECONDS, CLOCK_SECONDS),
    every=st.floats(1, 60),
    beat=st.floats(1, 10),
    lag=st.floats(0, 5),
    jump=st.floats(-CLOCK_SECONDS, CLOCK_SECONDS),
)
def test_a_run_that_writes_is_never_lost(
    skew: float, every: float, beat: float, lag: float, jump: float
) -> None:
    """Whatever the clocks differ by within ten minutes, also when the run's is set on the way."""
    vigil = Vigil()
    for number in range(30):
        at = number * every
        written = NOW + (at - lag) // beat * beat + (jump if number > 9 else 0)
        sight = vigil.see(look(written), NOW + at + skew, at)
        assert sight.state is State.RUNNING


@given(
    skew=st.floats(-1e5, 1e5),
    every=st.floats(1, 60),
    died=st.floats(0, 500),
    num_before=st.integers(0, 5),
)
def test_a_run_that_died_is_lost_in_time(
    skew: float, every: float, died: float, num_before: int
) -> None:
    """At the latest after its time and two looks, whether the watch saw it alive or not."""
    vigil, at = Vigil(), 0.0
    for number in range(num_before):
        at = number * every
        vigil.see(look(NOW + at), NOW + at + skew, at)
    start = at + (died if not num_before else 0)
    sights: list[Sight] = []
    while (number := len(sights)) * every <= LIMIT + 2 * every:
        later = start + number * every
        sights.append(vigil.see(look(NOW + at), NOW + later + skew, later))
    assert sights[-1].state is State.LOST


def test_a_late_sight_of_the_last_heartbeat_counts() -> None:
    """Who looks every half minute calls it lost a look earlier: it was old when first seen."""
    vigil = Vigil()
    for at in (0.0, 30.0, 60.0):
        vigil.see(look(NOW + at - 1), NOW + at, at)
    assert vigil.see(look(NOW + 65), NOW + 90, 90.0).state is State.RUNNING
    sight = vigil.see(look(NOW + 65), NOW + 120, 120.0)
    assert (sight.state, sight.silent_seconds) == (State.LOST, 54.0)


def test_a_watcher_whose_clock_is_far_off_learns_better() -> None:
    """Beyond ten minutes the first look may be wrong; with the first change it is put right."""
    vigil = Vigil()
    assert vigil.see(look(NOW), NOW + 1e5, 0.0).state is State.LOST
    for at in (10.0, 20.0):
        assert vigil.see(look(NOW + at), NOW + 1e5 + at, at).state is State.RUNNING


def test_a_run_that_is_long_dead_is_lost_at_once() -> None:
    """An age beyond what clocks differ by needs no second look; one of minutes does."""
    assert states(Vigil(), [(look(NOW - LIMIT - CLOCK_SECONDS - 1), 0)]) == [State.LOST]
    vigil = Vigil()
    sight = vigil.see(look(NOW - 300), NOW, 0.0)
    assert (sight.state, sight.is_sure) == (State.RUNNING, False)
    assert vigil.see(look(NOW - 300), NOW + LIMIT, LIMIT).state is State.RUNNING
    lost = vigil.see(look(NOW - 300), NOW + LIMIT + 1, LIMIT + 1)
    assert lost == Sight(state=State.LOST, silent_seconds=300 + LIMIT + 1)


def test_a_heartbeat_of_the_future_proves_nothing() -> None:
    """A watcher whose clock is behind sees an age below zero, and goes by its own looks."""
    vigil = Vigil()
    assert vigil.see(look(NOW + 500), NOW, 0.0).is_sure is False
    assert vigil.see(look(NOW + 500), NOW + 41, 41.0).state is State.LOST


def test_what_cannot_be_seen_is_not_lost() -> None:
    """A store that is away has no state, and the count begins again when it is back."""
    looks = [(look(), 0.0), (look(NOW + 10), 10.0), (AWAY, 20.0), (AWAY, 500.0)]
    back = [(look(NOW + 10), 510.0), (look(NOW + 10), 549.0), (look(NOW + 10), 551.0)]
    assert states(Vigil(), looks + back) == [
        State.RUNNING,
        State.RUNNING,
        None,
        None,
        State.RUNNING,
        State.RUNNING,
        State.LOST,
    ]


def test_lost_ends_by_a_heartbeat_only() -> None:
    """A store that was away in between does not bring a dead run back; a new heartbeat does."""
    looks = [(look(), 0.0), (look(), 41.0), (AWAY, 50.0), (look(), 60.0), (look(NOW + 61), 62.0)]
    assert states(Vigil(), looks) == [State.RUNNING, State.LOST, None, State.LOST, State.RUNNING]


@pytest.mark.parametrize("skew", [-500.0, 0.0, 500.0])
def test_a_stall_is_seen_by_the_runs_own_clock(skew: float) -> None:
    """Progress that is too far behind the heartbeat is a stall, whatever the watcher's clock."""
    stalled = [(look(NOW + at, progress_at=NOW - 121), at) for at in (0.0, 10.0)]
    assert states(Vigil(), stalled, skew) == [State.STALLED] * 2
    fine = [(look(NOW, progress_at=NOW - 119), 0.0)]
    assert states(Vigil(), fine, skew) == [State.RUNNING]


@pytest.mark.parametrize("said", ["done", "failed", "stopped"])
def test_what_has_ended_is_not_lost(said: str) -> None:
    """However old its last word is."""
    ended = look(NOW - 1e6, said=said)
    assert states(Vigil(), [(ended, 0.0), (ended, 1e5)]) == [State(said.upper())] * 2


def told(news: News, *seen: tuple[State, dict[str, object]]) -> list[str]:
    """Kinds of the alerts of one sight after the other."""
    kinds = []
    for state, changes in seen:
        status = replace(STATUS, **changes)  # type: ignore[arg-type]
        kinds += [one.kind for one in news.of(status, Sight(state=state, silent_seconds=90))]
    return kinds


def test_each_change_is_told_once() -> None:
    """A stall, a loss, a recovery, a stop, going on and the end, however often it is looked at."""
    path = [
        *(State.RUNNING, State.RUNNING, State.STALLED, State.STALLED, State.RUNNING, State.LOST),
        *(State.LOST, State.RUNNING, State.STOPPED, State.STOPPED, State.RUNNING, State.DONE),
        State.DONE,
    ]
    assert told(News("r"), *((state, {}) for state in path)) == [
        *("stalled", "recovered", "lost", "recovered", "stopped", "goes-on", "done")
    ]


def test_a_watch_that_begins_tells_of_trouble_only() -> None:
    """What is dead already is said once, with the words that it was so; what is well is not."""
    for state in (State.RUNNING, State.STOPPED, State.DONE):
        assert told(News("r"), (state, {"values": {"best_score": 0.1}})) == []
    [alert] = News("r").of(STATUS, Sight(state=State.LOST, silent_seconds=7200))
    assert (alert.kind, alert.level, alert.title) == ("lost", "critical", "lions: LOST")
    assert alert.text == (
        "no word for 2 h 00 min; at 70 of 1,000 steps, head; it was so when first seen"
    )


def test_a_failure_comes_with_its_reason() -> None:
    """In the text, with where it was."""
    news = News("r", state=State.RUNNING)
    status = replace(STATUS, reason="the loss is no longer finite")
    [alert] = news.of(status, Sight(state=State.FAILED))
    assert alert.text == "the loss is no longer finite; at 70 of 1,000 steps, head"


def test_a_best_score_is_told_when_it_is_better() -> None:
    """Lower is better; the first one seen is news only of a run that was there before it."""

    def score(value: float, run_id: str = "r1") -> tuple[State, dict[str, object]]:
        return State.RUNNING, {"values": {"best_score": value}, "run_id": run_id}

    begun: tuple[State, dict[str, object]] = (State.RUNNING, {"values": {}})
    assert told(News("r"), begun, score(0.5), score(0.5), score(0.4), score(0.45)) == ["best"] * 2
    assert told(News("r"), score(0.5), score(0.4)) == ["best"]
    assert told(News("r"), score(0.5), score(0.9, "r2"), score(0.8, "r2")) == ["best"]
