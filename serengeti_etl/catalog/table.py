"""The catalog: one row per image of the label file, in an order that the file does not decide.

Every label format ends here, so a check made here holds for all of them.
"""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.errors import CatalogError

CATALOG_SCHEMA = pa.schema(
    [
        # The key in the tar: no dots, because WebDataset cuts keys at the first one.
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seq_id", pa.string(), nullable=False),
        pa.field("frame_num", pa.int32(), nullable=False),  # from 1
        # Below the pipeline's ``images``: a mirror or a local copy gives the same rows.
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("site", pa.string(), nullable=False),  # "" when the file names none
        pa.field("season", pa.string(), nullable=False),  # "" when the file names none
        pa.field("datetime", pa.timestamp("ms")),
        # Sorted; ["empty"] when blank; [] when nobody labelled it.
        pa.field("labels", pa.list_(pa.string()), nullable=False),
    ]
)

_MAX_KEY_BYTES = 240
"""ustar keeps at most 155 + 1 + 100 bytes of a name; ``.json`` must fit too."""


def image_key(text: str) -> str:
    """A tar key made from an image's id or file name: extension off, dots to underscores."""
    stem = re.sub(r"\.(jpe?g|png|gif|tiff?|bmp|webp|mpo)$", "", text, flags=re.IGNORECASE)
    return stem.lstrip("/").replace(".", "_")


def make_catalog(columns: dict[str, Any]) -> pa.Table:
    """The catalog of these columns: checked, and sorted by sequence, frame and image.

    Args:
        columns: one list or array per field of ``CATALOG_SCHEMA``, all of one length.

    Raises:
        CatalogError: an id repeats, does not fit a tar, or a sequence lies at two sites.
    """
    try:
        table = pa.table(columns, schema=CATALOG_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CatalogError(f"the label file does not give what a catalog needs: {error}") from error
    if table.num_rows == 0:
        raise CatalogError("the label file lists no images")
    keys = ("seq_id", "frame_num", "image_id")
    table = table.sort_by([(name, "ascending") for name in keys]).combine_chunks()
    _check_unique(table)
    _check_keys(table)
    _check_sites(table)
    return table


def _check_unique(table: pa.Table) -> None:
    if pc.count_distinct(table["image_id"]).as_py() == table.num_rows:
        return
    counts = table.group_by("image_id").aggregate([([], "count_all")])
    repeated = counts.filter(pc.field("count_all") > 1)["image_id"]
    if len(repeated):
        names = ", ".join(sorted(repeated.to_pylist())[:3])
        raise CatalogError(
            f"{len(repeated)} image ids occur more than once ({names}); each image needs an id of "
            "its own: remove the repeated rows from the label file"
        )


def _check_keys(table: pa.Table) -> None:
    ids = table["image_id"]
    # ".." is impossible, dots are gone; a newline or a NUL would break a tar reader.
    bad = pc.or_(
        pc.match_substring_regex(ids, r"[\x00-\x1f]|^$|//|/$"),
        pc.greater(pc.binary_length(pc.cast(ids, pa.binary())), _MAX_KEY_BYTES),
    )
    _refuse_long_parts(ids)
    found = pc.filter(ids, bad)
    if len(found):
        raise CatalogError(
            f"image id {found[0].as_py()!r} cannot name a file in a tar: it must have 1 to "
            f"{_MAX_KEY_BYTES} bytes, no control characters and no empty folder names"
        )


def _refuse_long_parts(ids: pa.ChunkedArray) -> None:
    """Refuse what ustar cannot hold: its name field takes 100 bytes after the last cut at ``/``."""
    lengths = pc.binary_length(pc.cast(ids, pa.binary()))
    for key in pc.filter(ids, pc.greater(lengths, 94)).to_pylist():
        encoded = f"{key}.json".encode()
        cuts = [at for at, byte in enumerate(encoded) if byte == ord("/")]
        if not any(at <= 155 and len(encoded) - at - 1 <= 100 for at in cuts):  # noqa: PLR2004
            raise CatalogError(
                f"image id {key!r} is too long for a ustar name: shorten it to 94 bytes, or use "
                "folders of at most 155 bytes before a name of at most 94"
            )


def _check_sites(table: pa.Table) -> None:
    pairs = table.group_by(["seq_id", "site"]).aggregate([])
    counts = pairs.group_by("seq_id").aggregate([([], "count_all")])
    crossing = counts.filter(pc.field("count_all") > 1)["seq_id"]
    if len(crossing):
        seq_id = min(crossing.to_pylist())
        sites = pairs.filter(pc.field("seq_id") == seq_id)["site"].to_pylist()
        raise CatalogError(
            f"{len(crossing)} sequences lie at more than one site, such as {seq_id!r} at "
            f"{sorted(sites)}: whole sequences must stay together, so give each site its own seq_id"
        )
