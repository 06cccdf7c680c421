"""Work done ahead of its use by a few threads, in order and bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def in_order(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int = 8
) -> Iterator[ResultT]:
    """``function(item)`` for each item, in order, at most ``2 * num_threads`` ahead of the caller.

    Args:
        function: called in threads; what it raises is raised here, in its turn.
        items: taken from as the results are.
        num_threads: calls under way at once.
    """
    waiting: deque[Future[ResultT]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
