"""Which sites become val, so that every category has its share there: a seeded search.

Published iterative stratification (Sechidis et al. 2011) and the packages that implement it place
single samples; a site is a bag of thousands, a few hundred sites in all. So we start from
seeded draws, move or swap sites while that brings the categories' shares nearer to the wanted one,
and keep the best.
All sums are whole numbers: every machine finds the same sites.
"""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

_PPM = 1_000_000
_NUM_STARTS = 32
_MAX_NUM_MOVES = 1000
_MAX_NUM_SWAPS = 100_000
"""Pairs that are tried at one move; with more sites than give so many, only single moves are."""


def choose_val(
    counts_SC: Counts, val_ppm: int, pinned_S: npt.NDArray[np.int8] | None = None
) -> npt.NDArray[np.bool_]:
    """True for each site that goes to ``val``.

    Args:
        counts_SC: images of each category (columns) at each site (rows). The order of the rows is
            the seeded draw: the first sites are those to start from.
        val_ppm: wanted share of ``val``, in millionths.
        pinned_S: 1 for sites that are in ``val`` whatever comes, 0 for those that are not, -1 for
            those to choose from; None chooses from all.
    """
    num_sites = len(counts_SC)
    pinned_S = np.full(num_sites, -1, dtype=np.int8) if pinned_S is None else pinned_S
    search = _Search(counts_SC, val_ppm, pinned_S < 0)
    num_starts = min(_NUM_STARTS, num_sites)
    starts = [start * num_sites // num_starts for start in range(num_starts)]
    draws = [_drawn(counts_SC.sum(axis=1), val_ppm, start) for start in starts]
    found = [search.run(np.where(pinned_S < 0, is_val, pinned_S > 0)) for is_val in draws]
    # The first of the best: the order of the sites, and so the seed, decides among equals.
    return min(found, key=search.loss_of)


def _drawn(sizes_S: Counts, val_ppm: int, start: int) -> npt.NDArray[np.bool_]:
    """The sites from ``start`` on, up to the wanted share of images; one at least, not all."""
    order = np.roll(np.arange(len(sizes_S)), -start)
    before = np.cumsum(sizes_S[order]) - sizes_S[order]
    chosen = before * _PPM < val_ppm * sizes_S.sum()
    chosen[0] = True
    chosen[-1] &= len(chosen) == 1
    is_val = np.zeros(len(sizes_S), dtype=np.bool_)
    is_val[order[chosen]] = True
    return is_val


class _Search:
    """How far a choice of sites is from the wanted shares, and the step that brings it nearest."""

    def __init__(self, counts_SC: Counts, val_ppm: int, is_free_S: npt.NDArray[np.bool_]) -> None:
        self.counts_SC = counts_SC
        self.is_free_S = is_free_S
        self.totals_C = counts_SC.sum(axis=0)
        self.wanted_ppm = val_ppm
        # A category of one site can only be on one side: it is not missed on the other.
        self.is_divisible_C = (counts_SC > 0).sum(axis=0) > 1

    def loss(self, val_NC: Counts) -> Counts:
        """Distance of each of N choices, from the images of each category that they put in val."""
        shares_NC = val_NC * _PPM // np.maximum(self.totals_C, 1)
        off_NC = np.abs(shares_NC - self.wanted_ppm)
        # Missing on one side is worse than any share.
        is_missing_NC = ((val_NC == 0) | (val_NC == self.totals_C)) & self.is_divisible_C
        by_category_N = ((off_NC + _PPM * is_missing_NC) * (self.totals_C > 0)).sum(axis=1)
        share_N = val_NC.sum(axis=1) * _PPM // max(1, self.totals_C.sum())
        # The share of all images weighs half as much as those of all categories together.
        weight = 1 + len(self.totals_C) // 2
        distance_N: Counts = by_category_N + weight * np.abs(share_N - self.wanted_ppm)
        return distance_N

    def loss_of(self, is_val: npt.NDArray[np.bool_]) -> int:
        """Distance of one choice of sites."""
        return int(self.loss(self.counts_SC[is_val].sum(axis=0)[None])[0])

    def run(self, is_val: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The choice that is reached from ``is_val`` by steps that each come nearer."""
        for _ in range(_MAX_NUM_MOVES):
            better = self.best_move(is_val)
            if better is None:
                break
            is_val[list(better)] ^= True
        return is_val

    def best_move(self, is_val: npt.NDArray[np.bool_]) -> tuple[int, ...] | None:
        """The site, or two sites, to move; None when no step is better."""
        val_C = self.counts_SC[is_val].sum(axis=0)
        current = self.loss_of(is_val)
        signs_S = np.where(is_val, -1, 1)
        losses_S = self.loss(val_C + signs_S[:, None] * self.counts_SC)
        # Neither side may lose its last site.
        for side in (is_val, ~is_val):
            if side.sum() == 1:
                losses_S[side] = np.iinfo(np.int64).max
        losses_S[~self.is_free_S] = np.iinfo(np.int64).max
        best = int(np.argmin(losses_S))
        if losses_S[best] < current:
            return (best,)
        return self._best_swap(is_val, val_C, current)

    def _best_swap(
        self, is_val: npt.NDArray[np.bool_], val_C: Counts, current: int
    ) -> tuple[int, ...] | None:
        out_V = np.flatnonzero(is_val & self.is_free_S)
        in_T = np.flatnonzero(~is_val & self.is_free_S)
        if not 0 < len(out_V) * len(in_T) <= _MAX_NUM_SWAPS:
            return None
        best: tuple[int, ...] | None = None
        for leaving in out_V:
            losses_T = self.loss(val_C - self.counts_SC[leaving] + self.counts_SC[in_T])
            at = int(np.argmin(losses_T))
            if losses_T[at] < current:
                current, best = int(losses_T[at]), (int(leaving), int(in_T[at]))
        return best
