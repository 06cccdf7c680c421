"""Any history of a dataset: converted, killed, damaged, repaired, its photographs lost and found.

The model is what an undisturbed run makes of the photographs that each shard was made from. Set
NUM_HISTORIES to 200 for a long run.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.label_config import FractionSplit
from serengeti_etl.sample import SampleSettings, draw_season
from tests.conftest import files_below, season_pipeline

pytestmark = pytest.mark.chaos

SEED = 5
"""Another number, other histories; it is in the test's name."""

NUM_HISTORIES = 10
NUM_STEPS = 16
MOST_DAMAGES = 3

NUM_VANISHING = 3
"""Photographs that come and go, each of another shard."""

MOMENTS = ("before", "unplaced", "after")
"""Of a write: nothing of it is there; a nameless part is; it is there, and nothing after it."""

CHANGES: dict[str, dict[str, Any]] = {
    "resize.size": {"resize": ResizeSettings(size="64")},
    "shards.max_samples": {"shards": ShardSettings(max_samples=5)},
    "split.seed": {"split": FractionSplit(val_fraction=0.34, seed=2)},
}

Missing = frozenset[str]


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


class World:
    """A season whose photographs come and go, and what an undisturbed run makes of it.

    Args:
        folder: empty; for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.season = folder / "season"
        settings = SampleSettings(width=128, height=96, num_sequences=10, num_sites=4)
        draw_season(self.season, settings, num_processes=1)
        self.shards = self._shards()
        names = [self._present(photographs) for photographs in self.shards.values()]
        self.vanishing = [some[0] for some in names if some][:NUM_VANISHING]
        self.undisturbed = cache(self._undisturbed)
        self.histories = iter(range(10**9))

    def pipeline(self, season: Path) -> SeasonPipeline:
        """Over one season or another."""
        shards = ShardSettings(max_samples=3)
        return replace(season_pipeline(str(season)), shards=shards, max_reject_share=1.0)

    def of_shard(self, shard: str, missing: Missing) -> Missing:
        """Those of the missing photographs that belong to a shard."""
        return missing & frozenset(self.shards[shard])

    def _shards(self) -> dict[str, list[str]]:
        """Names of the photographs of each shard."""
        output = self.folder / "first"
        convert_season(self.pipeline(self.season), SerialRunner(), str(output))
        names = [path.stem for path in sorted((output / "index").glob("*-*.parquet"))]
        plan = pq.ParquetFile(output / "plan" / "plan.parquet")
        groups = [plan.read_row_group(number) for number in range(plan.num_row_groups)]
        photographs = [group["file_name"].to_pylist() for group in groups]
        return dict(zip(names, photographs, strict=True))

    def _present(self, names: list[str]) -> list[str]:
        return [name for name in names if (self.season / "images" / name).is_file()]

    def _undisturbed(self, missing: Missing) -> dict[str, bytes]:
        output = self.folder / f"undisturbed-{len(list(self.folder.iterdir()))}"
        season = output.with_name(f"{output.name}-season")
        shutil.copytree(self.season, season)
        for name in missing:
            (season / "images" / name).unlink()
        convert_season(self.pipeline(season), SerialRunner(), str(output))
        return files_below(output)


class History(RuleBasedStateMachine):
    """What happens to one dataset."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        folder = self.world.folder / f"history-{next(self.world.histories)}"
        self.season, self.output = folder / "season", folder / "out"
        shutil.copytree(self.world.season, self.season)
        self.pipeline = self.world.pipeline(self.season)
        self.missing: Missing = frozenset()
        self.made: dict[str, Missing] = {}
        self.is_complete = self.is_in_repair = False
        self.num_damages = 0

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.output.parent)

    @property
    def expected(self) -> dict[str, bytes]:
        """Every file of a whole dataset, each shard of the photographs that it was made from."""
        return self.world.undisturbed(frozenset().union(*self.made.values()))

    def wrong(self) -> set[str]:
        """Files of the whole dataset that are not as they must be, and those too many."""
        now, expected = files_below(self.output), self.expected
        return {
            name for name in now.keys() | expected.keys() if now.get(name) != expected.get(name)
        }

    def is_well(self) -> bool:
        """True unless a file is damaged."""
        return not self.is_complete or not self.wrong()

    def is_as_made(self) -> bool:
        """True if every photograph is where it was, or is not, when its shard was made."""
        return all(
            self.world.of_shard(shard, self.missing) == made for shard, made in self.made.items()
        )

    def take_note(self) -> None:
        """Of the shards that were committed by now."""
        for path in (self.output / "index").glob("*-*.parquet"):
            missing = self.world.of_shard(path.stem, self.missing)
            self.made.setdefault(path.stem, missing)

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
        """Convert."""
        convert_season(self.pipeline, SerialRunner(), str(self.output))

    def mend(self) -> None:
        """Repair."""
        repair_dataset(self.pipeline, SerialRunner(), str(self.output))

    @precondition(is_well)
    @rule()
    def convert(self) -> None:
        """A conversion that nothing disturbs."""
        self.run()
        self.take_note()
        self.is_complete = True

    @precondition(is_well)
    @rule(num_writes=st.integers(0, 45), moment=st.sampled_from(MOMENTS))
    def convert_until_killed(self, num_writes: int, moment: str) -> None:
        """A conversion that is killed at one of its writes, or too late."""
        is_finished = self.is_finished_by(num_writes, moment, self.run)
        self.take_note()
        self.is_complete |= is_finished or (self.output / "dataset.json").exists()

    @precondition(lambda self: (self.output / "plan" / "plan.json").exists() and self.is_well())
    @rule(name=st.sampled_from(sorted(CHANGES)))
    def change_a_setting(self, name: str) -> None:
        """Refused by its name; nothing changes."""
        before = files_below(self.output)
        changed = replace(self.pipeline, **CHANGES[name])
        with pytest.raises(ConfigError, match=rf"{name} was .* and is now"):
            convert_season(changed, SerialRunner(), str(self.output))
        for leftover in [one for one in before if one.endswith(".partial") or one == "lease.json"]:
            del before[leftover]
        assert files_below(self.output) == before

    @rule()
    def verify(self) -> None:
        """Clean if the dataset is whole, and only then."""
        try:
            is_clean = not verify_dataset(str(self.output), SerialRunner()).problems
        except (DatasetError, FileNotFoundError):
            is_clean = False
        wrong = self.wrong() if self.is_complete else {"it is not finished"}
        leftovers = {name for name in wrong if name.endswith(".partial") or name == "lease.json"}
        if wrong - leftovers or not leftovers:
            assert is_clean == (not wrong), wrong

    # While a repair writes SHA256SUMS anew, rejects have no second witness.
    @precondition(lambda self: self.is_complete and not self.is_in_repair)
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

    @precondition(lambda self: self.is_complete and self.is_as_made())
    @rule()
    def repair(self) -> None:
        """Every byte is what it was."""
        self.mend()
        self.be_mended()

    @precondition(lambda self: self.is_complete and self.is_as_made())
    @rule(num_writes=st.integers(0, 12), moment=st.sampled_from(MOMENTS))
    def repair_until_killed(self, num_writes: int, moment: str) -> None:
        """A repair that is killed at one of its writes, or too late."""
        self.is_in_repair = True
        if self.is_finished_by(num_writes, moment, self.mend):
            self.be_mended()

    @precondition(lambda self: self.is_complete and not self.is_as_made())
    @precondition(lambda self: not {"dataset.json", "SHA256SUMS"} & self.wrong())
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
        there = self.world.season / "images" / name
        if name in self.missing:
            shutil.copy2(there, here)
        else:
            here.unlink()
        self.missing ^= {name}

    @invariant()
    def nothing_is_half_there(self) -> None:
        """A committed shard is whole, and dataset.json comes last, unless damage was done."""
        if self.num_damages or self.is_in_repair or not self.output.exists():
            return
        now, expected = files_below(self.output), self.expected
        for shard in self.made:
            names = [f"{shard.partition('-')[0]}/{shard}.tar", f"index/{shard}.parquet"]
            assert {name: now[name] for name in names} == {name: expected[name] for name in names}
        if "dataset.json" in now:
            assert now.items() >= expected.items()


SETTINGS = settings(
    max_examples=NUM_HISTORIES,
    stateful_step_count=NUM_STEPS,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    deadline=None,
    database=None,
)


@pytest.mark.parametrize("number", [SEED], ids=lambda number: f"seed{number}")
def test_every_history_ends_with_the_same_bytes(tmp_path: Path, number: int) -> None:
    """Whatever happens, in any order: what is whole is what an undisturbed run makes."""

    class Here(History):
        world = World(tmp_path)

    run_state_machine_as_test(seed(number)(Here), settings=SETTINGS)
