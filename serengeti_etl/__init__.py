"""Camera-trap photographs by the terabyte: from a bucket to shards to a trained model.

The public names below are imported when first used, so that neither torch nor Dask comes along
with ``import serengeti_etl``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serengeti_etl.cluster import open_runner as open_runner
    from serengeti_etl.config import ClusterSpec as ClusterSpec
    from serengeti_etl.config import ResizeSettings as ResizeSettings
    from serengeti_etl.config import SeasonPipeline as SeasonPipeline
    from serengeti_etl.config import ShardSettings as ShardSettings
    from serengeti_etl.convert.season import convert_season as convert_season
    from serengeti_etl.convert.season import convert_sizes as convert_sizes
    from serengeti_etl.dataset.index import Dataset as Dataset
    from serengeti_etl.dataset.index import open_dataset as open_dataset
    from serengeti_etl.errors import SerengetiError as SerengetiError
    from serengeti_etl.label_config import ColumnSplit as ColumnSplit
    from serengeti_etl.label_config import CsvColumns as CsvColumns
    from serengeti_etl.label_config import FractionSplit as FractionSplit
    from serengeti_etl.label_config import Rules as Rules
    from serengeti_etl.label_config import SeasonSplit as SeasonSplit
    from serengeti_etl.label_config import SiteListSplit as SiteListSplit
    from serengeti_etl.label_config import TimeSplit as TimeSplit
    from serengeti_etl.load.augment import Augment as Augment
    from serengeti_etl.load.growing import open_growing as open_growing
    from serengeti_etl.load.loader import LoaderSettings as LoaderSettings
    from serengeti_etl.load.loader import ShardLoader as ShardLoader
    from serengeti_etl.load.selection import Selection as Selection
    from serengeti_etl.load.shard_source import CacheSettings as CacheSettings
    from serengeti_etl.load.webdataset import webdataset_pipeline as webdataset_pipeline

_HOMES = {
    "Augment": "load.augment",
    "CacheSettings": "load.shard_source",
    "ClusterSpec": "config",
    "ColumnSplit": "label_config",
    "CsvColumns": "label_config",
    "Dataset": "dataset.index",
    "FractionSplit": "label_config",
    "LoaderSettings": "load.loader",
    "ResizeSettings": "config",
    "Rules": "label_config",
    "SeasonPipeline": "config",
    "SeasonSplit": "label_config",
    "Selection": "load.selection",
    "SerengetiError": "errors",
    "ShardLoader": "load.loader",
    "ShardSettings": "config",
    "SiteListSplit": "label_config",
    "TimeSplit": "label_config",
    "convert_season": "convert.season",
    "convert_sizes": "convert.season",
    "open_dataset": "dataset.index",
    "open_growing": "load.growing",
    "open_runner": "cluster",
    "webdataset_pipeline": "load.webdataset",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list of str, whatever the rule can see


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
