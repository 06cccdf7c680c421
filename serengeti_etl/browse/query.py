"""Filters over all images: which rows, in which order, and how many other choices would give."""

import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serengeti_etl.browse.filters import FACETS, Facet, Filter
from serengeti_etl.browse.images import NO_TIME, Codes, Flags, Images, Int32
from serengeti_etl.browse.predictions import Predictions

_NUM_KEPT = 4
_SECONDS_PER_DAY = 86_400
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a filter lets through.

    Attributes:
        rows_M: of the images, in the wanted order.
        num_sequences: that they belong to.
        counts: for each facet, how many images each of its values would give beside what is
            chosen in the others; those that would give none are left out.
    """

    rows_M: Int32
    num_sequences: int
    counts: dict[Facet, dict[str, int]]

    def place(self, row: int) -> int | None:
        """Where an image is among them; None if it is not."""
        (at,) = np.nonzero(self.rows_M == row)
        return int(at[0]) if len(at) else None


class Query:
    """Answers filters, one at a time, and remembers the last few answers.

    Args:
        images: to choose from.
        predictions: of them; without, no filter on predictions lets anything through.
    """

    def __init__(self, images: Images, predictions: Predictions | None) -> None:
        self.images, self.predictions = images, predictions
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Found] = OrderedDict()

    def find(self, wanted: Filter) -> Found:
        """What the filter lets through."""
        key = wanted.query()
        with self._lock:  # a few at a time would need as many times the memory
            if key not in self._kept:
                self._kept[key] = self._find(wanted)
            self._kept.move_to_end(key)
            while len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def days(self) -> tuple[dt.date, dt.date] | None:
        """The first and last day of any image; None if none has a time."""
        seconds_N = self.images.seconds_N
        known_M = seconds_N[seconds_N != NO_TIME]
        if not len(known_M):
            return None
        first, last = (int(value) // _SECONDS_PER_DAY for value in (known_M.min(), known_M.max()))
        return _EPOCH + dt.timedelta(first), _EPOCH + dt.timedelta(last)

    def _find(self, wanted: Filter) -> Found:
        masks = {facet: self._mask(facet, wanted) for facet in wanted.chosen}
        base = self._base(wanted)
        counts: dict[Facet, dict[str, int]] = {}
        for facet in FACETS:
            others = [mask for name, mask in masks.items() if name != facet]
            counts[facet] = self._counts(facet, _all_of([*base, *others]))
        mask_N = _all_of([*base, *masks.values()])
        rows_M = self._ordered(wanted, mask_N)
        per_sequence = np.bincount(self.images.sequence_N[rows_M])
        return Found(
            rows_M=rows_M, num_sequences=int(np.count_nonzero(per_sequence)), counts=counts
        )

    def _base(self, wanted: Filter) -> list[Flags]:
        """What holds whatever is chosen in the facets."""
        seconds_N = self.images.seconds_N
        masks = []
        if wanted.since is not None:
            masks.append(seconds_N >= _seconds(wanted.since))
        if wanted.until is not None:
            masks.append(seconds_N < _seconds(wanted.until) + _SECONDS_PER_DAY)
        if wanted.since is not None or wanted.until is not None:
            masks.append(seconds_N != NO_TIME)
        said = self.predictions
        if said is None:
            wants_said = wanted.is_wrong or wanted.order != "place"
            return [*masks, *([np.zeros(len(self.images), np.bool_)] * wants_said)]
        if wanted.is_wrong:
            masks.append(said.is_wrong_N)
        if wanted.order != "place":
            masks.append(said.codes_N >= 0)
        return masks

    def _mask(self, facet: Facet, wanted: Filter) -> Flags:
        chosen = wanted.chosen[facet]
        names, codes_N = self._column(facet)
        is_chosen_V: Flags = np.array([name in chosen for name in names], np.bool_)
        if facet == "category":
            is_chosen_V = np.asarray(self.images.shows_LC[:, is_chosen_V].any(axis=1))
        # The last place is that of -1, nothing said.
        is_chosen: Flags = np.append(is_chosen_V, np.False_)[codes_N]
        return is_chosen

    def _column(self, facet: Facet) -> tuple[Sequence[str], Codes]:
        """Values of a facet, and their numbers; of categories the numbers of their combinations."""
        if facet == "category":
            return self.images.categories, self.images.columns["labels"].codes_N
        if facet == "predicted":
            said = self.predictions
            if said is None:
                return (), np.full(len(self.images), -1, np.int32)
            return said.names, said.codes_N
        column = self.images.columns[facet]
        return column.names, column.codes_N

    def _counts(self, facet: Facet, mask_N: Flags | None) -> dict[str, int]:
        names, codes_N = self._column(facet)
        some_M = codes_N if mask_N is None else codes_N[mask_N]
        if facet == "category":
            num_combinations = len(self.images.shows_LC)
            counts_V = np.bincount(some_M, minlength=num_combinations) @ self.images.shows_LC
        elif facet == "predicted":
            counts_V = np.bincount(some_M + 1, minlength=len(names) + 1)[1:]
        else:
            counts_V = np.bincount(some_M, minlength=len(names))
        return {name: int(n) for name, n in zip(names, counts_V, strict=True) if n}

    def _ordered(self, wanted: Filter, mask_N: Flags | None) -> Int32:
        order_N = self.images.order_N
        rows_M = order_N if mask_N is None else order_N[mask_N[order_N]]
        if wanted.order == "place" or self.predictions is None:
            return rows_M
        probability_M = self.predictions.probability_N[rows_M]
        sign = -1 if wanted.order == "sure" else 1
        return rows_M[np.argsort(sign * probability_M, kind="stable")]


def _all_of(masks: Sequence[Flags]) -> Flags | None:
    """Where all hold; None for everywhere."""
    return np.logical_and.reduce(masks) if masks else None


def _seconds(day: dt.date) -> int:
    return (day - _EPOCH).days * _SECONDS_PER_DAY
