"""Sites on a map without a map: where they lie to each other, and how each fares."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Places = Mapping[str, tuple[float, float]]
"""Latitude and longitude of sites, in degrees."""

WIDTH, _MARGIN, _MAX_HEIGHT = 360, 28, 300
_LEAST, _LARGEST = 4.0, 13.0
_KM_PER_DEGREE = 111.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """A site on the map.

    Attributes:
        x: from the left.
        y: from the top.
        radius: larger with more sequences.
        is_better: than predicting class means.
        title: said when it is pointed at.
        name: of the site.
    """

    x: float
    y: float
    radius: float
    is_better: bool
    title: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteMap:
    """A map.

    Attributes:
        height: of the drawing, 360 wide.
        spots: the largest first, so that small ones lie on top.
        km_wide: kilometres from its left to its right.
        num_missing: sites without a place.
    """

    height: float
    spots: tuple[Spot, ...]
    km_wide: float
    num_missing: int


def draw_map(sites: Sequence[Mapping[str, Any]], places: Places) -> SiteMap | None:
    """The sites that have a place; None if none has.

    Args:
        sites: as ``evaluation.json`` has them.
        places: of sites.
    """
    found = [one for one in sites if one["site"] in places]
    if not found:
        return None
    middle = sum(places[one["site"]][0] for one in found) / len(found)
    squeeze = math.cos(math.radians(middle))
    flat = [(places[one["site"]][1] * squeeze, -places[one["site"]][0]) for one in found]
    left, top = (min(place[at] for place in flat) for at in (0, 1))
    wide, high = (max(place[at] for place in flat) - low for at, low in ((0, left), (1, top)))
    inner = WIDTH - 2 * _MARGIN
    scale = min(inner / max(wide, 1e-4), (_MAX_HEIGHT - 2 * _MARGIN) / max(high, 1e-4))
    most = max(one["num_sequences"] for one in found)
    spots = [
        Spot(
            x=round(_MARGIN + (inner - wide * scale) / 2 + (x - left) * scale, 2),
            y=round(_MARGIN + (y - top) * scale, 2),
            radius=round(max(_LEAST, _LARGEST * math.sqrt(one["num_sequences"] / most)), 2),
            is_better=one["score"] < one["class_means_score"],
            title=f"{one['site']}: score {one['score']:.4f}, {one['num_sequences']:,} sequences",
            name=one["site"],
        )
        for one, (x, y) in zip(found, flat, strict=True)
    ]
    return SiteMap(
        height=round(2 * _MARGIN + high * scale, 2),
        spots=tuple(sorted(spots, key=lambda spot: -spot.radius)),
        km_wide=WIDTH / scale * _KM_PER_DEGREE,
        num_missing=len(sites) - len(found),
    )
