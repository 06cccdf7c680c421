"""Proof that a dataset is whole: tars, index, dataset.json, checksums, plan and ledger agree.

What is on storage is compared to SHA256SUMS first, and parsed only where it is what was written.
"""

import hashlib
import json
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serengeti_etl.catalog.splits import keyed_digest
from serengeti_etl.cluster import Runner
from serengeti_etl.dataset.editions import parse_editions
from serengeti_etl.dataset.index import (
    CATALOG_FILE,
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    PLAN_FILE,
    PLAN_SETTINGS_FILE,
    UNREADABLE,
    Dataset,
    ShardInfo,
    canonical_bytes,
    index_part_name,
    parse_rejects,
    parse_report,
    parse_table,
    read_table,
    rejects_name,
)
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.dataset.rejects import read_rejects
from serengeti_etl.dataset.sums import (
    PIECE_NUM_BYTES,
    SUMS_FILE,
    file_names,
    plan_files,
    read_sums,
    sha256_of,
    shard_files,
)
from serengeti_etl.dataset.tar_reader import TarReader
from serengeti_etl.errors import DatasetError, require
from serengeti_etl.storage import Store

_MAX_SIDECAR_NUM_BYTES = 1024 * 1024
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One disagreement.

    Attributes:
        shard: the shard that must be made again to mend it; None if no shard is to blame.
        name: the file that it was found in.
        message: one line: what disagrees with what.
    """

    shard: str | None
    name: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyTask:
    """One shard to check.

    Attributes:
        store: where the dataset is.
        shard: what dataset.json says of it.
        sums: checksums of its files by name, as far as they are known.
    """

    store: Store
    shard: ShardInfo
    sums: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names this task on a cluster; the same shard elsewhere is another."""
        what = f"{self.store.url} {self.shard} {sorted(self.sums.items())}"
        return f"verify-{self.shard.name}-{hashlib.sha256(what.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCheck:
    """What one shard is like.

    Attributes:
        problems: every disagreement inside it.
        rows_sha256: of the rows of its index part; None if they cannot be read.
    """

    problems: tuple[Problem, ...]
    rows_sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was read, and every disagreement found.

    Attributes:
        num_shards: shards read.
        num_samples: samples in them, by dataset.json.
        num_bytes: bytes of their tars, by dataset.json.
        num_shards_in_all: shards of the dataset.
        problems: sorted by their message.
    """

    num_shards: int
    num_samples: int
    num_bytes: int
    num_shards_in_all: int
    problems: tuple[Problem, ...]


OnShard = Callable[[ShardInfo], None]


def verify_dataset(
    url: str, runner: Runner, on_shard: OnShard | None = None, share: float = 1.0
) -> Verification:
    """Every disagreement inside the dataset at ``url``.

    Args:
        url: folder or bucket prefix that holds dataset.json.
        runner: where shards are read.
        on_shard: called with each shard that has been checked.
        share: of the shards to read, above 0 to 1: always the same ones, and a larger share holds
            those of a smaller one. All that is no shard is read in any case.

    Raises:
        DatasetError: there is no dataset to check, or its dataset.json is damaged.
        ConfigError: ``share`` is impossible.
    """
    require(0 < share <= 1, "sample", share, "a share above 0, at most 1")
    dataset = Dataset(Store(url=url))
    return verify_shards(dataset, _sample(dataset.info.shards, share), runner, on_shard)


def _sample(shards: Sequence[ShardInfo], share: float) -> tuple[ShardInfo, ...]:
    """Some of the shards, in order."""

    def rank(shard: ShardInfo) -> bytes:
        return keyed_digest(shard.name, purpose="verify", seed=0)

    chosen = set(sorted(shards, key=rank)[: math.ceil(share * len(shards))])
    return tuple(shard for shard in shards if shard in chosen)


def verify_shards(
    dataset: Dataset,
    shards: Sequence[ShardInfo],
    runner: Runner,
    on_shard: OnShard | None = None,
) -> Verification:
    """As ``verify_dataset``, of these shards of ``dataset``."""
    unfinished = _unfinished(dataset)
    sums, problems = _known_sums(dataset, unfinished)
    digests: dict[str, str] = {}
    for outcome in runner.map(check_shard, _tasks(dataset.store, shards, sums)):
        shard = outcome.task.shard
        if outcome.result is not None:
            problems += outcome.result.problems
            if outcome.result.rows_sha256 is not None:
                digests[shard.name] = outcome.result.rows_sha256
        else:
            message = f"{shard.name}: cannot be read: {outcome.error}"
            problems.append(Problem(shard=shard.name, name=shard.tar_name, message=message))
        if on_shard is not None:
            on_shard(shard)
    problems += _check_whole(dataset, sums, digests, unfinished)
    return Verification(
        num_shards=len(shards),
        num_samples=sum(shard.num_samples for shard in shards),
        num_bytes=sum(shard.num_bytes for shard in shards),
        num_shards_in_all=len(dataset.info.shards),
        problems=tuple(sorted(problems, key=lambda problem: problem.message)),
    )


def _tasks(
    store: Store, shards: Iterable[ShardInfo], sums: Mapping[str, str]
) -> Iterator[VerifyTask]:
    for shard in shards:
        known = {name: sums[name] for name in shard_files(shard) if name in sums}
        yield VerifyTask(store=store, shard=shard, sums=known)


def _of_file(name: str, message: str) -> Problem:
    """A problem that no shard is to blame for."""
    return Problem(shard=None, name=name, message=message)


def _unfinished(dataset: Dataset) -> Problem | None:
    """That an edition is being added, if so: then the plan's files are those of that one."""
    try:
        said = dataset.store.read_json(PLAN_SETTINGS_FILE)
        num_editions = len(parse_editions(said.get("editions", [])))
        is_changing = said.get("is_changing", False)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None
    if not is_changing and num_editions <= max(1, len(dataset.info.editions)):
        return None
    return _of_file(
        PLAN_SETTINGS_FILE,
        f"{PLAN_SETTINGS_FILE} has an edition more than {DATASET_FILE}: until `serengeti-etl "
        "convert` has finished it, no more than the shards and the index of before can be proved",
    )


def _known_sums(
    dataset: Dataset, unfinished: Problem | None
) -> tuple[dict[str, str], list[Problem]]:
    """The checksums, {} if there are none, and what is wrong with them."""
    try:
        sums = read_sums(dataset.store)
    except DatasetError as error:
        return {}, [_of_file(SUMS_FILE, str(error))]
    if sums is None:
        message = f"{SUMS_FILE} is missing; `serengeti-etl repair`, or `convert` again, makes it"
        return {}, [_of_file(SUMS_FILE, message)]
    expected = set(file_names(dataset.info))
    expected -= set(plan_files(dataset.info.editions)) if unfinished else set()
    names = sorted(sums.keys() ^ expected)
    problems = [f"{SUMS_FILE} and {DATASET_FILE} disagree on whether there is {n}" for n in names]
    problems += [
        f"{SUMS_FILE} and {DATASET_FILE} disagree on the sha256 of {shard.tar_name}"
        for shard in dataset.info.shards
        if sums.get(shard.tar_name, shard.sha256) != shard.sha256
    ]
    return sums, [_of_file(SUMS_FILE, problem) for problem in problems]


def check_shard(task: VerifyTask) -> ShardCheck:
    """The disagreements between one tar, its index part, rejects, checksums and dataset.json.

    Raises:
        OSError: the store failed on every try.
    """
    rows, problems = _read_part(task)
    found = [_in_shard(task, rejects_name(task.shard.name), text) for text in _check_rejects(task)]
    found += [_in_shard(task, task.shard.tar_name, text) for text in _check_tar(task, rows)]
    digest = None if rows is None else hashlib.sha256(canonical_bytes(rows)).hexdigest()
    part = index_part_name(task.shard.name)
    found += [_in_shard(task, part, text) for text in problems]
    return ShardCheck(problems=tuple(found), rows_sha256=digest)


def _in_shard(task: VerifyTask, name: str, message: str) -> Problem:
    return Problem(shard=task.shard.name, name=name, message=message)


def _read_part(task: VerifyTask) -> tuple[pa.Table | None, list[str]]:
    """The rows of the index part, None where they cannot be read, and what is wrong with it."""
    shard, name = task.shard, index_part_name(task.shard.name)
    try:
        content = task.store.read(name)
    except FileNotFoundError:
        return None, [f"{name} is missing"]
    if not _is_as_summed(task, name, content):
        return None, [f"{name}: {len(content)} bytes that are not those of {SUMS_FILE}"]
    try:
        rows = parse_table(content).replace_schema_metadata(None)
    except UNREADABLE as error:
        return None, [f"{name} cannot be read: {error}"]
    if not rows.schema.equals(INDEX_SCHEMA):
        return None, [f"{name} does not have the columns of this format"]
    problems = []
    if parse_report(content) != shard:
        problems.append(f"{name} disagrees with {DATASET_FILE}")
    if rows.num_rows != shard.num_samples:
        problems.append(f"{shard.name}: {rows.num_rows} index rows, {shard.num_samples} samples")
    return rows, problems


def _is_as_summed(task: VerifyTask, name: str, content: bytes) -> bool:
    known = task.sums.get(name)
    return known is None or known == hashlib.sha256(content).hexdigest()


def _check_rejects(task: VerifyTask) -> Iterator[str]:
    wanted, name = task.shard.num_rejected, rejects_name(task.shard.name)
    try:
        content = task.store.read(name)
    except FileNotFoundError:
        if wanted:
            yield f"{name}: 0 rows, {wanted} in {DATASET_FILE}"
        return
    if not _is_as_summed(task, name, content):
        yield f"{name}: {len(content)} bytes that are not those of {SUMS_FILE}"
        return
    try:
        num_rows = parse_rejects(content, task.shard.name).num_rows
    except UNREADABLE as error:
        yield f"{name} cannot be read: {error}"
        return
    if num_rows != wanted:
        yield f"{name}: {num_rows} rows, {wanted} in {DATASET_FILE}"


def _check_tar(task: VerifyTask, rows: pa.Table | None) -> Iterator[str]:
    """What is wrong with the tar, whose members are compared with ``rows`` if there are any."""
    shard = task.shard
    try:
        file = task.store.open_input(shard.tar_name, PIECE_NUM_BYTES)
    except FileNotFoundError:
        yield f"{shard.tar_name} is missing"
        return
    with file:
        tar = TarReader(file)
        found = [] if rows is None else list(_check_members(tar, rows.to_pylist()))
        digest = tar.finish()
    if digest != shard.sha256:
        wanted = f"{shard.num_bytes} bytes with sha256 {shard.sha256[:12]}…"
        yield f"{shard.tar_name}: {tar.num_bytes} bytes that are not the {wanted} of {DATASET_FILE}"
        return
    if tar.num_bytes != shard.num_bytes:
        yield f"{shard.tar_name}: {tar.num_bytes} bytes, {shard.num_bytes} in {DATASET_FILE}"
    yield from (f"{shard.name}: {problem}" for problem in found)


def _check_members(tar: TarReader, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Disagreements between the members of a tar and its index rows."""
    try:
        for row in rows:
            yield from _check_sample(tar, row)
        if tar.next_member() is not None:
            yield f"the tar has more members than those of its {len(rows)} index rows"
    except (tarfile.TarError, UnicodeDecodeError) as error:
        yield f"the tar cannot be read: {error}"


def _check_sample(tar: TarReader, row: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the two members of one index row. Raises tarfile.TarError."""
    name = row["image_id"]
    size = _size_of_next(tar, f"{name}.jpg")
    if (tar.num_bytes, size) != (row["offset"], row["num_bytes"]):
        yield f"{name}: lies elsewhere in the tar than the index says"
    yield from (f"{name}: {problem}" for problem in _check_jpeg(tar, row["sha256"]))
    size = _size_of_next(tar, f"{name}.json")
    sidecar = b"".join(tar.pieces()) if size <= _MAX_SIDECAR_NUM_BYTES else b""
    if not _same_labels(sidecar, row):
        yield f"{name}: its json disagrees with the index"


def _size_of_next(tar: TarReader, wanted: str) -> int:
    member = tar.next_member()
    if member is None or member.name != wanted:
        found = "its end" if member is None else member.name
        raise tarfile.ReadError(f"{found} stands where the index has {wanted}")
    return member.size


def _check_jpeg(tar: TarReader, sha256: str) -> Iterator[str]:
    digest, start, end = hashlib.sha256(), b"", b""
    for piece in tar.pieces():
        digest.update(piece)
        start = start or piece[:2]
        end = (end + piece[-2:])[-2:]
    if digest.hexdigest() != sha256:
        yield "its bytes are not those of the index's sha256"
    elif (start, end) != (_JPEG_START, _JPEG_END):
        yield "it is no whole JPEG: its first or last two bytes are not those of one"


def _same_labels(sidecar: bytes, row: dict[str, Any]) -> bool:
    try:
        value = json.loads(sidecar)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False
    moment = row["datetime"].isoformat(sep=" ") if row["datetime"] else None
    known = {name: row[name] for name in value if name in row}
    return bool(value == known | {"datetime": moment})


def _check_whole(
    dataset: Dataset,
    sums: Mapping[str, str],
    digests: Mapping[str, str],
    unfinished: Problem | None,
) -> Iterator[Problem]:
    """Disagreements between all that is no shard, and of it with the shards' index rows."""
    if unfinished is not None:
        yield unfinished
        found = _guarded(INDEX_FILE, _check_index(dataset, digests))
        yield from (_of_file(INDEX_FILE, message) for message in found)
        return
    yield from (
        _of_file(name, f"{name} belongs to no shard of {DATASET_FILE}")
        for name in _unknown_files(dataset)
    )
    damaged = list(_check_files(dataset, sums))
    yield from damaged
    names = {problem.name for problem in damaged}
    checks = {
        INDEX_FILE: _check_index(dataset, digests),
        PLAN_SETTINGS_FILE: _check_plan_settings(dataset),
        PLAN_FILE: _check_plan(dataset),
    }
    for name, check in checks.items():
        if name not in names:
            yield from (_of_file(name, message) for message in _guarded(name, check))
    if not names & {INDEX_FILE, CATALOG_FILE, rejects_name("plan")}:
        found = _guarded("the index, the catalog or the rejects", _check_ledger(dataset))
        yield from (_of_file(DATASET_FILE, message) for message in found)


def _guarded(what: str, check: Iterator[str]) -> Iterator[str]:
    """What ``check`` finds, up to where it cannot read what it needs."""
    try:
        yield from check
    except UNREADABLE as error:
        yield f"{what} cannot be read: {error}"


def _check_files(dataset: Dataset, sums: Mapping[str, str]) -> Iterator[Problem]:
    """Files of no shard that are missing, unreadable, or not the bytes that were written."""
    for name in (*plan_files(dataset.info.editions), INDEX_FILE, DATASET_FILE):
        for message in _guarded(name, _check_file(dataset.store, name, sums)):
            yield _of_file(name, message)


def _check_file(store: Store, name: str, sums: Mapping[str, str]) -> Iterator[str]:
    digest = sha256_of(store, name)
    if digest is None:
        yield f"{name} is missing"
    elif digest != sums.get(name, digest):
        yield f"{name} is not the bytes that {SUMS_FILE} has of it"
    elif name.endswith(".json"):
        store.read_json(name)
    else:
        with store.open_input(name, PIECE_NUM_BYTES) as file:
            for _ in pq.ParquetFile(file).iter_batches(use_threads=False):
                pass


def _check_index(dataset: Dataset, digests: Mapping[str, str]) -> Iterator[str]:
    """Shards whose rows in the compacted index are not those of their part."""
    shards = dataset.info.shards
    with dataset.store.open_input(INDEX_FILE, PIECE_NUM_BYTES) as source:
        file = pq.ParquetFile(source)
        if not file.schema_arrow.equals(INDEX_SCHEMA):
            yield f"{INDEX_FILE} does not have the columns of this format"
        elif file.metadata.num_rows != sum(shard.num_samples for shard in shards):
            yield f"{INDEX_FILE} has {file.metadata.num_rows} rows, the shards have another number"
        else:
            for shard, rows in zip(shards, _rows_of_each(file, shards), strict=True):
                digest = hashlib.sha256(canonical_bytes(rows)).hexdigest()
                if digest != digests.get(shard.name, digest):
                    yield f"{INDEX_FILE} disagrees with {index_part_name(shard.name)}"


def _rows_of_each(file: pq.ParquetFile, shards: Iterable[ShardInfo]) -> Iterator[pa.Table]:
    """The rows of each shard in turn, with one row group in memory at a time."""
    groups = (
        file.read_row_group(at, use_threads=False) for at in range(file.metadata.num_row_groups)
    )
    waiting = file.schema_arrow.empty_table()
    for shard in shards:
        while waiting.num_rows < shard.num_samples:
            waiting = pa.concat_tables([waiting, next(groups)])
        yield waiting.slice(0, shard.num_samples)
        waiting = waiting.slice(shard.num_samples)


def _check_plan_settings(dataset: Dataset) -> Iterator[str]:
    info = dataset.info
    said = dataset.store.read_json(PLAN_SETTINGS_FILE)
    wanted = {"plan_hash": info.plan_hash, "settings": info.settings}
    if not isinstance(said, dict) or {name: said.get(name) for name in wanted} != wanted:
        yield f"{PLAN_SETTINGS_FILE} and {DATASET_FILE} disagree on the settings"


def _check_plan(dataset: Dataset) -> Iterator[str]:
    """Shards that are not in the plan as dataset.json has them."""
    shards = dataset.info.shards
    with dataset.store.open_input(PLAN_FILE, PIECE_NUM_BYTES) as source:
        metadata = pq.ParquetFile(source).metadata
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    if sizes != [shard.num_samples + shard.num_rejected for shard in shards]:
        yield f"{PLAN_FILE} and {DATASET_FILE} disagree on the images of the shards"


def _check_ledger(dataset: Dataset) -> Iterator[str]:
    """Whether every image of the catalog is in one state, and dataset.json counts them so."""
    catalog = read_table(dataset.store, CATALOG_FILE, ["image_id"])
    index = read_table(dataset.store, INDEX_FILE, ["image_id"])
    rejects = _all_rejects(dataset)
    ledger = Ledger.count(catalog.num_rows, index.num_rows, rejects)
    try:
        ledger.check()
    except DatasetError as error:
        yield str(error)
    if ledger.as_dict() != dataset.info.ledger:
        yield f"the ledger of {DATASET_FILE} is not that of the files: {ledger.as_dict()}"
    yield from _check_states(catalog, index, rejects)


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
    store, info = dataset.store, dataset.info
    excluded = read_table(store, rejects_name("plan"))
    return [excluded, read_rejects(store, info.shards, info.editions)]


def _unknown_files(dataset: Dataset) -> Iterator[str]:
    """Files beside the shards that dataset.json does not name."""
    known = {name for shard in dataset.info.shards for name in shard_files(shard)}
    known.add(rejects_name("plan"))
    for folder in (*dataset.splits, "index", "rejects"):
        yield from (name for name in dataset.store.list(folder) if name not in known)
