"""The labels of a catalog or dataset, handed on in the formats that others read."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.words import DATA_PACKAGE
from serengeti_etl.catalog.camtrap_dp.writer import write_camtrap_dp
from serengeti_etl.catalog.coco_writer import write_coco
from serengeti_etl.catalog.csv_file import iter_csv
from serengeti_etl.dataset.index import (
    ANNOTATIONS_FILE,
    CATALOG_FILE,
    DATASET_FILE,
    Dataset,
    read_table,
)
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store

COCO_FILE = "labels.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedLabels:
    """Images to hand on, and what is said of them.

    Attributes:
        name: of the dataset, or of the catalog's folder.
        store: where catalog and annotations lie.
        images: rows of ``CATALOG_SCHEMA``. Those of a dataset bear its split as ``given_split``.
        licence: of the photographs, where a dataset tells; else "".
    """

    name: str
    store: Store
    images: pa.Table
    licence: str = ""

    def iter_annotations(self) -> Iterator[pa.RecordBatch]:
        """The annotations of these images, in order, part by part."""
        image_ids, seq_ids = (pc.unique(self.images[name]) for name in ("image_id", "seq_id"))
        with self.store.open_input(ANNOTATIONS_FILE) as file:
            for batch in pq.ParquetFile(file).iter_batches(use_threads=False):
                is_of_sequence = pc.and_(
                    pc.is_null(batch["image_id"]), pc.is_in(batch["seq_id"], value_set=seq_ids)
                )
                is_of_image = pc.is_in(batch["image_id"], value_set=image_ids)
                yield batch.filter(pc.or_(is_of_image, is_of_sequence))


def exported_labels(url: str, split: str | None = None) -> ExportedLabels:
    """What there is to hand on at ``url``.

    Args:
        url: a dataset, of which only images in shards are taken; or a folder with catalog.parquet
            and annotations.parquet, as ``serengeti-etl catalog`` leaves it.
        split: only the images of this split; None takes all.

    Raises:
        DatasetError: neither is there, or no image is of that split.
    """
    store = Store(url=url)
    try:
        catalog = read_table(store, CATALOG_FILE)
    except FileNotFoundError:
        raise DatasetError(
            f"no {CATALOG_FILE} at {store.url}: give a dataset, or the folder that "
            "`serengeti-etl catalog` wrote"
        ) from None
    name, licence = store.url.rstrip("/").rsplit("/", 1)[-1], ""
    if store.exists(DATASET_FILE):
        dataset = Dataset(store)
        name = dataset.info.name
        licence = str(dataset.info.settings.get("licence", ""))
        catalog = _in_shards(catalog, dataset)
    if split is not None:
        catalog = catalog.filter(pc.field("given_split") == split)
        if catalog.num_rows == 0:
            raise DatasetError(f"{store.url} has no images of split {split!r}")
    return ExportedLabels(name=name, store=store, images=catalog, licence=licence)


def _in_shards(catalog: pa.Table, dataset: Dataset) -> pa.Table:
    """The catalog rows of images in shards, with the split that the dataset gave them."""
    index = dataset.index(columns=["image_id", "split"])
    places = pc.index_in(catalog["image_id"], value_set=index["image_id"].combine_chunks())
    splits = index["split"].combine_chunks().take(places)
    at = catalog.schema.get_field_index("given_split")
    table = catalog.set_column(at, catalog.schema.field(at), splits)
    return table.filter(pc.is_valid(splits))


def write_labels(labels: ExportedLabels, kind: str, output: str, place: Mapping[str, Any]) -> str:
    """One sentence on what was written and what was left out, after writing it to ``output``.

    Args:
        labels: what to write.
        kind: ``coco`` or ``camtrap_dp``.
        output: folder or bucket prefix.
        place: what Camtrap DP demands beside: ``utc_offset``, ``latitude``, ``longitude``,
            ``sites`` (the url of a CSV), ``contributor`` and ``sampling_design``.

    Raises:
        ConfigError: Camtrap DP needs a place for each site, and one has none.
        CatalogError: the CSV of sites cannot be read.
    """
    store, annotations = Store(url=output), labels.iter_annotations()
    num_images = labels.images.num_rows
    if kind == "coco":
        num = write_coco(labels.images, annotations, store, COCO_FILE)
        what, left_out = COCO_FILE, f"{num:,} annotations of whole sequences"
    else:
        settings = camtrap_dp_settings(labels.name, labels.licence, place)
        num = write_camtrap_dp(labels.images, annotations, store, settings)
        what, left_out = DATA_PACKAGE, f"{num:,} images without date and time"
        num_images -= num
    said = f"written: {output.rstrip('/')}/{what}, {num_images:,} images"
    return f"{said}; left out: {left_out}" if num else said


def camtrap_dp_settings(name: str, licence: str, place: Mapping[str, Any]) -> CamtrapDpSettings:
    """Settings of a package that is made now.

    Args:
        name: of the package.
        licence: of labels and photographs; "" says nothing.
        place: as of ``write_labels``.

    Raises:
        ConfigError: a setting is not what the format allows.
        CatalogError: the CSV of sites cannot be read.
    """
    return CamtrapDpSettings(
        name=name.lower(),
        title=name,
        utc_offset=place["utc_offset"],
        latitude=place["latitude"],
        longitude=place["longitude"],
        site_places=read_site_places(place["sites"]) if place["sites"] else {},
        contributor=place["contributor"],
        sampling_design=place["sampling_design"],
        licence=licence,
        created=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def read_site_places(url: str) -> dict[str, tuple[float, float]]:
    """Latitude and longitude of each site of a CSV, in degrees.

    Raises:
        CatalogError: it cannot be read.
    """
    types = {"site": pa.string(), "latitude": pa.float64(), "longitude": pa.float64()}
    places: dict[str, tuple[float, float]] = {}
    for part in iter_csv(Store(url=url), "", types):
        for row in part.to_pylist():
            places[row["site"]] = (row["latitude"], row["longitude"])
    return places
