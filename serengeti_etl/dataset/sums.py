"""SHA256SUMS: the checksum of every file of a dataset, dataset.json included.

Made as ``sha256sum`` makes it, so that ``sha256sum --check SHA256SUMS`` proves a downloaded dataset
without this package. The tars' checksums stand in dataset.json too; those of all else only here.
What a conversion says of itself, in the folder ``run``, is no part of the dataset: it is another
at every run, while a dataset's bytes follow from its plan.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from serengeti_etl.catalog.selection import SPLITS_FILE
from serengeti_etl.dataset.editions import RETRIED_FILE, Edition
from serengeti_etl.dataset.index import (
    ANNOTATIONS_FILE,
    CATALOG_FILE,
    DATASET_FILE,
    INDEX_FILE,
    PLAN_FILE,
    PLAN_SETTINGS_FILE,
    DatasetIndex,
    ShardInfo,
    index_part_name,
    rejects_name,
)
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store

SUMS_FILE = "SHA256SUMS"

PLAN_FILES = (
    ANNOTATIONS_FILE,
    CATALOG_FILE,
    SPLITS_FILE,
    rejects_name("plan"),
    PLAN_FILE,
    PLAN_SETTINGS_FILE,
)
"""What is there before the first shard; the plan's settings are written last."""

PIECE_NUM_BYTES = 8 * 1024 * 1024
"""Read at a time, so that memory stays the same however large a file is."""

_ALWAYS_FRESH = {INDEX_FILE, DATASET_FILE}
_NUM_THREADS = 8
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def shard_files(shard: ShardInfo) -> tuple[str, ...]:
    """Names of the files of one shard: the tar, the index part and, if any, the rejects."""
    names = (shard.tar_name, index_part_name(shard.name))
    return (*names, rejects_name(shard.name)) if shard.num_rejected else names


def plan_files(editions: Iterable[Edition]) -> tuple[str, ...]:
    """Names of what is there before the first shard of the last of ``editions``."""
    is_retried = any(edition.kind == "retry" for edition in editions)
    return (*PLAN_FILES, RETRIED_FILE) if is_retried else PLAN_FILES


def file_names(index: DatasetIndex) -> Iterator[str]:
    """Names of all files of a dataset but ``SUMS_FILE``."""
    yield from (*plan_files(index.editions), INDEX_FILE, DATASET_FILE)
    for shard in index.shards:
        yield from shard_files(shard)


def sha256_of(store: Store, name: str) -> str | None:
    """Checksum of a file, hexadecimal, read in pieces; None if there is none."""
    digest = hashlib.sha256()
    try:
        with store.open_input(name, PIECE_NUM_BYTES) as file:
            while piece := file.read(PIECE_NUM_BYTES):
                digest.update(piece)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def seal(store: Store, index: DatasetIndex, made: Collection[str]) -> None:
    """Write SHA256SUMS and, last, dataset.json: from this moment the dataset is complete.

    Args:
        store: where the dataset is.
        index: what dataset.json is to say.
        made: names of the shards that were made now. All else must be what it was when the dataset
            was sealed before, if it was: or damage would get a checksum of its own.

    Raises:
        DatasetError: a file is not there, or is not what it was.
    """
    sums = {shard.tar_name: shard.sha256 for shard in index.shards}
    sums[DATASET_FILE] = hashlib.sha256(index.content()).hexdigest()
    names = [name for name in file_names(index) if name not in sums]
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="sums") as pool:
        digests = pool.map(lambda one: sha256_of(store, one), names)
        for name, digest in zip(names, digests, strict=True):
            if digest is None:
                raise DatasetError(f"{name} is missing at {store.url}; run `serengeti-etl repair`")
            sums[name] = digest
    fresh = {name for one in index.shards if one.name in made for name in shard_files(one)}
    _refuse_damage(store, {name: sums[name] for name in sums.keys() - fresh - _ALWAYS_FRESH})
    store.write(SUMS_FILE, sums_content(sums))
    index.write(store)


def _refuse_damage(store: Store, sums: Mapping[str, str]) -> None:
    """Nothing, if SHA256SUMS has nothing else of these files."""
    try:
        known = read_sums(store) or {}
    except DatasetError:
        return
    damaged = sorted(name for name in sums if known.get(name, sums[name]) != sums[name])
    if damaged:
        raise DatasetError(
            f"{damaged[0]} at {store.url} is not what it was when the dataset was finished, as "
            f"{SUMS_FILE} has it ({len(damaged)} such files): run `serengeti-etl repair`"
        )


def sums_content(sums: Mapping[str, str]) -> bytes:
    """The bytes of SHA256SUMS for these checksums by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def read_sums(store: Store) -> dict[str, str] | None:
    """The checksums by name; None if there are none.

    Raises:
        DatasetError: the file is damaged.
    """
    try:
        content = store.read(SUMS_FILE)
    except FileNotFoundError:
        return None
    lines = content.decode("utf-8", errors="replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in matches if match is not None}
    if not sums or sums_content(sums) != content:
        raise DatasetError(
            f"{SUMS_FILE} at {store.url} is damaged; `serengeti-etl repair` makes it again"
        )
    return sums


def forget_sums(store: Store, names: Iterable[str]) -> None:
    """Take files that are about to change out of SHA256SUMS, if it is there and whole."""
    try:
        known = read_sums(store) or {}
    except DatasetError:
        return
    names = set(names)
    if names & known.keys():
        left = {name: digest for name, digest in known.items() if name not in names}
        store.write(SUMS_FILE, sums_content(left))


def refuse_damaged(store: Store, name: str) -> None:
    """Nothing, if a file is what SHA256SUMS has of it, or that has nothing of it.

    Raises:
        DatasetError: it is missing, or not what it was.
    """
    try:
        known = (read_sums(store) or {}).get(name)
    except DatasetError:
        return
    if known is not None and sha256_of(store, name) != known:
        raise DatasetError(f"{name} is not what it was when the dataset was finished")
