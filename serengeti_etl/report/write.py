"""Reports on storage, beside what they are of; and what may go wrong with one."""

from serengeti_etl.dataset.index import DATASET_FILE, UNREADABLE, Dataset
from serengeti_etl.errors import ConfigError, DatasetError, SerengetiError
from serengeti_etl.evaluate.files import EVALUATION_FILE
from serengeti_etl.report.conversion import Making, dataset_page
from serengeti_etl.report.evaluation import evaluation_page, read_judged
from serengeti_etl.report.site_map import Places
from serengeti_etl.storage import Store, join_url

DATASET_REPORT = "report.html"
EVALUATION_REPORT = "evaluation.html"

UNMADE = (SerengetiError, *UNREADABLE)
"""What may be raised while a report is made of something that is finished, and is no part of it."""


def report_dataset(url: str, making: Making | None = None, output: str | None = None) -> str:
    """Where the report of the finished dataset at ``url`` now is.

    It is no part of the dataset: no checksum has it, and ``verify`` and ``repair`` pass it over.

    Args:
        url: folder or bucket prefix of the dataset.
        making: how it was made, as far as that is known.
        output: file or url of the page; None takes ``report.html`` in the dataset.

    Raises:
        DatasetError: there is no finished dataset, or it is damaged.
        OSError: the store failed on every try.
    """
    store = Store(url=url)
    return _write(dataset_page(Dataset(store), making), output or join_url(url, DATASET_REPORT))


def report_evaluation(
    url: str,
    dataset_url: str | None = None,
    places: Places | None = None,
    output: str | None = None,
) -> str:
    """Where the report of the evaluated run at ``url`` now is.

    Args:
        url: folder or bucket prefix of the run.
        dataset_url: that it was evaluated on; None takes what the evaluation names.
        places: of sites, for a map.
        output: file or url of the page; None takes ``evaluation.html`` in the run.

    Raises:
        ConfigError: the run is not evaluated.
        OSError: the store of the run failed on every try.
    """
    run = Store(url=url)
    dataset, note = _dataset_of(dataset_url or read_judged(run).get("dataset"))
    page = evaluation_page(run, dataset, note, places)
    return _write(page, output or join_url(url, EVALUATION_REPORT))


def _dataset_of(url: str | None) -> tuple[Dataset | None, str]:
    """The dataset, or why there is none."""
    if url is None:
        return None, f"{EVALUATION_FILE} does not name the dataset."
    try:
        return Dataset(Store(url=url)), ""
    except (OSError, DatasetError) as error:
        return None, f"The dataset at {url} cannot be read: {error}."


def is_dataset(url: str) -> bool:
    """True for a finished dataset, False for an evaluated run.

    Raises:
        ConfigError: ``url`` is neither.
        OSError: the store failed on every try.
    """
    store = Store(url=url)
    if store.exists(DATASET_FILE):
        return True
    if store.exists(EVALUATION_FILE):
        return False
    raise ConfigError(
        f"there is neither {DATASET_FILE} nor {EVALUATION_FILE} at {url}: give a finished dataset "
        "(of several sizes, the folder of one) or a run that was evaluated"
    )


def _write(page: bytes, output: str) -> str:
    folder, _, name = output.rpartition("/")
    Store(url=folder or ("/" if output.startswith("/") else ".")).write(name, page)
    return output
