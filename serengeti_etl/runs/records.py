"""Files of JSON lines that grow while others read them."""

import json
import math
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serengeti_etl.storage import Store  # whoever only scores needs no storage

_BYTES_PER_SECOND = 100_000
"""Most that is published of one file on the mean: a bucket takes it whole each time."""

CONTENT_TYPE = "application/x-ndjson; charset=utf-8"


class Records:
    """Records of a run, kept in memory and put on storage whole, one line each.

    One thread adds records, another may publish them: what is on storage never gets shorter by
    that. Figures that are not finite are null there.

    Args:
        store: folder or bucket prefix of the run.
        name: of the file there.
    """

    def __init__(self, store: "Store", name: str) -> None:
        self._store, self._name = store, name
        self.records: list[dict[str, Any]] = []
        # Held until the store has them, or an older content could come after a newer one.
        self._writing = threading.Lock()
        self._content, self._num_encoded = bytearray(), 0
        self._num_published: int | None = None
        self._publish_again_at = 0.0

    def restore(self, num_records: int | None = None) -> None:
        """Take up the first ``num_records`` of what is on storage, all by default.

        Raises:
            FileNotFoundError: records are asked for, but there is no file.
            OSError: the store failed.
        """
        if num_records == 0:
            return
        lines = self._store.read(self._name).decode().splitlines()
        # What has been added already comes after them.
        self.records[:0] = [json.loads(line) for line in lines[:num_records]]

    def write(self) -> None:
        """Put all records on storage, whole or not at all. Raises as ``Store.write``."""
        with self._writing:
            self._encode()
            self._store.write(self._name, bytes(self._content))
            self._num_published = None  # with what ``publish`` says of it, it is not there

    def publish(self, *, is_last: bool = False) -> None:
        """Put all records on storage if some are new; a long file not each time, save at the end.

        Raises:
            OSError: the store failed; the next call tries again.
        """
        if len(self.records) == self._num_published:
            return
        if time.monotonic() < self._publish_again_at and not is_last:
            return
        with self._writing:
            num_records = self._encode()
            self._store.publish(self._name, bytes(self._content), CONTENT_TYPE)
            self._num_published = num_records
        self._publish_again_at = time.monotonic() + len(self._content) / _BYTES_PER_SECOND

    def _encode(self) -> int:
        """Bring the content up to date, each record once; how many records it has."""
        num_records = len(self.records)
        for record in self.records[self._num_encoded : num_records]:
            # NaN is no JSON; a figure that went wrong must not keep the others from being told.
            plain = {name: None if _is_wild(value) else value for name, value in record.items()}
            line = json.dumps(plain, allow_nan=False)
            self._content += f"{line}\n".encode()
        self._num_encoded = num_records
        return num_records


def _is_wild(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def plain_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among ``values``: of all else JSON and curves know nothing."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not _is_wild(value)
    }
