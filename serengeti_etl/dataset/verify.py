"""Proof that a dataset is whole: tar, index, dataset.json, checksums and ledger agree."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.cluster import Runner
from serengeti_etl.dataset.index import (
    CATALOG_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    Dataset,
    ShardInfo,
    index_part_name,
    read_report,
    read_table,
    rejects_name,
)
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyTask:
    """One shard to check.

    Attributes:
        store: where the dataset is.
        shard: what dataset.json says of it.
    """

    store: Store
    shard: ShardInfo

    @property
    def key(self) -> str:
        """Names this task on a cluster; the same shard elsewhere is another."""
        what = f"{self.store.url} {self.shard.fingerprint} {self.shard.sha256}"
        return f"verify-{self.shard.name}-{hashlib.sha256(what.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was read, and every disagreement found.

    Attributes:
        num_shards: shards checked.
        num_samples: samples in them, by dataset.json.
        num_bytes: bytes of tars, by dataset.json.
        problems: one line each: what disagrees with what.
    """

    num_shards: int
    num_samples: int
    num_bytes: int
    problems: tuple[str, ...]


def verify_dataset(
    url: str, runner: Runner, on_shard: Callable[[ShardInfo], None] | None = None
) -> Verification:
    """Every disagreement inside the dataset at ``url``; all of it is read.

    Args:
        url: folder or bucket prefix that holds dataset.json.
        runner: where shards are read.
        on_shard: called with each shard that has been checked.

    Raises:
        DatasetError: there is no dataset to check.
    """
    store = Store(url=url)
    dataset = Dataset(store)
    shards = dataset.info.shards
    problems = []
    tasks = (VerifyTask(store=store, shard=shard) for shard in shards)
    for outcome in runner.map(check_shard, tasks):
        problems += outcome.result or []
        if outcome.error is not None:
            problems.append(f"{outcome.task.shard.name}: cannot be read: {outcome.error}")
        if on_shard is not None:
            on_shard(outcome.task.shard)
    problems += _check_whole(dataset)
    return Verification(
        num_shards=len(shards),
        num_samples=sum(shard.num_samples for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        problems=tuple(sorted(problems)),
    )


def check_shard(task: VerifyTask) -> list[str]:
    """The disagreements between one tar, its index part and dataset.json; [] if there are none."""
    shard, store = task.shard, task.store
    try:
        content = store.read(shard.tar_name)
    except FileNotFoundError:
        return [f"{shard.tar_name} is missing"]
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        wanted = f"{shard.num_bytes} bytes with sha256 {shard.sha256[:12]}…"
        return [f"{shard.tar_name}: {len(content)} bytes that are not the {wanted} of dataset.json"]
    if read_report(store, shard.name) != shard:
        return [f"{index_part_name(shard.name)} is missing or disagrees with dataset.json"]
    problems = _check_rejects(store, shard)
    rows = read_table(store, index_part_name(shard.name)).to_pylist()
    if len(rows) != shard.num_samples:
        problems.append(f"{shard.name}: {len(rows)} index rows, {shard.num_samples} samples")
    return problems + [f"{shard.name}: {problem}" for problem in _check_members(content, rows)]


def _check_rejects(store: Store, shard: ShardInfo) -> list[str]:
    try:
        num_rows = read_table(store, rejects_name(shard.name)).num_rows
    except FileNotFoundError:
        num_rows = 0
    except (pa.ArrowInvalid, OSError) as error:
        return [f"{rejects_name(shard.name)} cannot be read: {error}"]
    if num_rows == shard.num_rejected:
        return []
    return [f"{rejects_name(shard.name)}: {num_rows} rows, {shard.num_rejected} in dataset.json"]


def _check_members(content: bytes, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Disagreements between the members of a tar and its index rows."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            members = tar.getmembers()
    except tarfile.TarError as error:
        yield f"the tar cannot be read: {error}"
        return
    wanted = [f"{row['image_id']}.{kind}" for row in rows for kind in ("jpg", "json")]
    if [member.name for member in members] != wanted:
        yield f"the tar's {len(members)} members are not those of its {len(rows)} index rows"
        return
    for row, jpeg, sidecar in zip(rows, members[::2], members[1::2], strict=True):
        if (jpeg.offset_data, jpeg.size) != (row["offset"], row["num_bytes"]):
            yield f"{row['image_id']}: lies elsewhere in the tar than the index says"
            continue
        end = sidecar.offset_data + sidecar.size
        if not _same_labels(content[sidecar.offset_data : end], row):
            yield f"{row['image_id']}: its json disagrees with the index"
        body = content[row["offset"] : row["offset"] + row["num_bytes"]]
        if hashlib.sha256(body).hexdigest() != row["sha256"]:
            yield f"{row['image_id']}: its bytes are not those of the index's sha256"


def _same_labels(sidecar: bytes, row: dict[str, Any]) -> bool:
    try:
        value = json.loads(sidecar)
    except ValueError:
        return False
    moment = row["datetime"].isoformat(sep=" ") if row["datetime"] else None
    known = {name: row[name] for name in value if name in row}
    return isinstance(value, dict) and bool(value == known | {"datetime": moment})


def _check_whole(dataset: Dataset) -> Iterator[str]:
    """Disagreements between the compacted index, the catalog, the rejects and the ledger."""
    yield from _check_unknown_files(dataset)
    try:
        index = dataset.index()
        catalog = read_table(dataset.store, CATALOG_FILE)
        rejects = _all_rejects(dataset)
    except (OSError, pa.ArrowInvalid) as error:
        yield f"the index, the catalog or the rejects cannot be read: {error}"
        return
    yield from _check_index(dataset, index)
    ledger = Ledger.count(catalog.num_rows, index.num_rows, rejects)
    try:
        ledger.check()
    except DatasetError as error:
        yield str(error)
    if ledger.as_dict() != dataset.info.ledger:
        yield f"the ledger of dataset.json is not that of the files: {ledger.as_dict()}"
    yield from _check_states(catalog, index, rejects)


def _check_index(dataset: Dataset, index: pa.Table) -> Iterator[str]:
    if not index.schema.equals(INDEX_SCHEMA):
        yield f"{INDEX_FILE} does not have the columns of this format"
        return
    for shard in dataset.info.shards:
        rows = index.filter(pc.field("shard") == shard.name)
        try:
            part = read_table(dataset.store, index_part_name(shard.name))
        except (OSError, pa.ArrowInvalid) as error:
            yield f"{index_part_name(shard.name)} cannot be read: {error}"
            continue
        if not rows.equals(part.replace_schema_metadata(None)):
            yield f"{INDEX_FILE} disagrees with {index_part_name(shard.name)}"


def _check_states(catalog: pa.Table, index: pa.Table, rejects: list[pa.Table]) -> Iterator[str]:
    """Images that are in no state, in two, or that the catalog does not know."""
    tables = [index, *rejects]
    states = pa.concat_tables([table.select(["image_id"]) for table in tables])["image_id"]
    counts = pc.value_counts(states)
    ids, numbers = counts.field("values"), counts.field("counts")
    for image_id in pc.filter(ids, pc.greater(numbers, 1)).to_pylist()[:3]:
        yield f"{image_id} is in more than one state"
    unknown = pc.filter(ids, pc.invert(pc.is_in(ids, value_set=catalog["image_id"])))
    for image_id in unknown.to_pylist()[:3]:
        yield f"{image_id} is not in the catalog"
    lost = pc.invert(pc.is_in(catalog["image_id"], value_set=ids))
    for image_id in pc.filter(catalog["image_id"], lost).to_pylist()[:3]:
        yield f"{image_id} of the catalog is in no state"


def _all_rejects(dataset: Dataset) -> list[pa.Table]:
    shards = [shard.name for shard in dataset.info.shards if shard.num_rejected]
    return [read_table(dataset.store, rejects_name(name)) for name in ["plan", *shards]]


def _check_unknown_files(dataset: Dataset) -> Iterator[str]:
    """Files beside the shards that dataset.json does not name."""
    shards = dataset.info.shards
    known = {shard.tar_name for shard in shards}
    known |= {index_part_name(shard.name) for shard in shards}
    known |= {rejects_name(name) for name in ["plan", *(shard.name for shard in shards)]}
    for folder in (*dataset.splits, "index", "rejects"):
        for name in dataset.store.list(folder):
            if name not in known:
                yield f"{name} belongs to no shard of dataset.json"
