"""24 photographs of Snapshot Serengeti in the layout of the public bucket, with their labels.

Where they lie is given with ``--source``; by default beside the checkout.
"""

from pathlib import Path

from serengeti_etl import SeasonPipeline, SiteListSplit

pipeline = SeasonPipeline(
    name="serengeti-mini",
    source=str(Path(__file__).resolve().parents[2] / "shared" / "data" / "serengeti"),
    labels="SnapshotSerengeti_mini_v2_1.json",
    images="snapshotserengeti-unzipped",
    split=SiteListSplit(url="recommended_splits.json"),
    # 3 of the 26 images that are not withheld have no file behind them.
    max_reject_share=0.2,
    licence="CDLA-Permissive-1.0",
    citation="Swanson et al. 2015, Scientific Data 2:150026",
)
