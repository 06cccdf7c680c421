"""Season 3 of Snapshot Serengeti, straight from the public bucket: 392,000 photographs.

Needs internet and ``serengeti-etl[s3]``; no account. Other seasons: change the two S03. Try it on
a few sequences first: ``serengeti-etl convert pipelines/lila_serengeti.py --limit 100 --output …``.
The same files lie under ``gs://public-datasets-lila`` (there ``storage_options={"token": "anon"}``,
with ``serengeti-etl[gcs]``) and give the same bytes.
"""

from serengeti_etl import FractionSplit, ResizeSettings, SeasonPipeline

pipeline = SeasonPipeline(
    name="serengeti-s03",
    source="s3://us-west-2.opendata.source.coop/agentmorris/lila-wildlife",
    storage_options={"anon": True},
    labels="snapshotserengeti-v-2-0/SnapshotSerengetiS03.json.zip",
    images="snapshotserengeti-unzipped",
    split=FractionSplit(val_fraction=0.2, seed=3),
    resize=ResizeSettings(size="512x384"),
    # 0.65 % of the rows of all seasons have no photograph behind them.
    max_reject_share=0.03,
    licence="CDLA-Permissive-1.0",
    citation="Swanson et al. 2015, Scientific Data 2:150026",
)
