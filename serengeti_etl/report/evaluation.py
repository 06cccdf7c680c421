"""The report of an evaluated run: how good it is, for which species, where, and where not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.evaluate.files import EVALUATION_FILE, damaged_evaluation, read_evaluation
from serengeti_etl.report.confusions import heat_rows
from serengeti_etl.report.mistakes import Mistake, read_mistakes
from serengeti_etl.report.pages import MAX_NUM_BYTES, Key, count, decimals, large, percent, render
from serengeti_etl.report.predicted import (
    Predicted,
    SiteInterval,
    read_predicted,
    site_intervals,
)
from serengeti_etl.report.run_advice import evaluation_advice
from serengeti_etl.report.run_charts import (
    blanks_chart,
    curve_charts,
    most_loss,
    most_site_loss,
    reliability_chart,
)
from serengeti_etl.report.site_map import Places, draw_map
from serengeti_etl.report.thumbnails import LARGE, Album, Sheet, fill_album
from serengeti_etl.storage import Store

MAX_SITES, MAX_GROUPS = 120, 40
"""Rows that are shown; the rest is counted."""

_SLACK_NUM_BYTES = 20_000

_NEEDED = {
    *("split", "num_images", "num_sequences", "score", "class_means_score", "image_score", "clip"),
    *("aggregation", "with_mirror", "empty_shift", "macro_f1", "classes", "blanks", "confusions"),
    *("look_alikes", "groups", "sites", "reliability", "tuning"),
}
"""Of ``evaluation.json``: what pages are made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What only predictions beside the dataset can tell.

    Attributes:
        predicted: sequences.
        intervals: of sites.
        mistakes: the worst first.
        sheets: their photographs.
    """

    predicted: Predicted
    intervals: Mapping[str, SiteInterval]
    mistakes: Sequence[Mistake]
    sheets: Sequence[Sheet]


def read_judged(run: Store) -> dict[str, Any]:
    """What ``evaluation.json`` says, with all that pages are made of.

    Raises:
        ConfigError: there is none, or it is damaged or of another version.
    """
    judged = read_evaluation(run)
    if judged is None:
        raise ConfigError(f"no {EVALUATION_FILE} in {run.url}: run `serengeti-etl evaluate` first")
    missing = sorted(_NEEDED - judged.keys())
    if missing:
        raise damaged_evaluation(run.url, f"it has no {missing[0]}")
    return judged


def evaluation_page(
    run: Store, dataset: Dataset | None, note: str = "", places: Places | None = None
) -> bytes:
    """The report of an evaluated run as one page of HTML, of at most ``MAX_NUM_BYTES``.

    Args:
        run: with what ``evaluate`` wrote.
        dataset: that it was evaluated on; None gives a report without pictures and curves.
        note: why there is no dataset.
        places: latitude and longitude of sites, for a map.

    Raises:
        ConfigError: the run is not evaluated.
    """
    judged = read_judged(run)
    seen = None
    if dataset is not None:
        try:
            seen = _see(run, dataset, judged)
        except (OSError, DatasetError) as error:
            note = str(error)
    values = _values(run, judged, seen, places or {}) | {"note": note}
    sheets = seen.sheets if seen is not None else ()
    nothing = Album(sheets=(), num_left_out=0, problems=())
    bare = render("evaluation.html", **values, album=nothing)
    if dataset is None or not sheets:
        return bare
    room = MAX_NUM_BYTES - len(bare) - _SLACK_NUM_BYTES
    album = fill_album(dataset.store, sheets, room, LARGE)
    page = render("evaluation.html", **values, album=album)
    return page if len(page) <= MAX_NUM_BYTES else bare


def _see(run: Store, dataset: Dataset, judged: Mapping[str, Any]) -> _Seen:
    split = judged["split"]
    predicted = read_predicted(run, dataset, split, judged["score"])
    mistakes, sheets = read_mistakes(run, dataset, split, predicted)
    return _Seen(
        predicted=predicted,
        intervals=site_intervals(predicted),
        mistakes=mistakes,
        sheets=sheets,
    )


def _values(
    run: Store, judged: Mapping[str, Any], seen: _Seen | None, places: Places
) -> dict[str, Any]:
    curves = {} if seen is None else seen.predicted.curves
    intervals = {} if seen is None else seen.intervals
    return {
        "url": run.url,
        "name": run.url.rstrip("/").rsplit("/", 1)[-1],
        "judged": judged,
        "keys": _keys(judged),
        "advice": evaluation_advice(judged),
        "groups": judged["groups"][:MAX_GROUPS],
        "most_loss": most_loss(judged["groups"][:MAX_GROUPS]),
        "curves": curve_charts(judged, curves),
        "reliability": reliability_chart(judged["reliability"]["bins"]),
        "blanks": blanks_chart(judged["blanks"]),
        "heat": [] if seen is None else heat_rows(seen.predicted),
        "sites": sorted(judged["sites"], key=lambda one: -one["score"])[:MAX_SITES],
        "most_site_loss": most_site_loss(judged["sites"], intervals),
        "intervals": intervals,
        "site_map": draw_map(judged["sites"], places),
        "mistakes": [] if seen is None else seen.mistakes,
    }


def _keys(judged: Mapping[str, Any]) -> list[Key]:
    everything = judged["groups"][0]
    score, means = judged["score"], judged["class_means_score"]
    keys = [
        Key(
            name="score (log loss, lower is better)",
            value=decimals(score),
            note=f"{decimals(means)} by predicting class means",
            mood="good" if score < means else "bad",
        ),
        Key(
            name="skill over class means",
            value=percent(everything["skill"]["value"], 0),
            note=_interval_text(everything["skill"]),
        ),
        Key(
            name="likeliest category is right",
            value=percent(everything["top1"]["value"], 0),
            note=_interval_text(everything["top1"]),
        ),
        Key(
            name="macro-F1",
            value=decimals(judged["macro_f1"], 2),
            note="of species with 20 or more",
        ),
    ]
    if judged["blanks"] is not None:
        chosen = judged["blanks"]["chosen"]
        lost = f"{percent(chosen['missed'])} of animals lost with them"
        keys.append(Key(name="called blank", value=percent(chosen["called"], 0), note=lost))
    sites = f"of {count(everything['num_sites'])} sites, {count(judged['num_images'])} images"
    return [*keys, Key(name="sequences", value=large(judged["num_sequences"]), note=sites)]


def _interval_text(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return ""
    return f"{percent(estimate['low'], 0)} to {percent(estimate['high'], 0)} with other sites"
