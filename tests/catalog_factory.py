"""Catalogs for tests: made in memory, or read from a label file as a pipeline would."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.catalog.checks import Finding, Overview
from serengeti_etl.catalog.read import read_labels
from serengeti_etl.catalog.table import CATALOG_ORDER, CATALOG_SCHEMA
from serengeti_etl.config import SeasonPipeline


def make_catalog(columns: dict[str, Any]) -> pa.Table:
    """The sorted catalog of these columns; those that are left out are null."""
    num_images = len(columns["image_id"])
    arrays = [columns.get(field.name, [None] * num_images) for field in CATALOG_SCHEMA]
    table = pa.table(arrays, schema=CATALOG_SCHEMA)
    return table.sort_by([(name, "ascending") for name in CATALOG_ORDER]).combine_chunks()


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What a label file came to.

    Attributes:
        images: rows of the catalog.
        annotations: rows beside it.
        table: the catalog itself.
        findings: by name.
        overview: counts.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    table: pa.Table
    findings: dict[str, Finding]
    overview: Overview

    def image(self, image_id: str) -> dict[str, Any]:
        """The row of one image."""
        (row,) = [row for row in self.images if row["image_id"] == image_id]
        return row


def read_file(folder: Path, labels: str, **settings: Any) -> Read:
    """The label file ``labels`` of ``folder``, read by a pipeline with these settings."""
    pipeline = SeasonPipeline(name="read", source=str(folder), labels=labels, **settings)
    with TemporaryDirectory() as scratch:
        found = read_labels(pipeline, Path(scratch))
        annotations = pq.ParquetFile(found.annotations_path).read(use_threads=False)
    return Read(
        images=found.images.to_pylist(),
        annotations=annotations.to_pylist(),
        table=found.images,
        findings={one.name: one for one in found.findings},
        overview=found.overview,
    )
