"""What Camtrap DP demands and a catalog does not know."""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from serengeti_etl.errors import ConfigError, require

SAMPLING_DESIGNS = (
    "simpleRandom",
    "systematicRandom",
    "clusteredRandom",
    "experimental",
    "targeted",
    "opportunistic",
)
"""The words of Camtrap DP for how sites were chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CamtrapDpSettings:
    """What Camtrap DP demands and a catalog does not know.

    Attributes:
        name: of the package; what its alphabet lacks becomes ``-``.
        title: of the package and its project, for people.
        created: when it was made, ISO with zone. Given, so that the same catalog gives the same
            bytes.
        utc_offset: of the cameras' clocks, such as ``+03:00``, or ``Z``.
        latitude: of sites that ``site_places`` does not list, in degrees; None where there are
            none.
        longitude: likewise.
        site_places: latitude and longitude of each site, in degrees.
        contributor: who made the package.
        licence: of labels and photographs, such as ``CC-BY-4.0``; "" says nothing.
        sampling_design: how sites were chosen, one of ``SAMPLING_DESIGNS``.
    """

    name: str
    title: str
    created: str
    utc_offset: str = "+03:00"
    latitude: float | None = None
    longitude: float | None = None
    site_places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    contributor: str = "unknown"
    licence: str = ""
    sampling_design: str = "opportunistic"

    def __post_init__(self) -> None:
        offset = self.utc_offset
        is_offset = re.fullmatch(r"Z|[+-][01][0-9]:[0-5][0-9]", offset) is not None
        require(is_offset, "utc_offset", offset, "of the form +03:00, or Z")
        design = self.sampling_design
        is_known = design in SAMPLING_DESIGNS
        require(is_known, "sampling_design", design, f"one of {SAMPLING_DESIGNS}")
        is_pair = (self.latitude is None) == (self.longitude is None)
        require(is_pair, "longitude", self.longitude, "given where latitude is, and only there")
        if self.latitude is not None and self.longitude is not None:
            _require_place("latitude, longitude", (self.latitude, self.longitude))
        for site, place in self.site_places.items():
            _require_place(f"place of site {site!r}", place)
        require(_is_moment(self.created), "created", self.created, "ISO, as 2024-05-01T12:00:00Z")

    def place(self, site: str) -> tuple[float, float]:
        """Latitude and longitude of a site, in degrees.

        Raises:
            ConfigError: none is given for it.
        """
        if site in self.site_places:
            return self.site_places[site]
        if self.latitude is None or self.longitude is None:
            raise ConfigError(
                f"site {site!r} has no coordinates, which Camtrap DP demands: give --latitude and "
                "--longitude for all sites, or list each with --sites"
            )
        return self.latitude, self.longitude


def _require_place(name: str, place: tuple[float, float]) -> None:
    latitude, longitude = place
    is_on_earth = -90 <= latitude <= 90 and -180 <= longitude <= 180  # noqa: PLR2004
    require(is_on_earth, name, place, "degrees within ±90 and ±180")


def _is_moment(text: str) -> bool:
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
