"""A Camtrap DP package, as Agouti, TRAPPER and Wildlife Insights export it.

``labels`` is its folder, its zip or its datapackage.json; events become sequences, and photographs
are fetched from the addresses in media.csv. Where it lies is given with ``--source``; by default
beside the checkout.
"""

from pathlib import Path

from serengeti_etl import FractionSplit, Rules, SeasonPipeline

pipeline = SeasonPipeline(
    name="camtrap-example",
    source=str(Path(__file__).resolve().parents[2] / "shared" / "data" / "formats" / "camtrap_dp"),
    labels="example",
    # ``unknown``: somebody looked and could not tell; it is no species to learn.
    rules=Rules(drop=("human", "vehicle", "unknown"), rename={"Ardea cinerea": "Ardea"}),
    split=FractionSplit(val_fraction=0.25),
)
