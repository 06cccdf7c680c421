"""The catalog of a pipeline as a thing of its own: read, selected, and written to a folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from serengeti_etl.catalog.camtrap_dp.schema import validate_camtrap_dp
from serengeti_etl.catalog.checks import Finding
from serengeti_etl.catalog.read import Labels, read_labels
from serengeti_etl.catalog.selection import SPLITS_FILE, Selection, select_images, splits_json
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.dataset.index import ANNOTATIONS_FILE, CATALOG_FILE, write_table
from serengeti_etl.errors import CatalogError, ConfigError, SerengetiError
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCatalog:
    """What a pipeline's label file comes to.

    Attributes:
        labels: the label file, read and checked; its ``annotations_path`` is gone by now.
        selection: what rules and split make of it; None where they refuse it.
        refusal: why they do.
    """

    labels: Labels
    selection: Selection | None
    refusal: SerengetiError | None = None


def make_label_catalog(
    pipeline: SeasonPipeline, output: str, schemas: str | None = None
) -> LabelCatalog:
    """The catalog of ``pipeline``, after writing it to ``output``, catalog.parquet last.

    Args:
        pipeline: what to read.
        output: folder or bucket prefix for catalog.parquet, annotations.parquet and splits.json.
        schemas: folder or url of Camtrap DP's table schemas; None takes them from where the
            package says.

    Raises:
        CatalogError: the label file contradicts itself; nothing is written.
    """
    store = Store(url=output)
    with TemporaryDirectory() as scratch:
        labels = read_labels(pipeline, Path(scratch))
        made = _selected(labels, pipeline)
        if labels.labels_format == "camtrap_dp":
            found = _validated(pipeline, schemas)
            made = replace(made, labels=replace(labels, findings=(*found, *labels.findings)))
        store.upload(labels.annotations_path, ANNOTATIONS_FILE)
        if made.selection is not None:
            store.write_json(SPLITS_FILE, splits_json(made.selection, pipeline))
        write_table(store, CATALOG_FILE, labels.images)
    return made


def _selected(labels: Labels, pipeline: SeasonPipeline) -> LabelCatalog:
    """A person who does not know yet how to split still sees what the file holds."""
    try:
        return LabelCatalog(labels=labels, selection=select_images(labels.images, pipeline))
    except (ConfigError, CatalogError) as refusal:
        return LabelCatalog(labels=labels, selection=None, refusal=refusal)


def _validated(pipeline: SeasonPipeline, schemas: str | None) -> tuple[Finding, ...]:
    source = Store(url=pipeline.source, options=pipeline.storage_options)
    where = Store(url=schemas) if schemas is not None else None
    return validate_camtrap_dp(source, pipeline.labels, where)
