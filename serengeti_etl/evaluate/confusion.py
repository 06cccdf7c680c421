"""Which species are taken for which, by the likeliest species of each sequence with animals."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from serengeti_etl.evaluate.classes import share
from serengeti_etl.train.predictions import Float64, Int64, Predictions

MAX_PAIRS = 20

LOOK_ALIKES = (
    ("gazellegrants", "gazellethomsons", "impala"),
    ("hartebeest", "topi", "eland"),
    ("bushbuck", "reedbuck", "waterbuck", "kudu"),
    ("dikdik", "duiker", "steenbok"),
    ("buffalo", "cattle", "wildebeest"),
    ("aardwolf", "hyenabrown", "hyenaspotted", "hyenastriped", "wilddog"),
    ("caracal", "cheetah", "civet", "genet", "leopard", "serval", "wildcat"),
    ("lioncub", "lionfemale", "lionmale"),
    ("batearedfox", "jackal"),
    ("honeybadger", "mongoose", "zorilla"),
    ("hare", "rodents"),
    ("guineafowl", "koribustard", "ostrich", "otherbird", "secretarybird", "vulture"),
)
"""Species of Serengeti that people confuse too, by their letters alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """A species taken for another.

    Attributes:
        shown: what the sequence shows.
        taken_for: its likeliest species, which it does not show.
        count: sequences.
        share: of the sequences that show ``shown``, 0 to 1.
    """

    shown: str
    taken_for: str
    count: int
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LookAlikes:
    """Some species that look alike, and how well they are told apart.

    Attributes:
        names: those of them that are classes.
        support: sequences with one of them; once for each that is shown.
        right: of these, whose likeliest species is shown; 0 to 1, None without support.
        within: of these, taken for another of the group.
        outside: of these, taken for a species outside of it.
    """

    names: tuple[str, ...]
    support: int
    right: float | None
    within: float | None
    outside: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TopSpecies:
    """The likeliest species of sequences, against what they show.

    Attributes:
        classes: all categories.
        shown_M: a category that a sequence shows; each of several has a row.
        taken_for_M: the likeliest species of that sequence.
        is_right_M: whether the sequence shows that.
    """

    classes: tuple[str, ...]
    shown_M: Int64
    taken_for_M: Int64
    is_right_M: Float64


def top_species(sequences: Predictions, classes: tuple[str, ...], empty: int | None) -> TopSpecies:
    """One row for each species that a sequence shows.

    Args:
        sequences: predicted.
        classes: categories in the order of the columns.
        empty: position of ``empty`` among the classes; None if it is no class.
    """
    scores_NC, targets_NC = sequences.probabilities_NC.copy(), sequences.targets_NC.copy()
    if empty is not None:
        scores_NC[:, empty], targets_NC[:, empty] = -1, 0
    top_N = scores_NC.argmax(axis=1)
    rows_M, shown_M = np.nonzero(targets_NC)
    taken_for_M = top_N[rows_M]
    return TopSpecies(
        classes=classes,
        shown_M=shown_M.astype(np.int64),
        taken_for_M=taken_for_M.astype(np.int64),
        is_right_M=targets_NC[rows_M, taken_for_M],
    )


def confusions(top: TopSpecies) -> tuple[Confusion, ...]:
    """The most frequent ones, at most ``MAX_PAIRS``."""
    supports = Counter(top.shown_M.tolist())
    wrong_M = top.is_right_M == 0
    pairs = Counter(
        zip(top.shown_M[wrong_M].tolist(), top.taken_for_M[wrong_M].tolist(), strict=True)
    )
    largest = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_PAIRS]
    return tuple(
        Confusion(
            shown=top.classes[shown],
            taken_for=top.classes[taken_for],
            count=count,
            share=count / supports[shown],
        )
        for (shown, taken_for), count in largest
    )


def look_alikes(top: TopSpecies) -> tuple[LookAlikes, ...]:
    """The groups of ``LOOK_ALIKES`` of which two or more are classes."""
    place_of = {_letters(name): at for at, name in enumerate(top.classes)}
    groups = [[place_of[name] for name in group if name in place_of] for group in LOOK_ALIKES]
    return tuple(_look_alikes(top, group) for group in groups if len(group) > 1)


def _look_alikes(top: TopSpecies, group: list[int]) -> LookAlikes:
    of_group_M = np.isin(top.shown_M, group)
    right_M = top.is_right_M[of_group_M] == 1
    is_within_M = np.isin(top.taken_for_M[of_group_M], group) & ~right_M
    support, right, within = int(of_group_M.sum()), int(right_M.sum()), int(is_within_M.sum())
    return LookAlikes(
        names=tuple(top.classes[at] for at in group),
        support=support,
        right=share(right, support),
        within=share(within, support),
        outside=share(support - right - within, support),
    )


def _letters(name: str) -> str:
    """The name's letters: ``Gazelle_Grant's`` and ``gazellegrants`` are the same."""
    return "".join(letter for letter in name.lower() if letter.isalpha())
