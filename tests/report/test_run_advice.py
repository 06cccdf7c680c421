"""What a person should look at in an evaluation."""

from typing import Any

import pytest

from serengeti_etl.report.run_advice import evaluation_advice
from serengeti_etl.report.site_map import draw_map


def group(kind: str, name: str, top1: float | None, num_sites: int = 9) -> dict[str, Any]:
    return {"kind": kind, "name": name, "num_sites": num_sites, "top1": {"value": top1}}


def species(name: str, **more: Any) -> dict[str, Any]:
    fixed = {"support": 50, "recall": 0.7, "log_loss": 0.1, "class_means_log_loss": 0.2}
    return fixed | {"name": name} | more


def judged(**more: Any) -> dict[str, Any]:
    fixed = {
        "split": "val",
        "score": 0.1,
        "class_means_score": 0.2,
        "groups": [
            group("all", "all", 0.8),
            group("time", "day", 0.8),
            group("time", "night", 0.8),
        ],
        "classes": [species("zebra")],
        "reliability": {"ece": 0.01},
        "blanks": {"chosen": {"missed": 0.01, "threshold": 0.9}},
        "tuning": {"is_judged_split": False},
    }
    return fixed | more


def test_a_good_run_needs_no_advice() -> None:
    """Nothing is said where nothing is wrong, nor where there are no blanks and no tuning."""
    assert evaluation_advice(judged()) == []
    assert evaluation_advice(judged(blanks=None, tuning=None)) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"score": 0.2}, "no better than predicting class means"),
        ({"groups": [group("all", "all", 0.8, 4)]}, "All is from 4 sites"),
        (
            {"classes": [species("lion", recall=0.0)]},
            "Never predicted at 0.5, though often shown: lion",
        ),
        ({"classes": [species("lion", log_loss=0.3)]}, "how common they are: lion"),
        ({"classes": [species("lion", support=19)]}, "fewer than 20 sequences"),
        ({"reliability": {"ece": 0.06}}, "off by 6.0 % on average"),
        (
            {"blanks": {"chosen": {"missed": 0.03, "threshold": 0.5}}},
            "give a higher --blank-threshold",
        ),
        ({"tuning": {"is_judged_split": True}}, "tuned on val itself"),
        (
            {
                "groups": [
                    group("all", "all", 0.8),
                    group("time", "day", 0.8),
                    group("time", "night", 0.6),
                ]
            },
            "At night 60 % of the likeliest categories are right, by day 80 %",
        ),
        (
            {
                "groups": [
                    group("all", "all", 0.8),
                    group("sites", "seen", 0.9),
                    group("sites", "unseen", 0.5),
                ]
            },
            "not trained on 50 %",
        ),
    ],
)
def test_each_fault_is_said_alone(more: dict[str, Any], words: str) -> None:
    """One sentence for one fault."""
    found = evaluation_advice(judged(**more))
    assert len(found) == 1
    assert words in found[0]


def test_species_that_nothing_shows_are_passed_over() -> None:
    """They have no recall, and cannot be worse than anything."""
    nothing = species("lion", support=0, recall=None, log_loss=0.9)
    assert evaluation_advice(judged(classes=[nothing])) == []


def site(name: str, score: float = 0.1) -> dict[str, Any]:
    return {"site": name, "score": score, "class_means_score": 0.2, "num_sequences": 10}


def test_sites_lie_on_the_map_as_in_the_land() -> None:
    """North is up, east is right, a degree is as long both ways at the equator."""
    places = {"a": (0.0, 30.0), "north": (0.5, 30.0), "east": (0.0, 30.5)}
    drawn = draw_map([site("a"), site("north", 0.3), site("east"), site("lost")], places)
    assert drawn is not None
    spots = {spot.name: spot for spot in drawn.spots}
    assert spots["north"].y < spots["a"].y
    assert spots["east"].x > spots["a"].x
    up, right = spots["a"].y - spots["north"].y, spots["east"].x - spots["a"].x
    assert up == pytest.approx(right, rel=1e-3)
    assert right / 360 * drawn.km_wide == pytest.approx(0.5 * 111.2, rel=1e-3)
    assert [spots[name].is_better for name in ("a", "north")] == [True, False]
    assert drawn.num_missing == 1
    assert draw_map([site("lost")], places) is None


def test_one_site_alone_is_a_map() -> None:
    """It lies inside of the drawing."""
    drawn = draw_map([site("a")], {"a": (-2.0, 34.0)})
    assert drawn is not None
    assert 0 < drawn.spots[0].x < 360
    assert 0 < drawn.spots[0].y < drawn.height
