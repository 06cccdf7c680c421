"""A label file opened: one clear error where it is not there, or is a damaged zip."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

_READ_AHEAD_NUM_BYTES = 8 << 20  # it is read from end to end


@contextmanager
def open_label_file(source: Store, name: str) -> Iterator[BinaryIO]:
    """The label file ``name``, seekable, open for reading.

    Raises:
        CatalogError: there is none.
    """
    try:
        with source.open_input(name, _READ_AHEAD_NUM_BYTES) as file:
            yield file
    except FileNotFoundError:
        raise CatalogError(f"there is no label file {source.at(name).url}") from None


@contextmanager
def open_label_zip(source: Store, name: str) -> Iterator[zipfile.ZipFile]:
    """The zip ``name``, open for reading.

    Raises:
        CatalogError: there is none; or it is damaged, wherever in its reading that shows.
    """
    with open_label_file(source, name) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CatalogError(
                f"{name or source.url} is a damaged zip ({error}); fetch it again"
            ) from error
