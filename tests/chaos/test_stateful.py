"""Any history of a dataset: converted, killed, added to, damaged, repaired, its source changing.

The model is what an undisturbed run makes of the photographs that each shard was made from. Set
NUM_HISTORIES to 200 for a long run.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from serengeti_etl import files
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert.repair import repair_dataset
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.label_config import FractionSplit
from serengeti_etl.sample import SampleSettings, draw_season
from tests.conftest import files_below, season_pipeline
from tests.growing import GrowingSeason

pytestmark = pytest.mark.chaos

SEED = 5
"""Another number, other histories; it is in the test's name."""

NUM_HISTORIES = 10
NUM_STEPS = 16
MOST_DAMAGES = 3

MOST_RETRIES = 1

NUM_VANISHING = 2
"""Photographs that come and go, each of another shard."""

MOMENTS = ("before", "unplaced", "after")
"""Of a write: nothing of it is there; a nameless part is; it is there, and nothing after it."""

CHANGES: dict[str, dict[str, Any]] = {
    "resize.size": {"resize": ResizeSettings(size="64")},
    "shards.max_samples": {"shards": ShardSettings(max_samples=5)},
    "split.seed": {"split": FractionSplit(val_fraction=0.34, seed=2)},
}

KILLS = st.lists(st.tuples(st.integers(0, 32), st.sampled_from(MOMENTS)), max_size=2)
"""Writes at which a command is killed, and then the same command; none leaves it undisturbed."""

Missing = frozenset[str]
History = tuple["Past", ...]


class Killed(BaseException):
    """The process is no more."""


class Killer:
    """Lets writes to folders happen until one of them, and none after it.

    Args:
        num_writes: that still happen.
        moment: of the fatal one: one of ``MOMENTS``.
    """

    def __init__(self, num_writes: int, moment: str) -> None:
        self.num_left = num_writes
        self.moment = moment
        self.is_dead = False
        self.honest_placing = files._placing
        self.honest_delete = files.LocalFiles.delete

    @contextmanager
    def placing(
        self, final: Path, place: Callable[[Path, Path], object] = Path.replace
    ) -> Iterator[Any]:
        """As ``files._placing``."""

        def place_or_die(partial: Path, final: Path) -> None:
            if self.is_struck("unplaced"):
                shutil.copy(partial, partial.with_name(f"{partial.name[:-8]}.left.partial"))
                raise Killed
            place(partial, final)

        if self.is_struck("before"):
            raise Killed
        with self.honest_placing(final, place_or_die) as file:
            yield file
        if self.is_struck("after"):
            raise Killed
        self.num_left -= 1

    def delete(self, path: str) -> None:
        """As ``LocalFiles.delete``."""
        if self.is_struck(self.moment):
            raise Killed
        self.num_left -= 1
        self.honest_delete(files.LocalFiles(), path)

    def is_struck(self, moment: str) -> bool:
        """True once; raises what is not tried again when a dead process wants to tidy up."""
        if self.is_dead:
            raise PermissionError("the process is dead")
        self.is_dead = self.num_left == 0 and self.moment == moment
        return self.is_dead


@dataclass(frozen=True, kw_only=True)
class Past:
    """What went into one edition of a dataset.

    Attributes:
        is_retry: True if rejects were tried again, else images of the catalog were added.
        has_grown: True if the label file listed all seasons, else the first one.
        missing: photographs that were missing when the edition's shards were made.
    """

    is_retry: bool
    has_grown: bool
    missing: Missing


class World:
    """A season whose photographs come and go, and what undisturbed runs make of it.

    Args:
        folder: empty; for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        drawn = folder / "drawn"
        settings = SampleSettings(width=128, height=96, num_sequences=12, num_sites=4)
        draw_season(drawn, settings, num_processes=1)
        self.season = folder / "season"
        growing = GrowingSeason(drawn, self.season)
        first = (self.season / "labels.json").read_bytes()
        growing.take_all()
        self.labels = {False: first, True: (self.season / "labels.json").read_bytes()}
        self.undisturbed = cache(self._undisturbed)
        self.numbers = iter(range(10**9))
        self.vanishing = self._vanishing()

    def new_folder(self) -> Path:
        """A folder that is not there yet."""
        return self.folder / f"{next(self.numbers)}"

    def pipeline(self, season: Path) -> SeasonPipeline:
        """Over one season or another."""
        shards = ShardSettings(max_samples=3)
        return replace(season_pipeline(str(season)), shards=shards, max_reject_share=1.0)

    def files_of(self, history: History) -> dict[str, bytes]:
        """Every file of the dataset that has this history, made undisturbed."""
        return files_below(self.undisturbed(history))

    def _vanishing(self) -> list[str]:
        """Photographs of the first season, each of another shard."""
        first = Past(is_retry=False, has_grown=False, missing=frozenset())
        by_shard = photographs_by_shard(self.undisturbed((first,)))
        here = [
            [name for name in names if (self.season / "images" / name).is_file()]
            for names in by_shard.values()
        ]
        return [names[0] for names in here if names][:NUM_VANISHING]

    def _undisturbed(self, history: History) -> Path:
        *earlier, last = history
        folder = self.new_folder()
        season, output = folder / "season", folder / "out"
        shutil.copytree(self.season, season)
        (season / "labels.json").write_bytes(self.labels[last.has_grown])
        for name in last.missing:
            (season / "images" / name).unlink()
        if earlier:
            shutil.copytree(self.undisturbed(tuple(earlier)), output)
        convert_season(
            self.pipeline(season), SerialRunner(), str(output), retry_rejects=last.is_retry
        )
        return output


def photographs_by_shard(output: Path) -> dict[str, list[str]]:
    """Names of the photographs of each shard, in the order of the plan."""
    found: dict[str, list[str]] = {}
    for row in pq.read_table(output / "plan" / "plan.parquet").to_pylist():
        found.setdefault(row["shard"], []).append(row["file_name"])
    return found


class OneDataset(RuleBasedStateMachine):
    """What happens to one dataset."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        folder = self.world.new_folder()
        self.season, self.output = folder / "season", folder / "out"
        shutil.copytree(self.world.season, self.season)
        self.pipeline = self.world.pipeline(self.season)
        self.has_grown = False
        self.write_labels()
        self.missing: Missing = frozenset()
        self.past: list[Past] = []
        self.made: dict[str, Missing] = {}
        self.is_pending = self.is_in_repair = False
        self.num_damages = 0

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.output.parent)

    @property
    def expected(self) -> dict[str, bytes]:
        """Every file of a whole dataset, each shard of the photographs that it was made from."""
        return self.world.files_of(tuple(self.past))

    def wrong(self) -> set[str]:
        """Files of the whole dataset that are not as they must be, and those too many."""
        now, expected = files_below(self.output), self.expected
        return {
            name for name in now.keys() | expected.keys() if now.get(name) != expected.get(name)
        }

    def is_complete(self) -> bool:
        """True when all that was begun was finished, whatever became of it since."""
        return bool(self.past) and not self.is_pending

    def is_well(self) -> bool:
        """True unless a file is damaged."""
        return not self.is_complete() or not self.wrong()

    def is_as_made(self) -> bool:
        """True if each photograph is where it was, or is not, when its last shard was made."""
        last = {
            name: shard
            for shard, names in photographs_by_shard(
                self.world.undisturbed(tuple(self.past))
            ).items()
            for name in names
        }
        names = [name for name in self.world.vanishing if name in last]
        return all((name in self.made[last[name]]) == (name in self.missing) for name in names)

    def has_sums(self) -> bool:
        """True if what tells a shard's bytes is as it must be."""
        return not {"dataset.json", "SHA256SUMS"} & self.wrong()

    def write_labels(self) -> None:
        """List what the label file lists by now."""
        (self.season / "labels.json").write_bytes(self.world.labels[self.has_grown])

    def take_note(self) -> None:
        """Of the shards that were committed by now, and whether the edition is finished."""
        parts = sorted((self.output / "index").glob("*-*.parquet"))
        new = [path.stem for path in parts if path.stem not in self.made]
        if new:
            by_shard = photographs_by_shard(self.output)
            self.made |= {name: self.missing & frozenset(by_shard[name]) for name in new}
            gone = frozenset().union(*(self.made[name] for name in new))
            self.past[-1] = replace(self.past[-1], missing=self.past[-1].missing | gone)
        if (self.output / "dataset.json").exists():
            num_editions = len(open_dataset(str(self.output)).info.editions)
            self.is_pending = max(1, num_editions) < len(self.past)

    def go_on(self, kills: list[tuple[int, str]]) -> None:
        """The last command, killed so often; undisturbed if never."""
        for num_writes, moment in kills:
            self.is_finished_by(num_writes, moment, self.run)
            self.take_note()
            if not self.is_pending:
                return
        if not kills:
            self.run()
            self.take_note()
            assert not self.is_pending

    def begin(self, *, is_retry: bool) -> None:
        """Another edition."""
        past = Past(is_retry=is_retry, has_grown=self.has_grown, missing=frozenset())
        self.past.append(past)
        self.is_pending = True

    def is_finished_by(self, num_writes: int, moment: str, work: Callable[[], object]) -> bool:
        """Whether the work came to its end before the process was killed."""
        killer = Killer(num_writes, moment)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "_placing", killer.placing)
            patch.setattr(files.LocalFiles, "delete", lambda _, path: killer.delete(path))
            try:
                work()
            except Killed:
                note(f"killed {moment} write {num_writes}")
                self.bury()
                return False
        return True

    def bury(self) -> None:
        """Make the lease that a killed process left look like one, for this process lives on."""
        lease = self.output / "lease.json"
        if lease.exists():
            lease.write_text(json.dumps(json.loads(lease.read_text()) | {"started": 1}))

    def be_mended(self) -> None:
        """Fails unless every byte is what it was."""
        self.num_damages, self.is_in_repair = 0, False
        assert self.wrong() == set()

    def run(self) -> None:
        """Convert, or go on with an edition that was begun."""
        is_retry = self.is_pending and self.past[-1].is_retry
        convert_season(self.pipeline, SerialRunner(), str(self.output), retry_rejects=is_retry)

    def mend(self) -> None:
        """Repair."""
        repair_dataset(self.pipeline, SerialRunner(), str(self.output))

    @precondition(is_well)
    @rule(kills=KILLS)
    def convert(self, kills: list[tuple[int, str]]) -> None:
        """A first conversion, or the same command again."""
        if not self.past:
            self.begin(is_retry=False)
        self.go_on(kills)

    @precondition(lambda self: self.is_complete() and self.is_well() and not self.has_grown)
    @rule(kills=KILLS)
    def add_season(self, kills: list[tuple[int, str]]) -> None:
        """The label file lists more, and the same command adds it."""
        self.has_grown = True
        self.write_labels()
        self.begin(is_retry=False)
        self.go_on(kills)

    @precondition(lambda self: self.is_complete() and self.is_well())
    @precondition(lambda self: sum(past.is_retry for past in self.past) < MOST_RETRIES)
    @rule(kills=KILLS)
    def retry_rejects(self, kills: list[tuple[int, str]]) -> None:
        """What was rejected is tried again, in shards of its own."""
        self.begin(is_retry=True)
        self.go_on(kills)

    @precondition(lambda self: self.is_complete() and self.is_well())
    @rule(name=st.sampled_from(sorted(CHANGES)))
    def change_a_setting(self, name: str) -> None:
        """Refused by its name; nothing changes."""
        before = files_below(self.output)
        changed = replace(self.pipeline, **CHANGES[name])
        with pytest.raises(ConfigError, match=rf"{name} was .* and is now"):
            convert_season(changed, SerialRunner(), str(self.output))
        assert files_below(self.output) == without_leftovers(before)

    @precondition(is_complete)
    @rule()
    def verify(self) -> None:
        """Clean if the dataset is whole, and only then."""
        try:
            is_clean = not verify_dataset(str(self.output), SerialRunner()).problems
        except DatasetError:
            is_clean = False
        wrong = self.wrong()
        if wrong - without_leftovers(dict.fromkeys(wrong, b"")).keys():
            return  # what a killed process left is told of or not
        assert is_clean == (not wrong), wrong

    # While a repair writes SHA256SUMS anew, rejects have no second witness.
    @precondition(lambda self: self.is_complete() and not self.is_in_repair)
    @precondition(lambda self: self.num_damages < MOST_DAMAGES)
    @rule(damage=st.sampled_from(["flip", "cut", "delete", "swap"]), draw=st.randoms())
    def damage(self, damage: str, draw: Any) -> None:
        """A file of the dataset is changed, or lost."""
        self.num_damages += 1
        paths = sorted(path for path in self.output.rglob("*") if path.is_file())
        path = draw.choice([path for path in paths if path.suffix in (".tar", ".parquet", ".json")])
        content = bytearray(path.read_bytes())
        note(f"{damage} {path.relative_to(self.output)}")
        if damage == "flip" and content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif damage == "swap":
            other = draw.choice([one for one in paths if one.suffix == path.suffix])
            swapped, content = bytes(content), bytearray(other.read_bytes())
            other.write_bytes(swapped)
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
        if damage == "delete":
            path.unlink()

    @precondition(lambda self: self.is_complete() and self.is_as_made())
    @rule()
    def repair(self) -> None:
        """Every byte is what it was."""
        self.mend()
        self.be_mended()

    @precondition(lambda self: self.is_complete() and self.is_as_made())
    @rule(num_writes=st.integers(0, 12), moment=st.sampled_from(MOMENTS))
    def repair_until_killed(self, num_writes: int, moment: str) -> None:
        """A repair that is killed at one of its writes, or too late."""
        self.is_in_repair = True
        if self.is_finished_by(num_writes, moment, self.mend):
            self.be_mended()

    @precondition(lambda self: self.is_complete() and not self.is_as_made() and self.has_sums())
    @rule()
    def repair_from_another_source(self) -> None:
        """Every byte is what it was, or, where that cannot be, it is refused."""
        try:
            self.mend()
        except DatasetError as error:
            assert "the source has changed" in str(error)  # noqa: PT017 - it need not be raised
            assert self.wrong()
        else:
            self.be_mended()

    @rule(place=st.integers(0, NUM_VANISHING - 1))
    def vanish_or_return(self, place: int) -> None:
        """A photograph of the source is lost, or found again."""
        name = self.world.vanishing[place]
        here = self.season / "images" / name
        if name in self.missing:
            shutil.copy2(self.world.season / "images" / name, here)
        else:
            here.unlink()
        self.missing ^= {name}

    @invariant()
    def nothing_is_half_there(self) -> None:
        """A committed shard is whole, and dataset.json comes last, unless damage was done."""
        if self.num_damages or self.is_in_repair or not self.past:
            return
        now, expected = files_below(self.output), self.expected
        for shard in self.made:
            names = [f"{shard.partition('-')[0]}/{shard}.tar", f"index/{shard}.parquet"]
            assert {name: now.get(name) for name in names} == {
                name: expected[name] for name in names
            }
        if self.is_complete():
            assert without_leftovers(now) == expected


def without_leftovers(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The same without what a killed process may leave."""
    return {
        name: content
        for name, content in contents.items()
        if name != "lease.json" and not name.endswith(".partial")
    }


SETTINGS = settings(
    max_examples=NUM_HISTORIES,
    stateful_step_count=NUM_STEPS,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    deadline=None,
    database=None,
)


@pytest.mark.parametrize("number", [SEED], ids=lambda number: f"seed{number}")
def test_every_history_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever happens, in any order: what is whole is what an undisturbed run makes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here, and it takes most time

    class Here(OneDataset):
        world = World(tmp_path)

    run_state_machine_as_test(seed(number)(Here), settings=SETTINGS)
