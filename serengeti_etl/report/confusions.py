"""The species that are most often taken for each other."""

from dataclasses import dataclass

import numpy as np

from serengeti_etl.label_config import EMPTY
from serengeti_etl.report.predicted import Predicted

MAX_HEAT = 14
"""Species that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatRow:
    """One species, and what it was taken for.

    Attributes:
        name: what is shown.
        support: sequences that show it.
        counts: of them by the likeliest species, in the order of all rows.
        others: taken for a species that is no row.
    """

    name: str
    support: int
    counts: tuple[int, ...]
    others: int


def heat_rows(predicted: Predicted) -> list[HeatRow]:
    """The species that are most often taken for each other, and how often."""
    taken_CC = predicted.taken_CC
    wrong_CC = taken_CC - np.diag(np.diag(taken_CC))
    involved_C = wrong_CC.sum(axis=0) + wrong_CC.sum(axis=1)
    order = np.argsort(-involved_C, kind="stable")[:MAX_HEAT]
    chosen = [at for at in sorted(order.tolist()) if involved_C[at]]
    return [
        HeatRow(
            name=predicted.classes[at],
            support=int(taken_CC[at].sum()),
            counts=tuple(taken_CC[at, chosen].tolist()),
            others=int(taken_CC[at].sum() - taken_CC[at, chosen].sum()),
        )
        for at in chosen
        if predicted.classes[at] != EMPTY
    ]
