"""The catalog: one row per image of the label file, and beside it what the file says of each.

Every label format ends in these two tables. Their rows are in an order that the file does not
decide, so that the same labels give the same bytes whoever exported them.
"""

import pyarrow as pa
import pyarrow.compute as pc

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
        pa.field("datetime", pa.timestamp("ms")),  # as the camera's clock showed it, no zone
        # Sorted; ["empty"] when blank; [] when nobody labelled it.
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("given_split", pa.string()),  # what the label file itself says, for ColumnSplit
        pa.field("width", pa.int32()),  # in px, of the photograph, where the file tells
        pa.field("height", pa.int32()),
        pa.field("content_hash", pa.string()),  # of the photograph, whatever the digest
        # The first image, by id, that names the same file or has the same content hash.
        pa.field("duplicate_of", pa.string()),
    ]
)
CATALOG_ORDER = ("seq_id", "frame_num", "image_id")

BEHAVIOURS = ("standing", "resting", "moving", "eating", "interacting", "young_present")
"""Shares of votes, 0-1, as Snapshot Serengeti counts them."""

ANNOTATION_SCHEMA = pa.schema(
    [
        pa.field("annotation_id", pa.string()),
        # Null: it speaks of the sequence, whose frames all have annotations of their own.
        pa.field("image_id", pa.string()),
        pa.field("seq_id", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        # True: said of the whole sequence, and copied to its frames.
        pa.field("is_of_sequence", pa.bool_(), nullable=False),
        # Text, because published counts are bins: "1", "11-50", "51+".
        pa.field("count", pa.string()),
        *(pa.field(name, pa.float64()) for name in BEHAVIOURS),
        pa.field("behavior", pa.string()),  # in words, as Camtrap DP has it
        pa.field("life_stage", pa.string()),
        pa.field("sex", pa.string()),
        pa.field("individual_id", pa.string()),
        pa.field("subject_id", pa.string()),  # of the crowd's platform
        pa.field("probability", pa.float64()),  # of a classification by machine, 0-1
        # Left, top, width and height: in px of the photograph, or as shares of its sides.
        *(pa.field(f"bbox_{name}", pa.float64()) for name in ("x", "y", "width", "height")),
        pa.field("bbox_unit", pa.string()),  # "px" or "share"; null without a box
    ]
)
ANNOTATION_ORDER = ("seq_id", "image_id", "category", "annotation_id")

_EXTENSION = r"(?i)\.(jpe?g|png|gif|tiff?|bmp|webp|mpo)$"


def image_keys(texts: pa.Array) -> pa.Array:
    """Tar keys made from ids, file names or urls: extension off, dots to underscores."""
    stems = pc.replace_substring_regex(texts, _EXTENSION, "")
    bare = pc.replace_substring_regex(stems, r"^\w+://", "")
    return pc.replace_substring(pc.utf8_ltrim(bare, "/"), ".", "_")
