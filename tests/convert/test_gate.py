"""The gate: together or alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serengeti_etl.convert.gate import Gate


def test_together_means_at_once() -> None:
    """Eight threads are inside at the same time."""
    gate, all_inside = Gate(), threading.Barrier(8, timeout=20)

    def enter() -> None:
        with gate.together():
            all_inside.wait()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(enter) for _ in range(8)]:
            future.result()


def test_alone_means_alone() -> None:
    """While one is alone nobody else is inside, however many want to be."""
    gate, lock = Gate(), threading.Lock()
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    def enter(kind: str) -> None:
        with gate.alone() if kind == "alone" else gate.together():
            with lock:
                inside.append(kind)
                seen.append(tuple(inside))
            with lock:
                inside.remove(kind)

    kinds = ["alone" if at % 5 == 0 else "together" for at in range(500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, kinds))
    assert len(seen) == 500
    assert {moment for moment in seen if "alone" in moment} == {("alone",)}


def test_an_error_inside_opens_the_gate_again() -> None:
    """Whoever leaves by an exception leaves all the same."""
    gate = Gate()
    for enter in (gate.alone, gate.together, gate.alone):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with gate.alone():
        pass
