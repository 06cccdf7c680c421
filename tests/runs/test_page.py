"""The page of a run: shown right, on any screen, whatever it is told, and small."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from serengeti_etl.runs.curves import Curve, Curves, draw, short_number
from serengeti_etl.runs.notes import Sample
from serengeti_etl.runs.page import Facts, Page, duration, script_json
from serengeti_etl.runs.status import State, Status
from tests.browser import SIZES, Browser

STATUS = Status(
    kind="train",
    name="r1",
    run_id="0123456789abcdef",
    said="running",
    stage="large",
    step=1500,
    num_steps=2000,
    unit="steps",
    started_at=1_700_000_000.0,
    progress_at=1_700_003_599.0,
    heartbeat_at=1_700_003_600.0,
    heartbeat_seconds=5.0,
    stall_after_seconds=600.0,
    rate=0.42,
    eta_seconds=1200.0,
    hourly_rate=3.5,
    values={"loss": 0.0421, "score": 0.0312, "class_means_score": 0.0655, "data_wait": 0.012},
    host="vm",
    pid=7,
    versions={"Python": "3.11"},
)
MARKS = ((0, "small"), (800, "large"))

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "\"><img src=x onerror='alert(3)'>",
    "{{ 7 * 7 }} {% raw %} @@ \u2028 \u202e",
    "<svg onload=alert(4)>",
    "</style></title></pre></noscript><iframe src=javascript:alert(5)>",
)


def records(num: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for step in range(num):
        made.append(
            {
                "kind": "train",
                "step": step,
                "loss": 0.7 * math.exp(-3 * step / num) + 0.02 * math.sin(step),
                "images_per_second": 900 + 30 * math.sin(step / 7),
                "data_wait": 0.01,
            }
        )
        if step % 100 == 99:
            made.append(
                {"kind": "val", "step": step, "score": 0.07 - step / 1e5, "class_means_score": 0.06}
            )
    return made


def facts(num: int = 2000, num_samples: int = 8) -> Facts:
    curves = Curves()
    curves.take(records(num))
    jpeg = simplejpeg.encode_jpeg(
        np.random.default_rng(1).integers(0, 256, (150, 200, 3), np.uint8),
        quality=70,
        colorspace="RGB",
    )
    sample = Sample(
        name="i1", jpeg=jpeg, truth=("zebra",), predicted=(("zebra", 0.71), ("empty", 0.2))
    )
    return Facts(
        marks=MARKS,
        charts=curves.charts("train"),
        events=[
            {"time": 1_700_000_000.0 + at, "level": level, "text": f"event {at}", "kind": "note"}
            for at, level in enumerate(("info", "warning", "critical"))
        ],
        log=[(1_700_000_000.0, f"line {at}") for at in range(40)],
        samples=[sample] * num_samples,
    )


AT_A_TIME = """now => {
  const of = id => document.getElementById(id);
  show(JSON.parse(of("status").textContent), now);
  return {
    state: of("state").innerText,
    title: document.title,
    seen: of("seen").innerText,
    has_trouble: of("trouble").getClientRects().length > 0,
  };
}"""
"""What a page shows to somebody whose clock shows ``now``."""


def page_of(status: Status, shown: Facts, *, reloads: bool = False) -> str:
    page = Page()
    page.draw(status, shown)
    return page.content(status, reloads=reloads).decode()


def written(folder: Path, content: str) -> str:
    # Whole at any moment: a page that reloads half of itself would never look again.
    (folder / "part").write_text(content)
    (folder / "part").replace(folder / "index.html")
    return (folder / "index.html").as_uri()


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_all_of_it_is_shown(
    browser: Browser, tmp_path: Path, size: tuple[int, int], *, is_dark: bool
) -> None:
    """A full page has no error, no request, no sideways scrolling, and the figures on it."""
    url = written(tmp_path, page_of(STATUS, facts()))
    with browser.show(url, size, is_dark=is_dark) as shown:
        shown.check()
        text = shown.text()
        for figure in ("75.0 %", "1,500 of 2,000 steps", "0.0421", "0.0312", "3.50", "1.2 %"):
            assert figure in text
        for words in ("event 2", "line 39", "zebra", "class means", "71 %", "small", "large"):
            assert words in text
        assert shown.page.locator("svg").count() == 4
        assert shown.page.locator("figure img").count() == 8
        colour = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3
        assert (brightness < 60) == is_dark


def test_a_page_is_small() -> None:
    """With 100,000 records, eight photographs and the longest lines it has at most 200 KB."""
    sample = Sample(name="i", jpeg=b"x" * 9_000, truth=("a",), predicted=(("b", 0.1),) * 3)
    event = {"time": 0.0, "level": "info", "text": "x" * 1000, "kind": "note"}
    most = dataclasses.replace(
        facts(100_000), log=[(0.0, "x" * 300)] * 40, events=[event] * 10, samples=[sample] * 8
    )
    num_bytes = len(page_of(STATUS, most).encode())
    assert 150_000 < num_bytes <= 200_000


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_words_are_inert(browser: Browser, tmp_path: Path, hostile: str) -> None:
    """Whatever runs, stages, classes, hosts, log and events are called, it is shown as text."""
    status = dataclasses.replace(
        STATUS,
        said="failed",
        name=hostile,
        stage=hostile,
        reason=hostile,
        host=hostile,
        run_id=hostile,
        versions={hostile: hostile},
    )
    sample = Sample(name=hostile, jpeg=b"", truth=(hostile,), predicted=((hostile, 0.5),))
    shown_facts = dataclasses.replace(
        facts(10),
        marks=((0, hostile), (800, hostile)),
        events=[{"time": 0.0, "level": "info", "text": hostile, "kind": hostile}],
        log=[(0.0, hostile)],
        samples=[sample],
    )
    content = page_of(status, shown_facts, reloads=True)
    with browser.show(written(tmp_path, content)) as shown:
        shown.check()
        assert shown.page.inner_text("h1").startswith(hostile)
        assert shown.page.locator("script").count() == 2
        assert shown.page.locator("iframe, [onerror], [onload]").count() == 0
        read = json.loads(shown.page.locator("#status").text_content() or "")
        assert read["name"] == hostile
        assert shown.page.inner_text("#state") == "FAILED"


@given(st.recursive(st.text() | st.none() | st.integers(), st.lists, max_leaves=5))
def test_json_in_a_script_stays_in_it(value: Any) -> None:
    """It reads back as the same, and has nothing that could end a script or a line."""
    text = script_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


# So few that two are often apart by exactly what decides.
times = st.sampled_from([30.0 * number for number in range(24)])
statuses = st.builds(
    dataclasses.replace,
    st.just(STATUS),
    said=st.sampled_from(["running", "running", "running", "stopped", "failed", "done"]),
    progress_at=times,
    heartbeat_at=times,
    heartbeat_seconds=st.sampled_from([0.5, 5.0, 7.5, 15.0, 30.0]),
    stall_after_seconds=st.sampled_from([1.0, 30.0, 60.0, 300.0]),
)


def test_page_and_reader_agree_on_the_state(browser: Browser, tmp_path: Path) -> None:
    """The page's own arithmetic gives the state of ``Status.state``, for any times."""
    drawn: list[tuple[Status, float]] = []

    @settings(max_examples=500, database=None, phases=[Phase.generate])
    @given(statuses, times)
    def draw_one(status: Status, now: float) -> None:
        drawn.append((status, now))

    draw_one()
    given_ones = [{"status": one.to_json(), "now": now} for one, now in drawn]
    with browser.show(written(tmp_path, page_of(STATUS, Facts()))) as shown:
        script = "all => all.map(one => stateOf(one.status, one.now))"
        found = shown.page.evaluate(script, given_ones)
    assert found == [str(one.state(now)) for one, now in drawn]
    assert set(found) == set(State)


@pytest.mark.parametrize(
    ("change", "later", "state"),
    [
        ({}, 1.0, "RUNNING"),
        ({"progress_at": STATUS.heartbeat_at - 601}, 1.0, "STALLED"),
        ({}, 31.0, "LOST"),
        ({"said": "stopped"}, 1e6, "STOPPED"),
        ({"said": "failed", "reason": "the loss is no longer finite"}, 1e6, "FAILED"),
        ({"said": "done"}, 1e6, "DONE"),
    ],
)
def test_the_badge_goes_by_two_times_and_the_clock(
    browser: Browser, tmp_path: Path, change: dict[str, Any], later: float, state: str
) -> None:
    """What a page says depends on when it is looked at, and it says what is wrong."""
    status = dataclasses.replace(STATUS, **change)
    url = written(tmp_path, page_of(status, facts()))
    with browser.show(url) as shown:
        # At one moment: each second it looks at the real clock again.
        found = shown.page.evaluate(AT_A_TIME, STATUS.heartbeat_at + later)
        shown.check()
        assert found["state"] == state
        assert found["title"].startswith(f"{state} 75 %")
        assert found["has_trouble"] == (state in ("STALLED", "LOST"))
        assert duration(later) in found["seen"]
        if status.reason:
            assert status.reason in shown.text()


def test_a_new_heartbeat_needs_no_new_drawing() -> None:
    """The same drawing with a later status differs in nothing but the status in it."""
    page, later = Page(), dataclasses.replace(STATUS, heartbeat_at=STATUS.heartbeat_at + 60)
    page.draw(STATUS, facts())
    before, after = (page.content(one, reloads=False).decode() for one in (STATUS, later))
    old, new = (script_json(one.to_json()) for one in (STATUS, later))
    assert before != after
    assert before.replace(old, new) == after


def test_without_scripts_all_but_liveness_is_there(browser: Browser, tmp_path: Path) -> None:
    """Figures, curves, events and times stand in the page itself, and when it was written."""
    url = written(tmp_path, page_of(STATUS, facts()))
    with browser.show(url, java_script_enabled=False) as shown:
        text = shown.page.locator("body").inner_text()
        assert "RUNNING" in text
        assert "as of 2023-11-14 23:13:20 UTC" in text
        assert "1,500 of 2,000 steps" in text
        assert "2023-11-14" in text
        assert shown.page.locator("svg path").count() == 5


def test_it_looks_for_a_newer_page_by_itself(browser: Browser, tmp_path: Path) -> None:
    """A page that reloads shows what came later; a report stays what it is."""
    old, new = STATUS, dataclasses.replace(STATUS, step=1999, said="done")
    url = written(tmp_path, page_of(old, facts(), reloads=True).replace('reload="5"', 'reload="1"'))
    with browser.show(url) as shown:
        assert "1,500 of" in shown.text()
        written(tmp_path, page_of(new, facts(), reloads=True))
        shown.page.get_by_text("1,999 of").wait_for()
        assert shown.page.inner_text("#state") == "DONE"
    assert 'data-reload="0"' in page_of(old, facts())


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300))
@example([math.sin(number) for number in range(3001)])
def test_curves_are_thinned_to_means(values: list[float]) -> None:
    """At most 241 points, in order, between the least and the greatest value, to the last one."""
    curve = Curve()
    for x, y in enumerate(values):
        curve.add(float(x), y)
    points = curve.points
    assert len(points) <= 241
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    room = 1e-6 * max(1.0, *(abs(value) for value in values))
    assert all(min(values) - room <= y <= max(values) + room for _, y in points)
    if len(values) < 240:
        assert points == [(float(x), y) for x, y in enumerate(values)]


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12),
        min_size=1,
        max_size=20,
    ),
    st.none() | st.integers(0, 10**9),
)
def test_any_curve_can_be_drawn(values: list[float], num_steps: int | None) -> None:
    """Whatever the values, all that is drawn lies within the field."""
    curves = Curves()
    curves.take([{"step": at, "loss": value} for at, value in enumerate(values)])
    (chart,) = curves.charts("train")
    drawing = draw(chart, MARKS, num_steps)
    for x, y in drawing.ends:
        assert drawing.left <= x <= drawing.right
        assert drawing.top - 0.1 <= y <= drawing.bottom + 0.1
    for tick in drawing.y_ticks:
        assert drawing.top - 0.1 <= tick.at <= drawing.bottom + 0.1


def test_a_little_of_a_large_number_has_ticks_that_differ() -> None:
    """A loss that hardly falls is told from one that stands; no tick lies beside the field."""
    for values in ([0.6931, 0.69313, 0.69315], [998_542_169_236.0, 999_257_169_951.0], [1e12] * 3):
        curves = Curves()
        curves.take([{"step": at, "loss": value} for at, value in enumerate(values)])
        (chart,) = curves.charts("train")
        drawing = draw(chart, MARKS, None)
        texts = [tick.text for tick in drawing.y_ticks]
        assert 1 < len(texts) == len(set(texts)) <= 5, texts
        assert all(drawing.top <= tick.at <= drawing.bottom for tick in drawing.y_ticks)


def test_numbers_are_written_short() -> None:
    """With a suffix, or with a comma where digits want one."""
    said = [short_number(value) for value in (0.0353, 950, 1234.5, 12_000, 7_200_000)]
    assert said == ["0.0353", "950", "1,234", "12k", "7.2M"]


def test_durations_are_said_as_people_do() -> None:
    """From seconds to days."""
    said = [duration(seconds) for seconds in (None, 0, 119, 120, 3_600, 11_100, 190_800)]
    assert said == ["–", "0 s", "119 s", "2 min", "60 min", "3 h 05 min", "2 d 5 h"]
