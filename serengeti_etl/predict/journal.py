"""What has been predicted, kept beside the output until that is whole: a killed prediction goes on.

::

    .predictions.csv.predicted/000000.arrow     photographs 0 to 511, say
    .predictions.csv.predicted/000001.arrow     those that follow

Each part says what was predicted by what, and with which photograph it begins. What does not fit is
passed over and written anew, so that nothing of another model or list can come into the output.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from serengeti_etl.errors import ImageError
from serengeti_etl.predict.rows import PredictedImage
from serengeti_etl.storage import Store

SECONDS = 20.0
"""Between parts at least: a kill costs no more than that, and the parts stay few."""

MAX_ROWS = 8192
"""Photographs that wait for their part; then it comes sooner."""

_KEY, _START = b"predicted by", b"start"


class Journal:
    """Predicted photographs in order, from the first one on.

    Args:
        store: that the output lies in.
        folder: name of the journal there.
        key: all that decides a prediction: another key is another journal.

    Attributes:
        num_read: photographs that were taken from what a killed prediction left.
    """

    def __init__(self, store: Store, folder: str, key: str) -> None:
        self._store, self._folder, self._key = store, folder, key.encode()
        self._num_parts, self._num_added, self.num_read = 0, 0, 0
        self._waiting: list[PredictedImage] = []
        self._written = time.monotonic()

    def read(self) -> Iterator[PredictedImage]:
        """The photographs that are there, in order.

        Raises:
            OSError: the store failed on every try.
        """
        for name in self._store.list(self._folder):
            rows = self._part(name)
            if rows is None:
                return
            self._num_parts += 1
            self.num_read += len(rows)
            yield from rows

    def add(self, rows: Sequence[PredictedImage]) -> None:
        """Take the next photographs, also those that were read; what is new is kept.

        Raises:
            OSError: the store failed on every try.
        """
        self._num_added += len(rows)
        if self._num_added <= self.num_read:
            return
        self._waiting += rows
        is_time = time.monotonic() - self._written >= SECONDS
        if is_time or len(self._waiting) >= MAX_ROWS:
            name = f"{self._folder}/{self._num_parts:06d}.arrow"
            self._store.write(name, self._content(self._num_added - len(self._waiting)))
            self._num_parts += 1
            self._waiting, self._written = [], time.monotonic()

    def remove(self) -> None:
        """Leave nothing behind; the output is whole."""
        for name in self._store.list(self._folder):
            self._store.delete(name)
        folder = self._store.local_path(self._folder)
        if folder is not None:
            with contextlib.suppress(OSError):  # there was none, or somebody put something there
                folder.rmdir()

    def _part(self, name: str) -> list[PredictedImage] | None:
        """The rows of a part; None if they are not those that come next."""
        content = self._store.read(name)
        try:
            with pa.ipc.open_stream(content) as stream:
                table = stream.read_all()
        except (pa.ArrowException, OSError):  # as it calls what is cut
            return None
        said = table.schema.metadata or {}
        if (said.get(_KEY), said.get(_START)) != (self._key, b"%d" % self.num_read):
            return None
        return [_row(value) for value in table.to_pylist()]

    def _content(self, start: int) -> memoryview:
        rows = [_value(row) for row in self._waiting]
        table = pa.Table.from_pylist(rows, _SCHEMA)
        table = table.replace_schema_metadata({_KEY: self._key, _START: b"%d" % start})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return memoryview(sink.getvalue())


_SCHEMA = pa.schema(
    {
        "file_name": pa.string(),
        "seq_id": pa.string(),
        "site": pa.string(),
        "time": pa.timestamp("us"),
        "probabilities": pa.list_(pa.float64()),
        "reason": pa.string(),
        "message": pa.string(),
    }
)


def _value(row: PredictedImage) -> dict[str, object]:
    return {
        "file_name": row.file_name,
        "seq_id": row.seq_id,
        "site": row.site,
        "time": row.time,
        "probabilities": row.probabilities_C,
        "reason": row.failure and row.failure.reason,
        "message": row.failure and row.failure.message,
    }


def _row(value: dict[str, Any]) -> PredictedImage:
    probabilities, reason = value["probabilities"], value["reason"]
    return PredictedImage(
        file_name=value["file_name"],
        seq_id=value["seq_id"],
        site=value["site"],
        time=value["time"],
        probabilities_C=None if probabilities is None else np.array(probabilities),
        failure=None if reason is None else ImageError(reason, value["message"]),
    )
