"""What command lines of this program say of the run that they write."""

import itertools
from collections.abc import Sequence
from pathlib import Path

_PLACES = {"train": "--run", "convert": "--output"}


def run_of(command: Sequence[str]) -> str | None:
    """Where ``command`` writes its status; None if it is no ``train`` or ``convert`` of ours.

    Under torchrun it may be. Under what starts it in its own time, such as srun, it counts as
    another's.
    """
    from serengeti_etl.runs.find import RUN_FOLDER
    from serengeti_etl.storage import join_url

    words = _own_words(command)
    if not words or words[0] not in _PLACES:
        return None
    place = _value(words, _PLACES[words[0]])
    return join_url(place, RUN_FOLDER) if place and words[0] == "convert" else place


def is_same_place(one: str, other: str) -> bool:
    """Whether two addresses of a run mean the same."""
    return _plain(one) == _plain(other)


def _own_words(command: Sequence[str]) -> list[str]:
    """What this program is told; [] if it is another."""
    program, *words = command
    name = Path(program).name
    if name == "serengeti-etl":
        return words
    if name != "torchrun" and not name.startswith("python"):
        return []
    pairs = list(itertools.pairwise(words))
    if ("-m", "serengeti_etl") not in pairs:
        return []
    rest = words[pairs.index(("-m", "serengeti_etl")) + 2 :]
    return rest[1:] if rest[:1] == ["--"] else rest


def _value(words: Sequence[str], option: str) -> str | None:
    """What is given for ``option``, the last time."""
    found = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _plain(url: str) -> str:
    from serengeti_etl.storage import is_local

    path = url.partition("://")[2] or url
    return str(Path(path).resolve()) if is_local(url) else url.rstrip("/")
