"""Parts of a split: by time of day, by site seen in train or not, by season; and each site.

Sequences of one site share background, camera and animals, and so are no independent witnesses.
Intervals are therefore of resampled sites: how the figures would vary with other camera places.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from serengeti_etl.evaluate.captures import UNKNOWN_HOUR, Captures, Strings
from serengeti_etl.evaluate.classes import MACRO_SUPPORT
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.train.metrics import binary_log_losses
from serengeti_etl.train.predictions import Flags, Float64, Predictions

CONFIDENCE = 0.95
"""Share of the resamples that lie within an interval, by percentiles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure, and how far it would vary with other sites.

    Attributes:
        value: over all sequences; None where it has no meaning.
        low: 2.5th percentile over resampled sites; None with fewer than two sites.
        high: 97.5th.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResult:
    """How one part of the sequences fares.

    Attributes:
        kind: ``all``, ``time``, ``sites`` or ``season``.
        name: such as ``night``, ``unseen`` or ``S1``.
        num_sequences: in the part.
        num_sites: that they are from.
        score: mean binary log loss.
        class_means_score: the same, when the training split's class means are predicted.
        skill: 1 less score by class means' score: 0 is no better, 1 is without fault.
        top1: share of the sequences that show a category whose likeliest category is shown.
        missed: share of the sequences with animals that are called blank.
        macro_f1: mean F1, at tuned thresholds, of species with 20 sequences in the part.
    """

    kind: str
    name: str
    num_sequences: int
    num_sites: int
    score: Estimate
    class_means_score: Estimate
    skill: Estimate
    top1: Estimate
    missed: Estimate
    macro_f1: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteResult:
    """How one site fares; attributes as of ``GroupResult``.

    Attributes:
        site: its name.
        is_seen: whether the model was trained on it.
        num_sequences: from it.
        score: mean binary log loss.
        class_means_score: of predicting class means.
        top1: share, 0 to 1.
        missed: share, 0 to 1.
    """

    site: str
    is_seen: bool
    num_sequences: int
    score: float
    class_means_score: float
    top1: float | None
    missed: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What was decided for each class, beside its probability.

    Attributes:
        means_C: class means of the training split.
        thresholds_C: for F1.
        empty: position of ``empty`` among the classes; None if it is no class.
        blank_threshold: probability of ``empty`` from which a sequence is called blank.
    """

    means_C: Float64
    thresholds_C: Float64
    empty: int | None
    blank_threshold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counts:
    """Sums over the sequences of sites; of resamples, where S stands for those."""

    sequences_S: Float64
    loss_S: Float64
    baseline_S: Float64
    labelled_S: Float64
    right_S: Float64
    animals_S: Float64
    missed_S: Float64
    shown_SC: Float64
    found_SC: Float64
    hits_SC: Float64

    def summed(self, weights_RS: Float64) -> "_Counts":
        """Sums over sites, each as often as ``weights_RS`` says."""
        return _Counts(**{one.name: weights_RS @ getattr(self, one.name) for one in fields(self)})


def group_results(
    sequences: Predictions, captures: Captures, decisions: Decisions, settings: EvaluationSettings
) -> tuple[GroupResult, ...]:
    """All sequences, then each part that has any; one part alone of its kind is left out.

    Args:
        sequences: predicted.
        captures: of the sequences, in the same order.
        decisions: see there.
        settings: hours, resamples and seed.
    """
    everything = np.ones(len(sequences.names), dtype=bool)
    parts: list[tuple[str, str, Flags]] = [("all", "all", everything)]
    for kind, masks in _masks(captures, settings).items():
        present = {name: mask_N for name, mask_N in masks.items() if mask_N.any()}
        if len(present) > 1:
            parts += [(kind, name, mask_N) for name, mask_N in present.items()]
    results = []
    for kind, name, mask_N in parts:
        counts = _counts(sequences.take(mask_N), captures.sites_N[mask_N], decisions)
        estimates = _estimates(counts, decisions.empty, settings)
        results.append(
            GroupResult(
                kind=kind,
                name=name,
                num_sequences=int(mask_N.sum()),
                num_sites=len(counts.sequences_S),
                **estimates,
            )
        )
    return tuple(results)


def site_results(
    sequences: Predictions, captures: Captures, decisions: Decisions
) -> tuple[SiteResult, ...]:
    """Each site by name; arguments as of ``group_results``."""
    counts = _counts(sequences, captures.sites_N, decisions)
    of_site = {name: statistic(counts) for name, statistic in _STATISTICS.items()}
    return tuple(
        SiteResult(
            site=site,
            is_seen=site in captures.train_sites,
            num_sequences=int(counts.sequences_S[at]),
            score=float(of_site["score"][at]),
            class_means_score=float(of_site["class_means_score"][at]),
            top1=_number(of_site["top1"][at]),
            missed=_number(of_site["missed"][at]),
        )
        for at, site in enumerate(sorted(set(captures.sites_N.tolist())))
    )


def resampled_sites(num_sites: int, settings: EvaluationSettings) -> Float64:
    """How often each site is drawn in each resample, (R, S); decided by the seed alone."""
    generator = np.random.Generator(np.random.Philox(key=settings.seed))
    even_S = np.full(num_sites, 1 / num_sites)
    draws_RS = generator.multinomial(num_sites, even_S, size=settings.num_resamples)
    return draws_RS.astype(np.float64)


def _masks(captures: Captures, settings: EvaluationSettings) -> dict[str, dict[str, Flags]]:
    hours_N, sites_N, seasons_N = captures.hours_N, captures.sites_N, captures.seasons_N
    dawn, dusk = settings.day_hours
    is_unknown_N = hours_N == UNKNOWN_HOUR
    is_day_N = (dawn <= hours_N) & (hours_N < dusk)
    is_seen_N = np.array([site in captures.train_sites for site in sites_N], dtype=bool)
    time = {"day": is_day_N, "night": ~is_day_N & ~is_unknown_N, "unknown": is_unknown_N}
    seasons = sorted(set(seasons_N.tolist()))
    return {
        "time": time,
        "sites": {"seen": is_seen_N, "unseen": ~is_seen_N},
        "season": {name: np.asarray(seasons_N == name) for name in seasons},
    }


def _counts(sequences: Predictions, sites_N: Strings, decisions: Decisions) -> _Counts:
    """Sums over each site's sequences, sites by name."""
    targets_NC, probabilities_NC = sequences.targets_NC, sequences.probabilities_NC
    shown_NC = targets_NC > 0
    found_NC = probabilities_NC >= decisions.thresholds_C
    top_N = probabilities_NC.argmax(axis=1)
    is_labelled_N, is_animal_N = shown_NC.any(axis=1), np.ones(len(shown_NC), dtype=bool)
    is_blank_N = ~is_animal_N
    if decisions.empty is not None:
        is_animal_N = ~shown_NC[:, decisions.empty]
        is_blank_N = probabilities_NC[:, decisions.empty] >= decisions.blank_threshold
    order, starts_S = _by_site(sites_N)

    def summed(values: Any) -> Float64:
        by_site = np.asarray(values, dtype=np.float64)[order]
        return np.asarray(np.add.reduceat(by_site, starts_S, axis=0))

    return _Counts(
        sequences_S=summed(np.ones(len(top_N))),
        loss_S=summed(binary_log_losses(targets_NC, probabilities_NC).mean(axis=1)),
        baseline_S=summed(binary_log_losses(targets_NC, decisions.means_C).mean(axis=1)),
        labelled_S=summed(is_labelled_N),
        right_S=summed(shown_NC[np.arange(len(top_N)), top_N]),
        animals_S=summed(is_animal_N),
        missed_S=summed(is_animal_N & is_blank_N),
        shown_SC=summed(shown_NC),
        found_SC=summed(found_NC),
        hits_SC=summed(shown_NC & found_NC),
    )


def _by_site(sites_N: Strings) -> tuple[Any, Any]:
    """The sequences in the order of their sites' names, and where each site starts."""
    numbers_N = np.unique(sites_N, return_inverse=True)[1]
    counts_S = np.bincount(numbers_N)
    return np.argsort(numbers_N, kind="stable"), np.cumsum(counts_S) - counts_S


def _estimates(
    counts: _Counts, empty: int | None, settings: EvaluationSettings
) -> dict[str, Estimate]:
    num_sites = len(counts.sequences_S)
    total = counts.summed(np.ones((1, num_sites)))
    is_counted_C = total.shown_SC[0] >= MACRO_SUPPORT
    if empty is not None:
        is_counted_C[empty] = False
    resamples = counts.summed(resampled_sites(num_sites, settings))
    statistics = _STATISTICS | {"macro_f1": lambda sums: _macro_f1(sums, is_counted_C)}
    return {
        name: _estimate(statistic(total)[0], statistic(resamples), is_varied=num_sites > 1)
        for name, statistic in statistics.items()
    }


def _estimate(value: float, resampled_R: Float64, *, is_varied: bool) -> Estimate:
    known_R = resampled_R[np.isfinite(resampled_R)]
    if not is_varied or not len(known_R):
        return Estimate(value=_number(value), low=None, high=None)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known_R, [tail, 100 - tail])
    return Estimate(value=_number(value), low=float(low), high=float(high))


def _ratio(part: Float64, whole: Float64) -> Float64:
    """NaN where there is no whole."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _macro_f1(sums: _Counts, is_counted_C: Flags) -> Float64:
    """Over the species that a resample shows or finds at all."""
    total_RC = (sums.shown_SC + sums.found_SC)[:, is_counted_C]
    f1_RC = _ratio(2 * sums.hits_SC[:, is_counted_C], total_RC)
    return _ratio(np.nansum(f1_RC, axis=1), (total_RC > 0).sum(axis=1).astype(np.float64))


_STATISTICS: dict[str, Callable[[_Counts], Float64]] = {
    "score": lambda sums: _ratio(sums.loss_S, sums.sequences_S),
    "class_means_score": lambda sums: _ratio(sums.baseline_S, sums.sequences_S),
    "skill": lambda sums: 1 - _ratio(sums.loss_S, sums.baseline_S),
    "top1": lambda sums: _ratio(sums.right_S, sums.labelled_S),
    "missed": lambda sums: _ratio(sums.missed_S, sums.animals_S),
}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
