"""JSON read entry by entry says the same as Python's own parser."""

import io
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog import json_stream
from serengeti_etl.catalog.json_stream import iter_members

# What UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LISTS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3) | st.integers(), max_size=8)


def gathered(text: bytes, batch_size: int = 3) -> dict[str, Any]:
    """The whole object put together from its parts."""
    found: dict[str, Any] = {}
    for key, value in iter_members(io.BytesIO(text), "file", batch_size):
        found[key] = found.get(key, []) + value if isinstance(value, list) else value
    return found


@settings(max_examples=150, deadline=None)
@given(
    value=st.dictionaries(TEXT, LISTS | st.integers() | TEXT, max_size=5),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 40),
    ascii_only=st.booleans(),
)
def test_parts_put_together_are_the_whole(
    value: dict[str, Any], indent: int | None, chunk: int, *, ascii_only: bool
) -> None:
    """Whatever is in the object, and wherever the window ends, nothing is lost or changed."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_NUM_BYTES", chunk)
        assert gathered(text.encode()) == value


def test_bare_nan_is_read_and_batches_are_bounded() -> None:
    """``NaN`` is a float, and a list comes in parts of at most the asked size."""
    (entry,) = gathered(b'{"a": [{"count": NaN}]}')["a"]
    assert math.isnan(entry["count"])
    text = json.dumps({"a": [{"n": n} for n in range(10)]}).encode()
    sizes = [len(value) for _, value in iter_members(io.BytesIO(text), "file", 4)]
    assert sizes == [4, 4, 2]


def test_damage_is_named_without_reading_to_the_end() -> None:
    """An invalid entry is reported from where it stands, however much follows."""

    class Endless(io.RawIOBase):
        num_read = 0

        def read(self, size: int = -1) -> bytes:
            self.num_read += size
            assert self.num_read < 50_000_000, "read on after the damage"
            return b'{"a": [{"x": 1}, {"x" 2}, ' if self.num_read == size else b'{"x": 3},' * 1000

    with pytest.raises(ValueError, match="entry 2 of a is not valid JSON"):
        list(iter_members(Endless(), "file"))  # type: ignore[arg-type]
