"""Photographs inside zip and tar archives, which are read where they lie and never unpacked.

``list_members`` reads only the end of a zip, or hops over a tar, and says where each member's
bytes are. ``match_members`` finds the photographs of a catalog among them. Then one range request
per photograph brings what ``member.member_bytes`` turns into the file's content, checked against
what the archive declares.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.folders import IMAGE_EXTENSIONS
from serengeti_etl.config import ARCHIVE_PIECE, COMPRESSED_ARCHIVE, without_query
from serengeti_etl.convert.member import LOCATION_SCHEMA, MEMBER_SCHEMA
from serengeti_etl.convert.tar_archive import HOP_NUM_BYTES, list_tar
from serengeti_etl.convert.zip_archive import list_zip
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.storage import Store

_PHOTOGRAPH = re.compile("(?i)({})$".format("|".join(map(re.escape, IMAGE_EXTENSIONS))))
_NUM_PROBES = 64


def check_archive_name(name: str) -> None:
    """Nothing, unless ``name`` is that of an archive that cannot be read by parts.

    Raises:
        ConfigError: it is compressed as a whole, or a piece of a split zip.
    """
    if COMPRESSED_ARCHIVE.search(without_query(name)):
        raise ConfigError(
            f"{name} cannot be read by parts: unpack or recompress as plain tar or zip"
        )
    if ARCHIVE_PIECE.search(without_query(name)):
        raise ConfigError(
            f"{name} cannot be read alone, being a piece of a split zip: join the pieces first, "
            "such as by zip -s 0 split.zip --out whole.zip"
        )


def list_members(store: Store, archives: Sequence[str]) -> pa.Table:
    """Every file inside ``archives``, by name: ``MEMBER_SCHEMA``, in the order of the archives.

    Folders and what operating systems leave behind are no files. Where two photographs of one
    name are the same by size and CRC, the first is taken; of other files, always.

    Args:
        store: where the archives lie.
        archives: their names there, each a zip or a plain tar by its ending.

    Raises:
        ConfigError: an archive is of a kind that cannot be read by parts.
        CatalogError: there is no such archive, it is damaged or incomplete, or two different
            photographs have one name.
        OSError: the store failed.
    """
    for name in archives:
        check_archive_name(name)
    tables = [_list_archive(store, name) for name in archives]
    return _first_of_each_name(pa.concat_tables([MEMBER_SCHEMA.empty_table(), *tables]))


def match_members(members: pa.Table, file_names: Sequence[str] | pa.ChunkedArray) -> pa.Table:
    """Where the file of each name lies: a row of ``LOCATION_SCHEMA`` for each, null if nowhere.

    If the archives have none of the names as they are, the names are looked for below a folder:
    published zips often have one more on top.

    Args:
        members: as ``list_members`` gives them.
        file_names: the names wanted, in any order, repeated or not.
    """
    wanted = pa.chunked_array([file_names]) if isinstance(file_names, Sequence) else file_names
    wanted = wanted.cast(pa.string())
    rows = pc.index_in(wanted, value_set=members["name"])
    if len(rows) and rows.null_count == len(rows):
        prefix = _folder_above(members["name"], wanted)
        below = pc.binary_join_element_wise(prefix, wanted, "")
        rows = pc.index_in(below, value_set=members["name"])
    return members.select(LOCATION_SCHEMA.names).take(rows)


def _list_archive(store: Store, name: str) -> pa.Table:
    is_zip = without_query(name).lower().endswith(".zip")
    read = list_zip if is_zip else list_tar
    try:
        with store.open_input(name, 1 << 20 if is_zip else HOP_NUM_BYTES) as file:
            return read(file, name)
    except FileNotFoundError:
        raise CatalogError(f"there is no archive {store.at(name).url}") from None


def _first_of_each_name(members: pa.Table) -> pa.Table:
    """``members`` less those whose name came before."""
    names = pc.unique(members["name"])
    if len(names) == members.num_rows:
        return members
    codes = pc.index_in(members["name"], value_set=names).to_numpy()
    _, first = np.unique(codes, return_index=True)
    again = np.flatnonzero(first[codes] != np.arange(len(codes)))
    _check_same(members.take(first[codes[again]]), members.take(again))
    return members.take(first)


def _check_same(firsts: pa.Table, seconds: pa.Table) -> None:
    is_same = pc.and_(
        pc.equal(firsts["num_bytes"], seconds["num_bytes"]),
        pc.fill_null(pc.equal(firsts["crc32"], seconds["crc32"]), fill_value=False),
    )
    for row in np.flatnonzero(~is_same.to_numpy()):
        name = seconds["name"][row].as_py()
        # Every part of a set may have a README of its own.
        if _PHOTOGRAPH.search(name):
            places = [table["archive"][row].as_py() for table in (firsts, seconds)]
            raise CatalogError(
                f"{name} is in {places[0]} and again in {places[1]}, and they are not known to be "
                "the same: give archives that hold each photograph once"
            )


def _folder_above(names: pa.ChunkedArray, wanted: pa.ChunkedArray) -> str:
    """The folder, such as ``S1/``, below which most of ``wanted`` are looked for; "" if none."""
    found: Counter[str] = Counter()
    # Spread over all, because the archives may hold only a part of what is wanted.
    for row in np.unique(np.linspace(0, len(wanted) - 1, _NUM_PROBES, dtype=np.int64)):
        ending = f"/{wanted[row].as_py()}"
        ending_in_it = names.filter(pc.ends_with(names, ending))
        if len(ending_in_it) == 1:
            found[ending_in_it[0].as_py().removesuffix(ending) + "/"] += 1
    return found.most_common(1)[0][0] if found else ""
