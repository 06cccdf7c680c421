"""Every image of the catalog in exactly one state: the sums balance, or something is lost."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from serengeti_etl.errors import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Counts of images by what became of them.

    Attributes:
        num_images: rows of the catalog.
        num_in_shards: images in a tar.
        rejected: images that could not be used, by reason.
        excluded: images kept out by a rule of the plan, by rule.
        duplicates: further rows of an image that is already there, by kind.
    """

    num_images: int
    num_in_shards: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def count(num_images: int, num_in_shards: int, rejects: Iterable[pa.Table]) -> "Ledger":
        """The ledger of these rows of ``REJECT_SCHEMA`` and numbers."""
        pairs: Counter[tuple[str, str]] = Counter()
        for table in rejects:
            columns = (table["state"].to_pylist(), table["reason"].to_pylist())
            pairs.update(zip(*columns, strict=True))

        def of(wanted: str) -> dict[str, int]:
            return {reason: n for (state, reason), n in sorted(pairs.items()) if state == wanted}

        return Ledger(
            num_images=num_images,
            num_in_shards=num_in_shards,
            rejected=of("rejected"),
            excluded=of("excluded"),
            duplicates=of("duplicate"),
        )

    @property
    def num_rejected(self) -> int:
        """Images that could not be used."""
        return sum(self.rejected.values())

    @property
    def num_accounted(self) -> int:
        """Images whose state is known."""
        left_out = sum(self.excluded.values()) + sum(self.duplicates.values())
        return self.num_in_shards + self.num_rejected + left_out

    def check(self) -> None:
        """Nothing, if the sums agree.

        Raises:
            DatasetError: images are unaccounted for, or counted twice.
        """
        if self.num_accounted != self.num_images:
            raise DatasetError(
                f"the ledger does not balance: {self.num_images} images in the catalog, "
                f"{self.num_accounted} accounted for; run `serengeti-etl verify`"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for dataset.json."""
        return asdict(self)
