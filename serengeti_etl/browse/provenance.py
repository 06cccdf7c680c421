"""Where a sample comes from: its row of the index, its place, what its JSON says; held together."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.browse.images import Images
from serengeti_etl.browse.pictures import Pictures
from serengeti_etl.dataset.index import UNREADABLE, Dataset, index_part_name, read_table
from serengeti_etl.errors import DatasetError
from serengeti_etl.load.member import (
    BLOCK_NUM_BYTES,
    DamagedSampleError,
    num_bytes_around,
    parse_member,
)

_COLUMNS = (
    "image_id",
    "source_width",
    "source_height",
    "source_num_bytes",
    "sha256",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What is known of one sample.

    Attributes:
        facts: a word for each, and its value.
        said: its JSON in the shard, indented.
        problem: how index and shard disagree; "" where they agree.
    """

    facts: dict[str, str]
    said: str
    problem: str


def read_provenance(dataset: Dataset, images: Images, pictures: Pictures, row: int) -> Provenance:
    """The provenance of one image, from its shard's part of the index and from its shard.

    Raises:
        DatasetError: the part of the index is damaged.
        OSError: the store fails, or has no such shard.
    """
    known = _index_row(dataset, images, row)
    facts = {
        "original": f"{known['source_width']} × {known['source_height']} px, "
        f"{known['source_num_bytes']:,} bytes",
        "sha256": known["sha256"],
    }
    offset, num_bytes = int(images.offset_N[row]), int(images.num_bytes_N[row])
    start = offset - BLOCK_NUM_BYTES
    end = min(start + num_bytes_around(num_bytes), images.shard(row).num_bytes)
    try:
        member = parse_member(pictures.bytes(row, start, end), num_bytes)
    except DamagedSampleError as error:
        return Provenance(facts=facts, said="", problem=f"the shard does not have it: {error}")
    problem = ""
    if member.said["image_id"] != known["image_id"]:
        problem = f"the shard has {member.said['image_id']!r} there"
    elif hashlib.sha256(member.jpeg).hexdigest() != known["sha256"]:
        problem = "the bytes in the shard do not have this checksum: run `serengeti-etl verify`"
    said = json.dumps(member.said, indent=1, ensure_ascii=False)
    return Provenance(facts=facts, said=said, problem=problem)


def _index_row(dataset: Dataset, images: Images, row: int) -> dict[str, Any]:
    name = index_part_name(images.shard(row).name)
    image_id = images.image_ids[row]
    try:
        part = read_table(dataset.store, name, _COLUMNS)
        at = pc.index(part["image_id"], pa.scalar(image_id.as_py(), pa.string())).as_py()
    except UNREADABLE as error:
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
            raise
        raise DatasetError(
            f"{name} of {dataset.store.url} is damaged; run `serengeti-etl repair`"
        ) from error
    if at < 0:
        raise DatasetError(
            f"{name} lacks {image_id}, which the index has; run `serengeti-etl verify`"
        )
    found: dict[str, Any] = part.slice(at, 1).to_pylist()[0]
    return found
