"""dataset.json and the Parquet index: what a dataset on storage says of itself.

::

    dataset.json                 written last; the one file that a trainer opens
    train/train-000000.tar …     plain ustar; <image_id>.jpg + <image_id>.json
    index/train-000000.parquet   one part per shard: its rows and, in the metadata, its report
    index.parquet                all parts in shard order
    rejects/train-000000.parquet the images of that shard's plan that could not be used
    rejects/plan.parquet         the images that were excluded before any shard
    plan/plan.parquet            one row group per shard; plan/plan.json the settings
    plan/retried.parquet         rejects that were tried again; see ``dataset.editions``
    catalog.parquet              every image of the label file
    annotations.parquet          what it says of them: counts, behaviours, boxes
    splits.json                  the sites of each split
    SHA256SUMS                   checksums of all of them; see ``dataset.sums``
    report.html                  for people, made again at will: no part of the dataset, and in
                                 no checksum
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serengeti_etl.ahead import in_order
from serengeti_etl.dataset.editions import Edition, parse_editions
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import AppendedFile, Store, json_bytes

FORMAT = "serengeti-etl/1"
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.parquet"
CATALOG_FILE = "catalog.parquet"
ANNOTATIONS_FILE = "annotations.parquet"
PLAN_FILE = "plan/plan.parquet"
PLAN_SETTINGS_FILE = "plan/plan.json"
REPORT_KEY = b"serengeti_etl.report"

ROWS_PER_GROUP = 131_072
"""Of index.parquet: with a group for each shard, 7 million rows read seven times slower."""

_FOOTER_NUM_BYTES = 256 * 1024
_COLUMN_NUM_BYTES = 64 * 1024
"""Read ahead of one column: the next one lies elsewhere."""

_NUM_GROUPS_READ = 3
"""Row groups read at the same time, against the latency of buckets."""

_WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}

UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException)
"""What reading a damaged Parquet file may raise."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seq_id", pa.string(), nullable=False),
        pa.field("frame_num", pa.int32(), nullable=False),
        pa.field("site", pa.string(), nullable=False),
        pa.field("season", pa.string(), nullable=False),
        pa.field("datetime", pa.timestamp("ms")),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        # Of the JPEG's bytes inside the tar, so that one range request fetches one sample.
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("source_num_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seq_id", pa.string(), nullable=False),
        pa.field("site", pa.string(), nullable=False),
        pa.field("season", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("shard", pa.string()),
        pa.field("state", pa.string(), nullable=False),  # rejected, excluded or duplicate
        pa.field("stage", pa.string(), nullable=False),  # plan, fetch or resize
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One committed shard.

    Attributes:
        name: such as ``train-000012``.
        split: ``train`` or ``val``.
        num_samples: images in the tar.
        num_bytes: size of the tar in bytes.
        num_rejected: images of this shard's plan that are in ``rejects/`` instead.
        sha256: of the whole tar, hexadecimal.
        fingerprint: of all that decided its bytes, hexadecimal.
    """

    name: str
    split: str
    num_samples: int
    num_bytes: int
    num_rejected: int
    sha256: str
    fingerprint: str

    @property
    def tar_name(self) -> str:
        """Name of the tar in the dataset."""
        return tar_name(self.split, self.name)


def tar_name(split: str, shard: str) -> str:
    """Name of a shard's tar in the dataset, such as ``train/train-000012.tar``."""
    return f"{split}/{shard}.tar"


def index_part_name(shard: str) -> str:
    """Name of a shard's index part in the dataset."""
    return f"index/{shard}.parquet"


def rejects_name(shard: str) -> str:
    """Name of a shard's rejects in the dataset; ``plan`` for those before any shard."""
    return f"rejects/{shard}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetIndex:
    """The contents of dataset.json.

    Attributes:
        name: name of the dataset.
        classes: categories in the order of a model's outputs.
        shards: every committed shard, by name.
        ledger: counts of images by state and reason; see ``dataset.ledger``.
        settings: the pipeline settings that decided the bytes.
        versions: libvips that made the JPEGs, and the like.
        plan_hash: fingerprint of the whole plan, hexadecimal.
        priors: share of each category among the sequences of train, before and after thinning.
        editions: what each plan added, in the order of ``shards``; () counts as one of them all.
    """

    name: str
    classes: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    ledger: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    plan_hash: str
    priors: Mapping[str, Any] = field(default_factory=dict)
    editions: tuple[Edition, ...] = ()

    def content(self) -> bytes:
        """The bytes of dataset.json."""
        return json_bytes(dataclasses.asdict(self) | {"format": FORMAT})

    def write(self, store: Store) -> None:
        """Write dataset.json: from this moment the dataset is complete."""
        store.write(DATASET_FILE, self.content())

    @staticmethod
    def read(store: Store) -> "DatasetIndex":
        """What dataset.json says.

        Raises:
            DatasetError: there is none, or it is of another format.
        """
        try:
            value = store.read_json(DATASET_FILE)
        except FileNotFoundError:
            raise DatasetError(
                f"no {DATASET_FILE} at {store.url}: the conversion has not finished; run "
                "`serengeti-etl convert` again, it continues where it stopped; of several sizes, "
                "each dataset is in the folder of its size"
            ) from None
        except ValueError as error:
            raise _damaged(store, error) from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise DatasetError(
                f"{DATASET_FILE} at {store.url} is not of format {FORMAT}; if it was, "
                "`serengeti-etl repair` makes it again"
            )
        del value["format"]
        try:
            return _checked_index(value)
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(store, error) from error


def _damaged(store: Store, error: Exception) -> DatasetError:
    return DatasetError(
        f"{DATASET_FILE} at {store.url} is damaged ({type(error).__name__}: {error}); "
        "`serengeti-etl repair` with the pipeline file that made it makes it again"
    )


def _checked_index(value: dict[str, Any]) -> DatasetIndex:
    """The contents of dataset.json from its JSON. Raises TypeError, KeyError or ValueError."""
    shards = tuple(ShardInfo(**shard) for shard in value.pop("shards"))
    for shard in shards:
        for column in dataclasses.fields(ShardInfo):
            _require_type(column.name, getattr(shard, column.name), column.type)
    classes = tuple(value.pop("classes"))
    editions = parse_editions(value.pop("editions", []))
    index = DatasetIndex(shards=shards, classes=classes, editions=editions, **value)
    for name, kind in (("name", str), ("plan_hash", str), ("ledger", dict), ("settings", dict)):
        _require_type(name, getattr(index, name), kind)
    for name in ("versions", "priors"):
        _require_type(name, getattr(index, name), dict)
    return index


def _require_type(name: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}")


class Dataset:
    """A finished dataset on storage: its classes, splits, shards and index.

    Args:
        store: where dataset.json is.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.info = DatasetIndex.read(store)

    @property
    def classes(self) -> tuple[str, ...]:
        """Categories in the order of a model's outputs."""
        return self.info.classes

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        return tuple(sorted({shard.split for shard in self.info.shards}))

    @property
    def plan_hash(self) -> str:
        """Fingerprint of the plan: names this dataset in cursors and checkpoints."""
        return self.info.plan_hash

    def shards(self, split: str) -> tuple[ShardInfo, ...]:
        """The shards of ``split`` in order.

        Raises:
            DatasetError: there is no such split.
        """
        found = tuple(shard for shard in self.info.shards if shard.split == split)
        if not found:
            raise DatasetError(f"{self.store.url} has no split {split!r}, only {self.splits}")
        return found

    def num_images(self, split: str) -> int:
        """Images in the shards of ``split``."""
        return sum(shard.num_samples for shard in self.shards(split))

    def index(
        self,
        split: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of the index in shard order, inside a shard in the order of its tar.

        Args:
            split: only this split; None means all.
            columns: names of columns to read; None means all of ``INDEX_SCHEMA``.
            where: a pyarrow expression on any column.
        """
        condition = where
        if split is not None:
            of_split = pc.field("split") == split
            condition = of_split if condition is None else condition & of_split
        wanted = list(columns) if columns is not None else INDEX_SCHEMA.names
        table = read_table(self.store, INDEX_FILE)
        return (table if condition is None else table.filter(condition)).select(wanted)

    def index_tables(self, split: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of the index in shard order, some at a time and read ahead, of all splits.

        Args:
            split: whose rows are wanted; those of others may come too.
            columns: names of columns to read.

        Raises:
            DatasetError: the index is damaged or missing.
            OSError: the store is away.
        """
        self.shards(split)  # names the splits there are
        try:
            with self.store.open_input(INDEX_FILE, _FOOTER_NUM_BYTES) as file:
                metadata = pq.ParquetFile(file).metadata
            read = partial(self._index_group, metadata, list(columns))
            yield from in_order(read, range(metadata.num_row_groups), _NUM_GROUPS_READ)
        except (ConnectionError, TimeoutError):
            raise  # the store is away, which says nothing of the index
        except UNREADABLE as error:
            raise DatasetError(
                f"{INDEX_FILE} at {self.store.url} cannot be read ({str(error).strip()}); run "
                f"`serengeti-etl verify {self.store.url}`"
            ) from error

    def _index_group(self, metadata: pq.FileMetaData, columns: list[str], at: int) -> pa.Table:
        with self.store.open_input(INDEX_FILE, _COLUMN_NUM_BYTES) as source:
            file = pq.ParquetFile(
                source,
                metadata=metadata,
                page_checksum_verification=True,
                # Of these few values repeat, and the reader wants to know which ones do.
                read_dictionary=["shard", "seq_id", "labels.list.element"],
            )
            return file.read_row_group(at, columns=columns, use_threads=False)

    @cached_property
    def class_index(self) -> dict[str, int]:
        """Position of each category in ``classes``."""
        return {category: index for index, category in enumerate(self.classes)}


def open_dataset(url: str, **options: Any) -> Dataset:
    """The finished dataset at ``url``.

    Args:
        url: folder or bucket prefix that holds dataset.json.
        options: for the fsspec file system, such as ``anon=True``.

    Raises:
        DatasetError: there is no finished dataset.
    """
    return Dataset(Store(url=url, options=options))


def write_table(
    store: Store, name: str, table: pa.Table, *, report: ShardInfo | None = None
) -> None:
    """Write ``table`` as Parquet, whole or not at all; ``report`` goes into its metadata."""
    if report is not None:
        text = json.dumps(dataclasses.asdict(report), sort_keys=True).encode()
        table = table.replace_schema_metadata({REPORT_KEY: text})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **_WRITING)
    store.write(name, memoryview(sink.getvalue()))


def read_table(store: Store, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The Parquet table ``name``, or some of its columns. Raises FileNotFoundError without one."""
    return parse_table(store.read(name), columns)


def parse_table(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table that a Parquet file holds; raises one of ``UNREADABLE`` if it is damaged."""
    # Not pq.read_table: its scanner's threads outlive the call, and where they still run at the
    # interpreter's end the process aborts (apache/arrow#34314, #39162).
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    return file.read(columns=columns, use_threads=False)


def parse_rejects(content: bytes, shard: str) -> pa.Table:
    """The rejects of ``shard``; raises one of ``UNREADABLE`` if damaged, or another file's."""
    rejects = parse_table(content)
    if not rejects.schema.equals(REJECT_SCHEMA):
        raise DatasetError("it does not have the columns of this format")
    others = set(rejects["shard"].to_pylist()) - {shard}
    if others:
        raise DatasetError(f"it has rejects of {', '.join(sorted(map(str, others)))}")
    return rejects


def read_report(store: Store, shard: str) -> ShardInfo | None:
    """The report in the index part of ``shard``; None if that shard is not committed."""
    try:
        return parse_report(store.read(index_part_name(shard)))
    except FileNotFoundError:
        return None


def parse_report(content: bytes) -> ShardInfo | None:
    """The report in an index part; None if this is no commit record."""
    try:
        metadata = pq.read_schema(pa.BufferReader(content)).metadata or {}
        return ShardInfo(**json.loads(cast("bytes", metadata[REPORT_KEY])))
    except (*UNREADABLE, TypeError):
        # The shard is made again, which replaces it.
        return None


def canonical_bytes(table: pa.Table) -> memoryview:
    """All rows as text: independent of the versions of Arrow and Parquet."""
    columns = [canonical_column(table[name]) for name in table.column_names]
    end = pa.array(["\x1e"] * table.num_rows, pa.large_string())
    separator = pa.scalar("\x1f", pa.large_string())
    joined = pc.binary_join_element_wise(*columns, end, separator)
    return memoryview("".join(joined.to_pylist()).encode())


def canonical_column(column: pa.ChunkedArray) -> pa.Array:
    """Its values as text, likewise; a null has a text of its own."""
    values = column.combine_chunks()
    if pa.types.is_list(values.type):
        values = pc.binary_join(values, "\x1d")
    elif pa.types.is_timestamp(values.type):
        values = pc.cast(values, pa.int64())
    return pc.fill_null(pc.cast(values, pa.large_string()), "\x1c")


def compact_index(store: Store, shards: Sequence[ShardInfo]) -> None:
    """Write index.parquet: the rows of ``shards`` in order, in few large row groups."""
    write_index(store, in_order(partial(_read_part, store), shards))


def write_index(store: Store, parts: Iterable[pa.Table]) -> None:
    """Write index.parquet of the rows of the shards, in order; few are in memory at a time."""
    with (
        store.create(INDEX_FILE) as append,
        AppendedFile(append) as file,
        pq.ParquetWriter(file, INDEX_SCHEMA, **_WRITING) as writer,
    ):
        for rows in _grouped(parts):
            writer.write_table(rows, row_group_size=ROWS_PER_GROUP)


def _read_part(store: Store, shard: ShardInfo) -> pa.Table:
    part = read_table(store, index_part_name(shard.name))
    return part.replace_schema_metadata(None).cast(INDEX_SCHEMA)


def _grouped(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ``ROWS_PER_GROUP`` rows; only the last has fewer."""
    waiting = INDEX_SCHEMA.empty_table()
    for part in parts:
        waiting = pa.concat_tables([waiting, part])
        while waiting.num_rows >= ROWS_PER_GROUP:
            yield waiting.slice(0, ROWS_PER_GROUP)
            waiting = waiting.slice(ROWS_PER_GROUP)
    if waiting.num_rows:
        yield waiting
