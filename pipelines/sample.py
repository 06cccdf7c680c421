"""The drawn season that `serengeti-etl demo` leaves in ``serengeti-demo/season``."""

from serengeti_etl import FractionSplit, SeasonPipeline, ShardSettings

pipeline = SeasonPipeline(
    name="sample",
    source="serengeti-demo/season",
    labels="labels.json",
    images="images",
    split=FractionSplit(val_fraction=0.25, seed=1),
    shards=ShardSettings(max_samples=32),
    # The season has three broken photographs of about 240, on purpose.
    max_reject_share=0.05,
    licence="CC0-1.0",
)
