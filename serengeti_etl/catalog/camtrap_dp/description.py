"""datapackage.json: what a Camtrap DP says of itself."""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.camtrap_dp.observations import Observations
from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.words import (
    TABLES,
)

_ADDRESS = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2"


def data_package(
    deployments: pa.Table, observations: Observations, settings: CamtrapDpSettings
) -> dict[str, Any]:
    """What datapackage.json says."""
    scopes = ("data", "media") if settings.licence else ()
    licences = [{"name": settings.licence, "scope": scope} for scope in scopes]
    starts, ends = deployments["deploymentStart"], deployments["deploymentEnd"]
    description = {
        "profile": f"{_ADDRESS}/camtrap-dp-profile.json",
        "name": re.sub(r"[^a-z0-9._/-]+", "-", settings.name.lower()) or "dataset",
        "title": settings.title,
        "created": settings.created,
        "contributors": [{"title": settings.contributor, "role": "contributor"}],
        "resources": [_resource(table) for table in TABLES],
        "project": {
            "title": settings.title,
            "samplingDesign": settings.sampling_design,
            "captureMethod": ["activityDetection"],
            "individualAnimals": observations.has_individuals,
            "observationLevel": sorted(observations.levels),
        },
        "spatial": _spatial(deployments),
        "temporal": {"start": pc.min(starts).as_py()[:10], "end": pc.max(ends).as_py()[:10]},
        "taxonomic": [{"scientificName": name} for name in sorted(observations.names)],
    }
    return description | ({"licenses": licences} if licences else {})


def _resource(table: str) -> dict[str, str]:
    return {
        "name": table,
        "path": f"{table}.csv",
        "profile": "tabular-data-resource",
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "schema": f"{_ADDRESS}/{table}-table-schema.json",
    }


def _spatial(deployments: pa.Table) -> dict[str, Any]:
    """The places of all deployments, as GeoJSON has them: longitude first."""
    sides = (deployments[name].to_pylist() for name in ("longitude", "latitude"))
    points = sorted(set(zip(*sides, strict=True)))
    return {"type": "MultiPoint", "coordinates": [list(point) for point in points]}
