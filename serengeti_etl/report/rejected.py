"""What is left of photographs that were rejected, read from where they came from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.fetch import Wanted, fetch_in_order
from serengeti_etl.convert.planned import source_of
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.dataset.rejects import NO_NAME, read_rejects
from serengeti_etl.errors import ImageError, SerengetiError
from serengeti_etl.report.samples import lowest
from serengeti_etl.report.thumbnails import Thumbnail, preview

PER_REASON = 3
"""Photographs that are looked at for each reason."""

DECODABLE = ("truncated", "corrupt", "too_small", "checksum", "missing", "forbidden", "unreadable")
"""Reasons of which something may be seen, or by now all. What killed a worker is not among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Photographs rejected for one reason.

    Attributes:
        name: such as ``truncated``.
        num_images: of them.
        examples: file names and messages of some.
        thumbs: what is left of some.
    """

    name: str
    num_images: int
    examples: tuple[tuple[str, str], ...]
    thumbs: tuple[Thumbnail, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """All rejected photographs.

    Attributes:
        reasons: the most frequent first.
        by_site: number of them at each site.
        note: why some are not shown; "" if there is nothing to say.
    """

    reasons: tuple[Reason, ...]
    by_site: Mapping[str, int]
    note: str = ""


def read_rejected(dataset: Dataset, pipeline: SeasonPipeline | None) -> Rejected:
    """The rejected photographs of ``dataset``, with pictures if it is known where they lie.

    Args:
        dataset: whose.
        pipeline: that made it; None if unknown.

    Raises:
        DatasetError: a file of rejects is damaged.
        OSError: one is missing, or the store failed on every try.
    """
    rejects = read_rejects(dataset.store, dataset.info.shards, dataset.info.editions)
    rejects = rejects.filter(pc.equal(rejects["state"], "rejected"))
    sites = Counter(rejects["site"].to_pylist())
    counts = Counter(rejects["reason"].to_pylist())
    samples = {name: _lowest_of(rejects, name) for name in counts}
    thumbs, note = _thumbs(samples, pipeline)
    reasons = (
        Reason(
            name=name,
            num_images=count,
            examples=tuple((row["file_name"], row["message"]) for row in samples[name]),
            thumbs=tuple(thumbs.get(name, ())),
        )
        for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    return Rejected(
        reasons=tuple(reasons),
        by_site={name or NO_NAME: count for name, count in sites.items()},
        note=note,
    )


def _lowest_of(rejects: pa.Table, reason: str) -> list[dict[str, Any]]:
    return lowest(rejects.filter(pc.equal(rejects["reason"], reason)), PER_REASON)


def _thumbs(
    samples: Mapping[str, Sequence[dict[str, Any]]], pipeline: SeasonPipeline | None
) -> tuple[dict[str, list[Thumbnail]], str]:
    """Pictures by reason, and a note on those that there are none of."""
    rows = [row for name in DECODABLE for row in samples.get(name, ())]
    if not rows:
        return {}, ""
    if pipeline is None:
        return {}, (
            "Where the photographs came from is not kept in a dataset: to see what is left of "
            "rejected ones, make this report again with --pipeline FILE."
        )
    if pipeline.archives:
        return {}, "The photographs lie in archives, which this report does not open."
    source = source_of(pipeline).at(pipeline.images_folder)
    wanted = [Wanted(file_name=row["file_name"]) for row in rows]
    thumbs: dict[str, list[Thumbnail]] = {}
    try:
        for row, content in zip(rows, fetch_in_order(source, wanted), strict=True):
            shown = None if isinstance(content, ImageError) else _preview(row, content)
            if shown is not None:
                thumbs.setdefault(row["reason"], []).append(shown)
    except (OSError, SerengetiError) as error:
        return thumbs, f"The photographs' own store could not be read: {error}"
    return thumbs, "" if thumbs else "Nothing can be seen of those that were looked at."


def _preview(row: Mapping[str, Any], content: bytes) -> Thumbnail | None:
    name, reason = row["file_name"], row["reason"]
    return preview(
        content, f"what is left of {name}, rejected as {reason}", name.rsplit("/", 1)[-1]
    )
