"""Curves of an evaluation, and how far their scales reach."""

from collections.abc import Mapping, Sequence
from typing import Any

from serengeti_etl.report.charts import Axis, Chart, Series, line_chart
from serengeti_etl.report.pages import decimals
from serengeti_etl.report.predicted import SiteInterval

MAX_CURVES, MIN_SUPPORT = 12, 3
"""Species whose curves are drawn; sequences that each must have."""


def most_loss(groups: Sequence[Mapping[str, Any]]) -> float:
    """The end of the scale that scores of groups are drawn on."""
    values = [
        one[name][end]
        for one in groups
        for name, end in (("score", "value"), ("score", "high"), ("class_means_score", "value"))
    ]
    return max((value for value in values if value is not None), default=1.0) * 1.02 or 1.0


def most_site_loss(
    sites: Sequence[Mapping[str, Any]], intervals: Mapping[str, SiteInterval]
) -> float:
    """The end of the scale that scores of sites are drawn on."""
    values = [one[name] for one in sites for name in ("score", "class_means_score")]
    values += [one.score[1] for one in intervals.values()]
    return max(values, default=1.0) * 1.02 or 1.0


def curve_charts(
    judged: Mapping[str, Any], curves: Mapping[str, Sequence[tuple[float, float]]]
) -> list[tuple[Mapping[str, Any], Chart]]:
    """Precision over recall of the species that are shown most."""
    ordered = sorted(judged["classes"], key=lambda one: (-one["support"], one["name"]))
    chosen = [one for one in ordered if one["name"] in curves and one["support"] >= MIN_SUPPORT]
    x, y = Axis(label="recall", is_share=True), Axis(label="precision", is_share=True)
    return [
        (one, line_chart([Series(name="", points=_stepped(curves[one["name"]]))], x, y))
        for one in chosen[:MAX_CURVES]
    ]


def _stepped(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """As average precision reads it: each precision holds back to the recall before."""
    stepped, before = [], 0.0
    for recall, precision in points:
        stepped += [(before, precision), (recall, precision)]
        before = recall
    return stepped


def reliability_chart(bins: Sequence[Mapping[str, float]]) -> Chart:
    """Share that is shown over predicted probability."""
    points = [(one["mean_prediction"], one["share_shown"]) for one in bins]
    series = [
        Series(name="as it should be", points=[(0, 0), (1, 1)], kind="guide"),
        Series(name="this model", points=points, kind="dots"),
    ]
    x = Axis(label="predicted probability", is_share=True)
    return line_chart(series, x, Axis(label="Share that is shown", is_share=True))


def blanks_chart(blanks: Mapping[str, Any] | None) -> Chart | None:
    """Animals lost over empty sequences found."""
    if blanks is None or blanks["chosen"]["recall"] is None or blanks["chosen"]["missed"] is None:
        return None
    chosen = blanks["chosen"]
    high = min(1.0, max(0.1, 3 * chosen["missed"]))
    points = [(one["recall"], one["missed"]) for one in blanks["curve"] if one["missed"] <= high]
    series = [
        Series(name="all thresholds", points=points, colour=1),
        Series(
            name=f"chosen: empty at {decimals(chosen['threshold'], 3)} or more",
            points=[(chosen["recall"], chosen["missed"])],
            kind="dots",
            colour=2,
        ),
    ]
    x = Axis(label="empty sequences that nobody needs to look at", is_share=True)
    return line_chart(
        series, x, Axis(label="Animals lost with the blanks", high=high, is_share=True)
    )
