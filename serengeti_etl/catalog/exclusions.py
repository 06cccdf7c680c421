"""For each image of a catalog the first rule that keeps it out, if one does."""

from typing import Any

import numpy as np
import pyarrow as pa

from serengeti_etl.catalog.sequences import Mask


class Exclusions:
    """Which images are kept, and which rule keeps out each of the others.

    Args:
        num_images: rows of the catalog.
    """

    def __init__(self, num_images: int) -> None:
        # 0: kept; k: kept out by rule k - 1. A byte per image, not a string.
        self._codes = np.zeros(num_images, dtype=np.int8)
        self._rules: list[tuple[str, str, str]] = []

    @property
    def kept(self) -> Mask:
        """True for the images that no rule keeps out."""
        return np.equal(self._codes, 0)

    def exclude(self, where: Any, reason: str, message: str, *, state: str = "excluded") -> None:
        """Keep out the images ``where`` that no earlier rule kept out.

        Args:
            where: True for the images that the rule is about: one value per image of the catalog,
                or one per image that is still kept.
            reason: short, for counting.
            message: one sentence for a person.
            state: ``excluded``, or ``duplicate``.
        """
        mask = np.asarray(where)
        self._rules.append((state, reason, message))
        places = np.flatnonzero(self.kept)
        if len(mask) == len(self._codes):
            mask = mask[places]
        self._codes[places[mask]] = len(self._rules)

    def rows(self, catalog: pa.Table) -> pa.Table:
        """The images that are kept out, with ``state``, ``reason`` and ``message``."""
        table = catalog.filter(pa.array(~self.kept))
        codes = pa.array(self._codes[~self.kept] - 1)
        for at, name in enumerate(("state", "reason", "message")):
            values = pa.array([rule[at] for rule in self._rules], pa.string())
            table = table.append_column(name, values.take(codes))
        return table
