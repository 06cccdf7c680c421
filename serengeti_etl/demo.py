"""The embedded season from end to end: what the demo draws, converts and trains.

The same pieces as any season's; only small enough for two cores and a few minutes.
"""

from pathlib import Path

from serengeti_etl.config import SeasonPipeline, ShardSettings
from serengeti_etl.label_config import FractionSplit
from serengeti_etl.sample import SampleSettings, draw_season
from serengeti_etl.train.recipe import Recipe, Stage

LABELS_FILE = "labels.json"


def demo_pipeline(source: str) -> SeasonPipeline:
    """The pipeline of the drawn season at ``source``."""
    return SeasonPipeline(
        name="sample",
        source=source,
        labels=LABELS_FILE,
        images="images",
        split=FractionSplit(val_fraction=0.25, seed=1),
        shards=ShardSettings(max_samples=32),
        # The season has three broken photographs of about 240, on purpose.
        max_reject_share=0.05,
        licence="CC0-1.0",
    )


def demo_recipe() -> Recipe:
    """A ResNet18 from random weights on small images: about a minute on two cores."""
    stages = (
        Stage(
            name="small",
            epochs=12,
            image_size=(72, 96),
            batch_size=16,
            learning_rate=1e-3,
            backbone_rate=1.0,
        ),
    )
    return Recipe(model="resnet18", stages=stages)


def draw_once(folder: Path, settings: SampleSettings) -> bool:
    """True after drawing the season into ``folder``; False if it was there already."""
    # The label file is written last, so where it is, the photographs are.
    if (folder / LABELS_FILE).is_file():
        return False
    draw_season(folder, settings)
    return True
