"""Snapshot Serengeti as published on Dryad: ``consensus_data.csv`` beside ``all_images.csv``.

Source of the format: Swanson et al. 2015, Scientific Data 2:150026. A capture event is a sequence;
the consensus has a row per event and species, and none for blank events, so images of events that
it does not list have no label.
"""

import pandas as pd
import pyarrow as pa

from serengeti_etl.catalog.csv_file import read_csv
from serengeti_etl.catalog.rows import RowWriter
from serengeti_etl.catalog.table import BEHAVIOURS, image_keys
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

CONSENSUS, IMAGES = "consensus_data.csv", "all_images.csv"

_BEHAVIOUR_COLUMNS = dict(
    zip(
        BEHAVIOURS,
        ("Standing", "Resting", "Moving", "Eating", "Interacting", "Babies"),
        strict=True,
    )
)
_CONSENSUS_COLUMNS = ("CaptureEventID", "DateTime", "SiteID", "Species", "Count")
_PATH = r"^(?P<season>S\d+)/(?P<site>[^/]+)/"


def read_dryad(source: Store, name: str, rows: RowWriter) -> None:
    """Put the pair into ``rows``; ``name`` is its folder, or either of the two files.

    Raises:
        CatalogError: one of the two is missing or lacks a column, or two rows of one event name
            another time or site.
    """
    folder = source.at(name.removesuffix(CONSENSUS).removesuffix(IMAGES).rstrip("/"))
    columns = (*_CONSENSUS_COLUMNS, *_BEHAVIOUR_COLUMNS.values())
    consensus = read_csv(folder, CONSENSUS, columns)
    events = consensus[["CaptureEventID", "DateTime", "SiteID"]].drop_duplicates()
    repeated = events["CaptureEventID"][events["CaptureEventID"].duplicated()]
    if len(repeated):
        raise CatalogError(
            f"{CONSENSUS}: the rows of {repeated.iloc[0]!r} differ in DateTime or SiteID: mend them"
        )
    images = read_csv(folder, IMAGES, ("CaptureEventID", "URL_Info"))
    rows.add_images(_image_columns(images.merge(events, on="CaptureEventID", how="left")))
    rows.add_annotations(_annotation_columns(consensus))


def _image_columns(images: pd.DataFrame) -> dict[str, object]:
    # The site of an event without consensus still stands in the path, as does every season.
    parts = images["URL_Info"].str.extract(_PATH)
    files = pa.array(images["URL_Info"], pa.string())
    keys = image_keys(files)
    return {
        "key": keys,
        "image_id": keys,
        "seq_id": pa.array(images["CaptureEventID"], pa.string()),
        "file_name": files,
        "site": pa.array(images["SiteID"].fillna(parts["site"]), pa.string(), from_pandas=True),
        "season": pa.array(parts["season"], pa.string(), from_pandas=True),
        "datetime": pa.array(images["DateTime"], pa.string(), from_pandas=True),
    }


def _annotation_columns(consensus: pd.DataFrame) -> dict[str, object]:
    numbers = {
        name: pa.array(
            pd.to_numeric(consensus[column], errors="coerce"), pa.float64(), from_pandas=True
        )
        for name, column in _BEHAVIOUR_COLUMNS.items()
    }
    counts = consensus["Count"].mask(consensus["Count"].isin(("", "NA")))
    return {
        "seq_id": pa.array(consensus["CaptureEventID"], pa.string()),
        "category": pa.array(consensus["Species"], pa.string()),
        "is_of_sequence": pa.repeat(True, len(consensus)),  # noqa: FBT003
        "count": pa.array(counts, pa.string(), from_pandas=True),
        "subject_id": pa.array(consensus["CaptureEventID"], pa.string()),
        **numbers,
    }
