"""Editions: what each plan of a dataset added to it. Shards of earlier ones stay as they are.

The first edition is the first conversion. A catalog that has grown adds one of the new images, and
so does trying rejected photographs again: ``plan/retried.parquet`` has their rejects as they were,
which count no more. Of both plan tables the first rows are those of the first edition, and so on:
however much a later edition has written, an earlier one finds its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

RETRIED_FILE = "plan/retried.parquet"

Kind = Literal["catalog", "retry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edition:
    """What one plan added.

    Attributes:
        kind: ``catalog``, images that no shard had before; ``retry``, rejects tried again.
        num_shards: how many it added.
        num_images: images of their plans.
    """

    kind: Kind
    num_shards: int
    num_images: int


def parse_editions(value: Any) -> tuple[Edition, ...]:
    """The editions of a JSON list. Raises TypeError or ValueError."""
    editions = tuple(Edition(**one) for one in value)
    for edition in editions:
        numbers = (edition.num_shards, edition.num_images)
        if edition.kind not in ("catalog", "retry") or {*map(type, numbers)} != {int}:
            raise ValueError(f"no edition: {edition}")
    return editions


def num_retried(editions: Iterable[Edition]) -> int:
    """Rows of ``RETRIED_FILE`` that belong to these editions: the first ones."""
    return sum(edition.num_images for edition in editions if edition.kind == "retry")
