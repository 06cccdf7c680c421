"""Names of what an evaluation writes into a run."""

EVALUATION_FILE = "evaluation.json"
IMAGES_FILE = "predictions-images.parquet"
SEQUENCES_FILE = "predictions-sequences.parquet"
TUNED_FILE = "predictions-tuned.parquet"
