"""How Snapshot Serengeti names a sequence: SER_S1#D04#6#7 is season, site, roll and capture."""

import pyarrow as pa
import pyarrow.compute as pc

_PARTS = r"^(?P<season>[^#]+)#(?P<site>[^#]+)#[^#]+#[^#]+$"


def places_of(seq_ids: pa.Array) -> dict[str, pa.Array]:
    """``site`` and ``season`` as each seq_id tells them; null where it is of another form."""
    parts = pc.extract_regex(seq_ids, _PARTS)
    return {"site": parts.field("site"), "season": plain_seasons(parts.field("season"))}


def plain_seasons(seasons: pa.Array) -> pa.Array:
    """The same seasons, as S1 to S11."""
    # LILA writes S11 alone as "SER_S11"; a site can be called S10, so only the start is looked at.
    return pc.replace_substring_regex(seasons, "^SER_", "")
