"""A catalog written as Camtrap DP 1.0.2: what ``read_camtrap_dp`` reads back to the same catalog.

What the format has no place for goes into ``observationTags`` and ``exifData``. Same tables, same
bytes.
"""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.camtrap_dp.csv_lines import csv_header, csv_lines
from serengeti_etl.catalog.camtrap_dp.description import data_package
from serengeti_etl.catalog.camtrap_dp.frames import (
    deployments_of,
    deployments_table,
    frames_of,
    media_of,
)
from serengeti_etl.catalog.camtrap_dp.observations import Observations, spool
from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.words import DATA_PACKAGE
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store


def write_camtrap_dp(
    images: pa.Table,
    annotations: Iterable[pa.RecordBatch],
    output: Store,
    settings: CamtrapDpSettings,
) -> int:
    """Number of images left out, after writing the rest as a Camtrap DP at ``output``.

    Left out are those without date and time, and their annotations: the format demands a time.

    Args:
        images: rows of ``CATALOG_SCHEMA``.
        annotations: rows of ``ANNOTATION_SCHEMA``, in parts.
        output: folder or bucket prefix for three tables and, last, datapackage.json.
        settings: what a catalog does not know.

    Raises:
        CatalogError: no image has a date and time.
        ConfigError: a site has no coordinates. In both cases nothing is written.
    """
    dated = images.filter(pc.is_valid(images["datetime"])).combine_chunks()
    if dated.num_rows == 0:
        raise without_times(images.num_rows)
    frames = frames_of(dated, settings.utc_offset)
    deployments = deployments_table(deployments_of(frames), settings)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "annotations.parquet"
        is_unique = spool(annotations, path)
        observations = Observations(keeps_ids=is_unique)
        _upload(output, folder, "deployments", [deployments])
        _upload(output, folder, "media", media_of(frames))
        _upload(output, folder, "observations", observations.tables(frames, path))
    output.write_json(DATA_PACKAGE, data_package(deployments, observations, settings))
    return int(images.num_rows - dated.num_rows)


def _upload(output: Store, folder: Path, name: str, tables: Iterable[pa.Table]) -> None:
    path = folder / f"{name}.csv"
    with path.open("wb") as file:
        file.write(csv_header(name))
        for table in tables:
            file.writelines(csv_lines(name, table))
    output.upload(path, path.name)


def without_times(num_images: int) -> CatalogError:
    """What is wrong where no image has a time."""
    return CatalogError(
        f"none of {num_images} images has a date and time, which Camtrap DP demands of each: "
        "export them as coco"
    )
