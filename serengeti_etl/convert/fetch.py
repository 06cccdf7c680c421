"""Photographs from where they lie: many requests at once, results in order."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from serengeti_etl.errors import ImageError
from serengeti_etl.storage import Store

NUM_IN_FLIGHT = 8
"""Requests under way or finished and waiting; with photographs of a few MB, tens of MB."""


def fetch_in_order(
    images: Store, names: Sequence[str], num_in_flight: int = NUM_IN_FLIGHT
) -> Iterator[bytes | ImageError]:
    """The content of each file of ``names``, in their order, or why it cannot be had.

    A store that fails on every try raises, because an outage is not a bad photograph.

    Args:
        images: where the photographs lie.
        names: their names there.
        num_in_flight: requests ahead of the consumer, at least 1.

    Raises:
        OSError: the store failed on every try.
    """
    pending: deque[Future[bytes | ImageError]] = deque()
    with ThreadPoolExecutor(num_in_flight, thread_name_prefix="fetch") as pool:
        try:
            for name in names:
                pending.append(pool.submit(_fetch, images, name))
                if len(pending) >= num_in_flight:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # An abandoned or failed shard asks for nothing more.
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch(images: Store, name: str) -> bytes | ImageError:
    place = images.at(name)
    try:
        return place.read("")
    except FileNotFoundError:
        return ImageError("missing", f"there is no file {name}")
    except PermissionError as error:
        # Buckets that hide their listing answer so for a missing object too; if it is all of
        # them, the budget of rejects stops the run.
        return ImageError("forbidden", f"the store refuses {name}: {error}")
    except (IsADirectoryError, NotADirectoryError):
        return ImageError("missing", f"{name} is not a file")
