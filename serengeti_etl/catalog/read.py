"""The catalog of a pipeline's label file, whatever its format."""

import pyarrow as pa

from serengeti_etl.catalog.coco import read_coco
from serengeti_etl.catalog.flat_csv import read_flat_csv
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.errors import ConfigError
from serengeti_etl.storage import Store


def read_catalog(pipeline: SeasonPipeline) -> pa.Table:
    """Every image of ``pipeline.labels``, as rows of ``CATALOG_SCHEMA``.

    Raises:
        CatalogError: the file contradicts itself or the format.
        ConfigError: the file is of no known format.
    """
    source = Store(url=pipeline.source, options=pipeline.storage_options)
    if pipeline.columns is not None:
        return read_flat_csv(source, pipeline.labels, pipeline.columns)
    if pipeline.labels.lower().endswith((".json", ".json.zip")):
        return read_coco(source, pipeline.labels)
    raise ConfigError(
        f"labels is {pipeline.labels!r}, but it must end in .json or .json.zip (COCO), or "
        "`columns=CsvColumns(...)` must say what the columns of a CSV are"
    )
