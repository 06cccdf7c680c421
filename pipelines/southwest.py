"""60 labelled photographs of a survey in the American Southwest: a flat CSV beside a folder.

Where they lie is given with ``--source``; by default beside the checkout. A model for your own
CSV: say what its columns are called, and what it writes for "nothing to see".
"""

from pathlib import Path

from serengeti_etl import CsvColumns, FractionSplit, SeasonPipeline

pipeline = SeasonPipeline(
    name="southwest",
    source=str(Path(__file__).resolve().parents[2] / "shared" / "data" / "southwest"),
    labels="labels.csv",
    columns=CsvColumns(file_name="file", site="location", frame_num="frame", empty_label="Empty"),
    split=FractionSplit(val_fraction=0.3, seed=2),
    licence="MIT",
)
