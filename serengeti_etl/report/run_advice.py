"""What a person should look at in an evaluation, in sentences that say what to do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serengeti_etl.report.advice import named
from serengeti_etl.report.pages import decimals, percent

COUNTED_SUPPORT, FEW_SITES, POOR_CALIBRATION, MUCH_MISSED, MUCH_WORSE = 20, 5, 0.05, 0.02, 0.15

_BY_NIGHT = "At night {worse} of the likeliest categories are right, by day {better}."
_ELSEWHERE = (
    "At sites that were not trained on {worse} of the likeliest categories are right, at others "
    "{better}."
)
_PAIRS = (("time", "day", "night", _BY_NIGHT), ("sites", "seen", "unseen", _ELSEWHERE))


def evaluation_advice(judged: Mapping[str, Any]) -> list[str]:
    """What someone should look at; [] if nothing.

    Args:
        judged: as ``evaluation.json`` has it.
    """
    return [
        *_score(judged),
        *_classes(judged["classes"]),
        *_groups(judged["groups"]),
        *_calibration(judged["reliability"]["ece"]),
        *_blanks(judged["blanks"]),
        *_tuning(judged),
    ]


def _score(judged: Mapping[str, Any]) -> Iterator[str]:
    score, means = judged["score"], judged["class_means_score"]
    if score >= means:
        yield (
            f"The score {decimals(score)} is no better than predicting class means "
            f"({decimals(means)}): train longer, or look whether labels and photographs belong "
            "together."
        )
    num_sites = judged["groups"][0]["num_sites"]
    if num_sites < FEW_SITES:
        yield f"All is from {num_sites} sites: intervals of so few say little of other places."


def _classes(classes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = [one for one in classes if one["support"]]
    counted = [one for one in shown if one["support"] >= COUNTED_SUPPORT]
    never = [one["name"] for one in counted if not one["recall"]]
    if never:
        yield f"Never predicted at 0.5, though often shown: {named(never)}."
    worse = [one["name"] for one in shown if one["log_loss"] > one["class_means_log_loss"]]
    if worse:
        yield f"Worse than predicting how common they are: {named(worse)}."
    few = [one["name"] for one in shown if one["support"] < COUNTED_SUPPORT]
    if few:
        yield (
            f"Shown by fewer than {COUNTED_SUPPORT} sequences, so that their figures mean little: "
            f"{named(few)}."
        )


def _groups(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rates = {(one["kind"], one["name"]): one["top1"]["value"] for one in groups}
    for kind, better, worse, text in _PAIRS:
        high, low = rates.get((kind, better)), rates.get((kind, worse))
        if high is not None and low is not None and high - low > MUCH_WORSE:
            yield text.format(better=percent(high, 0), worse=percent(low, 0))


def _calibration(ece: float) -> Iterator[str]:
    if ece > POOR_CALIBRATION:
        yield (
            f"Probabilities are off by {percent(ece)} on average: do not read them as such before "
            "they are tempered, as evaluation.json has it under tuning."
        )


def _blanks(blanks: Mapping[str, Any] | None) -> Iterator[str]:
    if blanks is not None and (blanks["chosen"]["missed"] or 0) > MUCH_MISSED:
        yield (
            f"{percent(blanks['chosen']['missed'])} of sequences with animals are called blank at "
            f"{decimals(blanks['chosen']['threshold'], 3)}: give a higher --blank-threshold."
        )


def _tuning(judged: Mapping[str, Any]) -> Iterator[str]:
    if judged.get("tuning") and judged["tuning"]["is_judged_split"]:
        yield f"Thresholds were tuned on {judged['split']} itself, which flatters F1 and blanks."
