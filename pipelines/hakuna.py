"""The Hakuna Ma-data competition's CSV pair over the photographs of Snapshot Serengeti.

``labels`` is the folder of ``train_metadata.csv`` and ``train_labels.csv``. Where they lie is given
with ``--source``; by default beside the checkout. The competition tested on a later season of the
same cameras; this split tells how a model does at new places.
"""

from pathlib import Path

from serengeti_etl import FractionSplit, ResizeSettings, Rules, SeasonPipeline

pipeline = SeasonPipeline(
    name="hakuna",
    source=str(Path(__file__).resolve().parents[2] / "shared" / "data" / "serengeti"),
    labels="hakuna",
    images="snapshotserengeti-unzipped",
    # Three of four sequences are empty: half as many train as well, and dataset.json keeps the
    # true share, by which probabilities are corrected.
    rules=Rules(max_empty_share=0.5),
    split=FractionSplit(val_fraction=0.2),
    resize=ResizeSettings(size="512x384"),
    # 3 of the 27 images here have no file behind them.
    max_reject_share=0.2,
    licence="CDLA-Permissive-1.0",
    citation="Swanson et al. 2015, Scientific Data 2:150026",
)
