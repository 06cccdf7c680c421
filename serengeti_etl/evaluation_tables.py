"""What an evaluation comes to, as text."""

from typing import TYPE_CHECKING, Any

from serengeti_etl.text_table import table_text

if TYPE_CHECKING:
    from serengeti_etl.evaluate.groups import Estimate
    from serengeti_etl.evaluate.judge import Evaluation

MAX_CONFUSIONS = 5
"""Shown; the rest is in evaluation.json."""


def evaluation_text(evaluation: "Evaluation") -> str:
    """Results by class, by part of the split, and the score beside that of class means."""
    return (
        _classes_text(evaluation)
        + _groups_text(evaluation)
        + _confusions_text(evaluation)
        + _blanks_text(evaluation)
        + _tuning_text(evaluation)
        + f"score (mean binary log loss, lower is better): {evaluation.score:.4f}\n"
        + f"score of predicting class means:               {evaluation.class_means_score:.4f}\n"
    )


def _classes_text(evaluation: "Evaluation") -> str:
    names = ("class", "sequences", "log loss", "of class means", "AP", "precision", "recall", "F1")
    rows = []
    for one in evaluation.classes:
        numbers = (one.log_loss, one.class_means_log_loss)
        shares = (one.average_precision, one.precision, one.recall, one.f1)
        cells = [*(f"{value:.4f}" for value in numbers), *(_share(value) for value in shares)]
        rows.append((one.name, one.support, *cells))
    title = f"{evaluation.split}: {evaluation.num_sequences} sequences"
    return table_text(title, names, rows)


def _groups_text(evaluation: "Evaluation") -> str:
    names = ("part", "sequences", "sites", "score", "95 % by site", "of class means", "top 1")
    rows: list[tuple[Any, ...]] = [
        (
            one.name if one.kind != "sites" else f"sites {one.name} in train",
            one.num_sequences,
            one.num_sites,
            _number(one.score.value),
            _interval(one.score),
            _number(one.class_means_score.value),
            _share(one.top1.value),
        )
        for one in evaluation.groups
    ]
    return table_text("parts", names, rows)


def _confusions_text(evaluation: "Evaluation") -> str:
    rows = [
        (f"{one.shown} as {one.taken_for}", one.count, f"{one.share:.0%}")
        for one in evaluation.confusions[:MAX_CONFUSIONS]
    ]
    return table_text("species most taken for others", ("pair", "sequences", "share"), rows)


def _blanks_text(evaluation: "Evaluation") -> str:
    if evaluation.blanks is None:
        return ""
    chosen = evaluation.blanks.chosen
    return (
        f"blanks (empty at {chosen.threshold:.3f} or more): {_percent(chosen.called)} of "
        f"sequences, {_percent(chosen.precision)} of them empty; "
        f"animals lost: {_percent(chosen.missed)}\n"
    )


def _tuning_text(evaluation: "Evaluation") -> str:
    tuning, macro = evaluation.tuning, evaluation.macro_f1
    lines = []
    if macro is not None:
        lines.append(f"macro-F1 of species with 20 sequences or more: {macro:.2f}\n")
    if tuning is not None:
        best = tuning.choice.aggregation
        itself = " itself, which flatters" if tuning.is_judged_split else ""
        methods = f"{best.animals} (empty: {best.empty}), temperatures"
        lines.append(
            f"score tuned on {tuning.tuned_on}{itself}: {tuning.score:.4f}, by {methods}\n"
        )
        if tuning.cross_score is not None:
            score = tuning.cross_score
            lines.append(f"score tuned on other sites than scored: {score:.4f}\n")
    return "".join(lines)


def _interval(estimate: "Estimate") -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:.4f}–{estimate.high:.4f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
