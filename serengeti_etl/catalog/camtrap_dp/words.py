"""The words of Camtrap DP beside our own. Source: camtrap-dp.tdwg.org, version 1.0."""

from serengeti_etl.label_config import EMPTY

DATA_PACKAGE = "datapackage.json"
TABLES = ("deployments", "media", "observations")
MISSING = ("", "NA", "NaN", "nan")
"""How the tables of a package write that there is no value."""

CATEGORIES = {
    "animal": "animal",  # without scientificName; otherwise that is the category
    "human": "human",
    "vehicle": "vehicle",
    "blank": EMPTY,
    "unknown": "unknown",
}
"""Category of each observationType; ``unclassified`` has none."""
UNCLASSIFIED = "unclassified"
TAG_SEPARATOR = " | "

BBOX = {f"bbox_{side}": f"bbox{side.capitalize()}" for side in ("x", "y", "width", "height")}
WORDS = {
    "count": "count",
    "behavior": "behavior",
    "life_stage": "lifeStage",
    "sex": "sex",
    "individual_id": "individualID",
}
"""Our columns of text and theirs. What theirs may not hold, our writer puts into a tag."""
