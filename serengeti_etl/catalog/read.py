"""A pipeline's label file, whatever its format, as one catalog with what is odd about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from serengeti_etl.catalog import checks, dryad, hakuna
from serengeti_etl.catalog.camtrap_dp.reader import read_camtrap_dp
from serengeti_etl.catalog.camtrap_dp.words import DATA_PACKAGE
from serengeti_etl.catalog.checks import Finding, Overview
from serengeti_etl.catalog.coco import read_coco
from serengeti_etl.catalog.csv_file import read_header
from serengeti_etl.catalog.database import Database
from serengeti_etl.catalog.dryad import read_dryad
from serengeti_etl.catalog.flat_csv import COMMON_NAMES, common_columns, read_flat_csv
from serengeti_etl.catalog.folders import read_folders
from serengeti_etl.catalog.hakuna import read_hakuna
from serengeti_etl.catalog.join import join_rows, read_images
from serengeti_etl.catalog.label_file import open_label_file, open_label_zip
from serengeti_etl.catalog.rows import RowWriter
from serengeti_etl.config import FORMATS, SeasonPipeline, without_query
from serengeti_etl.errors import CatalogError
from serengeti_etl.label_config import CsvColumns
from serengeti_etl.storage import Store

_HEAD_NUM_BYTES = 1 << 16

# What other tools write, and people try: said plainly instead of failing on a missing key.
_NOT_LABELS = (
    ("detection_categories", "a MegaDetector batch result: predictions, not labels"),
    ("predictions", "a SpeciesNet result: predictions, not labels"),
    ("instances", "a list of SpeciesNet instances, without labels"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """A label file, read.

    Attributes:
        labels_format: its format, in one word.
        images: rows of ``CATALOG_SCHEMA``, sorted.
        annotations_path: local Parquet file of ``ANNOTATION_SCHEMA``, sorted; it lies in the
            scratch folder and goes with it.
        overview: counts.
        findings: what is odd, by kind.
    """

    labels_format: str
    images: pa.Table
    annotations_path: Path
    overview: Overview
    findings: tuple[Finding, ...]


def read_labels(pipeline: SeasonPipeline, scratch: Path) -> Labels:
    """Every image of ``pipeline.labels`` and what is said of it.

    Args:
        pipeline: names the label file and its format.
        scratch: empty local folder, which needs about as much room as the label file.

    Raises:
        CatalogError: the file contradicts its format, or cannot be made unambiguous.
    """
    source = Store(url=pipeline.source, options=pipeline.storage_options)
    name = pipeline.labels
    kind = pipeline.labels_format or ("csv" if pipeline.columns else recognise(source, name))
    with RowWriter(scratch) as rows:
        found = _reader(kind, pipeline.columns)(source, name, rows) or ()
    with Database(scratch) as database:
        try:
            join_rows(database, scratch, pipeline.sequence_gap_seconds)
        except CatalogError as error:
            error.add_note(f"label file {source.at(name).url}")
            raise
        overview = checks.count_all(database)
        odd = checks.find_all(database, pipeline.rules.drop)
    images = read_images(scratch)
    # Freed pages that Arrow would keep: what follows needs the room at full size.
    pa.default_memory_pool().release_unused()
    return Labels(
        labels_format=kind,
        images=images,
        annotations_path=scratch / "annotations.parquet",
        overview=overview,
        findings=(*found, *odd),
    )


Reader = Callable[[Store, str, RowWriter], tuple[Finding, ...] | None]


def _reader(kind: str, columns: CsvColumns | None) -> Reader:
    """The reader of a format."""

    def read_csv(source: Store, name: str, rows: RowWriter) -> tuple[Finding, ...]:
        if columns is not None:
            read_flat_csv(source, name, columns, rows)
            return ()
        guessed = _named_columns(source, name)
        read_flat_csv(source, name, guessed, rows)
        return (_guess(guessed),)

    readers: dict[str, Reader] = {
        "coco": read_coco,
        "hakuna": read_hakuna,
        "dryad": read_dryad,
        "camtrap_dp": read_camtrap_dp,
        "folders": read_folders,
        "csv": read_csv,
    }
    return readers[kind]


def _named_columns(source: Store, name: str) -> CsvColumns:
    header = read_header(source, name)
    columns = common_columns(header)
    if columns is None:
        raise CatalogError(
            f"{name} has the columns {header[:12]}, and which of them names the photograph and "
            "which the category cannot be told: say it with columns=CsvColumns(file_name=..., "
            "label=...)"
        )
    return columns


def _guess(columns: CsvColumns) -> Finding:
    """Which columns were taken by their names alone, so that a person can disagree."""
    taken = {field: getattr(columns, field) for field in COMMON_NAMES}
    names = [field for field, column in taken.items() if column is not None]
    return Finding(
        name="guessed columns",
        meaning="taken by their usual names; say others with columns=CsvColumns(...)",
        unit="columns",
        count=len(names),
        examples=tuple(f"{name} = {taken[name]}" for name in names),
    )


def recognise(source: Store, name: str) -> str:
    """The format of the label file or folder ``name``, one of ``config.FORMATS``.

    Raises:
        CatalogError: it is not there, or of no known format; says what it seems to be.
    """
    lower = without_query(name).lower()
    if lower.endswith(".zip"):
        return _of_zip(source, name)
    if lower.endswith(".json"):
        return _of_json(source, name)
    if lower.endswith((".csv", ".tsv")):
        return _of_csv(read_header(source, name), name)
    if source.at(name).is_folder(""):
        return _of_folder(source.at(name))
    if not source.at(name).exists(""):
        raise CatalogError(f"there is no label file {source.at(name).url}")
    raise CatalogError(
        f"{name} is of no known format (its name does not end in .json, .zip or .csv): give a "
        f"label file, or say its format with labels_format, one of {', '.join(FORMATS)}"
    )


def _of_folder(folder: Store) -> str:
    for file, kind in (
        (DATA_PACKAGE, "camtrap_dp"),
        (hakuna.METADATA, "hakuna"),
        (dryad.CONSENSUS, "dryad"),
    ):
        if folder.exists(file):
            return kind
    return "folders"


def _of_zip(source: Store, name: str) -> str:
    with open_label_zip(source, name) as archive:
        members = archive.namelist()
    if any(member.split("/")[-1] == DATA_PACKAGE for member in members):
        return "camtrap_dp"
    return "coco"


def _of_json(source: Store, name: str) -> str:
    """By the keys that stand in its first part, for it may be larger than memory."""
    with open_label_file(source, name) as file:
        head = file.read(_HEAD_NUM_BYTES).decode("utf-8", errors="replace")
    if '"resources"' in head and '"images"' not in head:
        return "camtrap_dp"
    for key, what in _NOT_LABELS:
        if f'"{key}"' in head and '"annotations"' not in head:
            raise CatalogError(f"{name} is {what}; give the label file itself")
    return "coco"


def _of_csv(header: list[str], name: str) -> str:
    columns = set(header)
    if {"seq_id", "empty"} <= columns or columns == {"seq_id", "file_name", "datetime"}:
        if not name.endswith((hakuna.LABELS, hakuna.METADATA)):
            raise CatalogError(
                f"{name} looks like one of the Hakuna Ma-data files, but labels are read from "
                f"{hakuna.METADATA} beside {hakuna.LABELS}: give their folder"
            )
        return "hakuna"
    if {"CaptureEventID", "Species"} <= columns or {"CaptureEventID", "URL_Info"} <= columns:
        return "dryad"
    if "deploymentID" in columns:
        raise CatalogError(f"{name} is a table of a Camtrap DP: give its {DATA_PACKAGE}")
    if "capture_id" in columns:
        raise CatalogError(f"{name} is one of LILA's CSV pair: give the JSON beside it")
    return "csv"
