"""What an evaluation writes into a run."""

from typing import Any

from serengeti_etl.errors import ConfigError
from serengeti_etl.storage import Store

EVALUATION_FILE = "evaluation.json"
IMAGES_FILE = "predictions-images.parquet"
SEQUENCES_FILE = "predictions-sequences.parquet"
TUNED_FILE = "predictions-tuned.parquet"


def read_evaluation(run: Store) -> dict[str, Any] | None:
    """What the run's ``evaluation.json`` says; None if it has none.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        value = run.read_json(EVALUATION_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise damaged_evaluation(run.url, str(error)) from error
    if not isinstance(value, dict):
        raise damaged_evaluation(run.url, "it holds no object")
    return value


def damaged_evaluation(url: str, reason: str) -> ConfigError:
    """That what was read at ``url`` is not what an evaluation writes, and what to do."""
    return ConfigError(
        f"{EVALUATION_FILE} in {url} is damaged, or of another version: {reason}; "
        "run `serengeti-etl evaluate` again"
    )
