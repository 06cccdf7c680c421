"""Tags of a Camtrap DP: ``key:value``, joined by `` | ``.

Our writer keeps in them what the format has no place for, and our reader finds it there.
"""

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pandas as pd

NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


def tag_values(texts: pa.Array, key: str) -> pa.Array:
    """What each text of tags says of ``key``; null where it says nothing."""
    found = pc.extract_regex(texts, rf"(?:^|\|)\s*{key}:(?P<value>[^|]*)")
    values = pc.utf8_trim_whitespace(pc.struct_field(found, "value"))
    if not pc.any(pc.match_substring(values, "%")).as_py():
        return values
    return pa.array([one and unquote(one) for one in values.to_pylist()], pa.string())


def quoted(values: pa.Array) -> pa.Array:
    """The same texts, fit to be values of tags: ``tag_values`` gives them back."""
    if not pc.any(pc.match_substring_regex(values, r"[%|]|^[^!-~]|[^!-~]$")).as_py():
        return values
    return pa.array(
        [
            one and re.sub(r"[%|]|^\s+|\s+$", lambda found: quote(found[0], safe=""), one)
            for one in values.to_pylist()
        ],
        pa.string(),
    )


def tag_numbers(tags: pa.Array, key: str) -> pa.Array:
    """Numbers of tags; a tag of that name with another value is not ours, and is null."""
    values = tag_values(tags, key)
    return pc.cast(where(pc.match_substring_regex(values, NUMBER), values), pa.float64())


def where(condition: pa.Array, values: pa.Array) -> pa.Array:
    """The same column, null where ``condition`` does not hold."""
    return pc.if_else(pc.fill_null(condition, fill_value=False), values, None)


def text_column(values: "pd.Series[Any]") -> pa.Array:
    """A column of text in Arrow, null where pandas has none."""
    found = pa.array(values, pa.string(), from_pandas=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
