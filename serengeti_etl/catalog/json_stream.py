"""A large JSON object read entry by entry, in memory bounded by one entry.

Python's own decoder works on a moving window of text: it takes the bare ``NaN`` that LILA's files
hold, which stricter stream parsers refuse, and is faster than they are (``benchmarks/catalog.py``).
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from serengeti_etl.errors import CatalogError

_CHUNK_NUM_BYTES = 1 << 20
_MAX_ENTRY_CHARS = 1 << 26
"""No entry is longer: what cannot be read by then is damaged, not unfinished."""
_MAX_TOKEN_CHARS = len("-Infinity")
_SPACE = re.compile(r"[ \t\r\n]*")
_SPACE_OR_COMMA = re.compile(r"[ \t\r\n,]*")


def iter_members(file: BinaryIO, name: str, batch_size: int = 20_000) -> Iterator[tuple[str, Any]]:
    """The members of the object in ``file`` in order: key and value.

    A list comes in parts of at most ``batch_size`` entries, each under its key (an empty list as
    one empty part); any other value comes whole.

    Raises:
        CatalogError: the text is cut, damaged, or no JSON object; says where.
    """
    window = _Window(file, name)
    if window.peek() != "{":
        raise CatalogError(f"{name} does not hold a JSON object: it is not such a label file")
    window.skip(1)
    while window.peek() != "}":
        key = window.value("the next key")
        if not isinstance(key, str) or window.peek() != ":":
            raise window.damaged("a key", "it has no value")
        window.skip(1)
        if window.peek() == "[":
            window.skip(1)
            yield from ((key, batch) for batch in _batches(window, key, batch_size))
        else:
            yield key, window.value(f"the value of {key}")
        if window.peek() == ",":
            window.skip(1)


def _batches(window: "_Window", key: str, batch_size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for entry in window.entries(key):
        batch.append(entry)
        if len(batch) == batch_size:
            yield batch
            batch = []
    yield batch


class _Window:
    """The text around the place that is being read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is not space."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                raise self.cut("what stands next")

    def skip(self, num_chars: int) -> None:
        self._at += num_chars

    def value(self, what: str) -> Any:
        """The next value; ``what`` names it in errors."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._may_go_on(error):
                    raise self.damaged(what, f"{error.msg} in {self._around(error)!r}") from error
                if not self._read():
                    raise self.cut(what) from error
            else:
                if end < len(self._text):
                    self._at = end
                    return value
                # Of 10 the window may hold only the 1.
                if not self._read():
                    self._at = len(self._text)
                    return value

    def entries(self, key: str) -> Iterator[Any]:
        """The entries of the list that has just been opened."""
        count = 0
        match, decode = _SPACE_OR_COMMA.match, _decode
        while True:
            at = match(self._text, self._at).end()  # type: ignore[union-attr]
            try:
                value, self._at = decode(self._text, at)
                if self._at == len(self._text) and not isinstance(value, dict):
                    self._at = at
                    value = self.value(f"entry {count + 1:,} of {key}")
            except json.JSONDecodeError:
                # Not whole inside the window, or no entry at all: the slow way tells which.
                if self.peek() == ",":
                    self.skip(1)
                if self.peek() == "]":
                    self.skip(1)
                    return
                value = self.value(f"entry {count + 1:,} of {key}")
            count += 1
            yield value

    def damaged(self, what: str, why: str) -> CatalogError:
        """The error to raise when ``what`` stands there and cannot be read."""
        return CatalogError(
            f"{self._name}: {what} is not valid JSON ({why}); mend it, or fetch the file again"
        )

    def cut(self, what: str) -> CatalogError:
        """The error to raise when the file ends before ``what`` does."""
        return CatalogError(
            f"{self._name} ends in the middle: {what} is not whole; fetch the file again"
        )

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """True when a value may be whole with more text: its fault is that the window ends."""
        if len(self._text) - self._at > _MAX_ENTRY_CHARS:
            return False
        is_at_end = error.pos >= len(self._text) - _MAX_TOKEN_CHARS
        return is_at_end or error.msg.startswith("Unterminated string")

    def _around(self, error: json.JSONDecodeError) -> str:
        return self._text[max(0, error.pos - 20) : error.pos + 20]

    def _read(self) -> bool:
        """Move the window on; False at the end of the file."""
        rest = self._text[self._at :]
        # Twice as much when the last read did not help: long entries stay cheap.
        content = self._file.read(max(_CHUNK_NUM_BYTES, len(rest)))
        try:
            self._text, self._at = rest + self._decode(content, final=not content), 0
        except UnicodeDecodeError as error:
            raise CatalogError(f"{self._name} is not UTF-8 text: {error}") from error
        return bool(content)


_decode = json.JSONDecoder().raw_decode
