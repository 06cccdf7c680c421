"""Work ahead of its use."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.ahead import in_order


@settings(deadline=None)
@given(items=st.lists(st.integers()), num_threads=st.integers(1, 4))
def test_results_come_in_the_order_of_the_items(items: list[int], num_threads: int) -> None:
    """One result for each item, in order, whatever the number of threads."""
    assert list(in_order(str, items, num_threads)) == [str(item) for item in items]


def test_items_are_taken_only_a_little_ahead() -> None:
    """Of endless items, no more are taken than two for each thread beyond what was asked for."""
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = in_order(str, endless(), num_threads=2)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(taken) <= 9


def test_what_is_raised_comes_in_its_turn_and_ends_the_threads() -> None:
    """Results before the failure are handed out; afterwards no thread is left."""
    before = set(threading.enumerate())  # with such of earlier tests as end in the meantime
    results = in_order(lambda number: 1 // number, [1, 1, 0, 1], num_threads=2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert before.issuperset(threading.enumerate())
