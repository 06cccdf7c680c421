"""A dataset grows and tries rejects again: old shards stay, whatever is killed or damaged."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, SeasonPipeline
from serengeti_etl.convert import season as season_module
from serengeti_etl.convert import shard as shard_module
from serengeti_etl.convert.editions import Growth, plan_growth
from serengeti_etl.convert.repair import repair_dataset
from serengeti_etl.convert.season import Conversion, convert_season, convert_sizes
from serengeti_etl.dataset.editions import RETRIED_FILE
from serengeti_etl.dataset.index import (
    PLAN_FILE,
    open_dataset,
    read_report,
    read_table,
    write_table,
)
from serengeti_etl.dataset.rejects import group_rejects
from serengeti_etl.dataset.sums import plan_files
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import ConfigError, DatasetError, TooManyFailures
from serengeti_etl.label_config import Rules
from serengeti_etl.load.loader import ShardLoader
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline
from tests.convert.test_season import zipped
from tests.growing import GrowingSeason

REJECTED = {"empty_file", "missing", "truncated"}


def convert(pipeline: SeasonPipeline, output: Path, *, retry: bool = False) -> Conversion:
    return convert_season(pipeline, SerialRunner(), str(output), retry_rejects=retry)


@pytest.fixture
def growing(season: Path, tmp_path: Path) -> GrowingSeason:
    """A source with the first season of the drawn ones."""
    return GrowingSeason(season, tmp_path / "source")


@pytest.fixture
def growing_pipeline(growing: GrowingSeason) -> SeasonPipeline:
    """Its pipeline, whose catalog may grow."""
    return season_pipeline(str(growing.folder))


def rejected(output: Path) -> list[str]:
    """File names of what the shards of a dataset reject, superseded or not."""
    store = Store(url=str(output))
    names = [path.name for path in (output / "rejects").glob("*-*.parquet")]
    return [
        name
        for one in names
        for name in read_table(store, f"rejects/{one}")["file_name"].to_pylist()
    ]


def of_shards(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those files that belong to shards."""
    folders = ("train/", "val/", "index/", "rejects/train", "rejects/val")
    return {name: data for name, data in files.items() if name.startswith(folders)}


def check_whole(output: Path) -> None:
    """Fails unless the dataset is proved whole, and its loader gives every image once."""
    assert verify_dataset(str(output), SerialRunner()).problems == ()
    dataset = open_dataset(str(output))
    ids: list[str] = []
    for split in dataset.splits:
        with ShardLoader(str(output), split=split, batch_size=1) as loader:
            ids += [name for batch in loader for name in batch.image_ids]
    assert sorted(ids) == sorted(dataset.index(columns=["image_id"])["image_id"].to_pylist())
    assert len(set(ids)) == len(ids) == dataset.info.ledger["num_in_shards"]


def test_a_new_season_adds_shards(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Season 1, then both: its shards stay byte for byte, new ones are numbered on."""
    output = tmp_path / "out"
    first = convert(growing_pipeline, output)
    before = files_below(output)
    growing.take_all()
    second = convert(growing_pipeline, output)
    after = files_below(output)
    assert of_shards(before).items() <= of_shards(after).items()
    assert second.added == second.index.shards[len(first.index.shards) :]
    assert first.added == ()
    assert second.num_made == len(second.added) > 0
    assert [one.kind for one in second.index.editions] == ["catalog", "catalog"]
    assert second.ledger.num_images > first.ledger.num_images
    for split in ("train", "val"):
        names = [shard.name for shard in second.index.shards if shard.split == split]
        assert names == [f"{split}-{number:06}" for number in range(len(names))]
    sides = {(row["site"], row["split"]) for row in open_dataset(str(output)).index().to_pylist()}
    assert len(sides) == len({site for site, _ in sides})
    check_whole(output)
    convert(growing_pipeline, output)
    assert files_below(output) == after
    content = json.loads((output / "plan/plan.json").read_text())
    assert content["classes"] == list(second.index.classes)
    assert content["priors"] == second.index.priors


def test_the_plan_says_what_would_be_added(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Before anything, before a growth and after it: what is told is what is then made."""
    output, scratch = tmp_path / "out", tmp_path / "scratch"

    def growth() -> Growth:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        before = files_below(output)
        _, (told,) = plan_growth(growing_pipeline, Store(url=str(output)), scratch)
        assert files_below(output) == before
        return told

    def sizes() -> tuple[int, int]:
        index = open_dataset(str(output)).info
        return len(index.shards), sum(one.num_images for one in index.editions)

    told = growth()
    assert (told.num_shards, told.num_images) == (0, 0)
    convert(growing_pipeline, output)
    first = sizes()
    assert (told.num_new_shards, told.num_new_images) == first
    growing.take_all()
    told = growth()
    assert (told.num_shards, told.num_images) == first
    convert(growing_pipeline, output)
    assert told.num_new_shards > 0
    assert (first[0] + told.num_new_shards, first[1] + told.num_new_images) == sizes()
    assert growth().num_new_images == 0
    growing.relabel(open_dataset(str(output)).index()["image_id"][0].as_py())
    growing.take_all()
    with pytest.raises(ConfigError, match="another plan"):
        growth()


def test_an_unchanged_catalog_adds_nothing(
    growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Neither does one whose dataset is of a release that knew no editions."""
    output = tmp_path / "out"
    convert(growing_pipeline, output)
    before = files_below(output)
    for name in ("plan/plan.json", "dataset.json"):
        content = json.loads((output / name).read_text())
        for key in {"editions", "classes", "priors"} - (
            {"classes", "priors"} if name == "dataset.json" else set()
        ):
            del content[key]
        Store(url=str(output)).write_json(name, content)
    (output / "SHA256SUMS").unlink()
    convert(growing_pipeline, output)
    same = before.keys() - {"plan/plan.json", "SHA256SUMS"}
    after = files_below(output)
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.parametrize("num_writes", [None, 2, 7])
def test_a_dataset_without_editions_grows_too(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    kill_after: Callable[[int | None], None],
    num_writes: int | None,
) -> None:
    """One of an earlier release becomes what one of this release becomes, also after a kill."""
    for name in ("old", "new"):
        convert(growing_pipeline, tmp_path / name)
    store = Store(url=str(tmp_path / "old"))
    content = store.read_json("plan/plan.json")
    known = ("plan_hash", "encoder", "settings")
    store.write_json("plan/plan.json", {name: content[name] for name in known})
    growing.take_all()
    kill_after(num_writes)
    if num_writes is not None:
        with pytest.raises(Killed):
            convert(growing_pipeline, tmp_path / "old")
    kill_after(None)
    for name in ("old", "new"):
        convert(growing_pipeline, tmp_path / name)
    assert files_below(tmp_path / "old") == files_below(tmp_path / "new")


def test_settings_that_say_which_images_may_grow(season: Path, tmp_path: Path) -> None:
    """More seasons and a larger limit add shards; fewer, and all other settings, are refused."""
    whole = season_pipeline(str(season))
    small = replace(whole, rules=Rules(seasons=("S1",)), max_sequences=12)
    output = tmp_path / "out"
    convert(small, output)
    before = files_below(output)
    for changed, message in (
        (
            replace(whole, max_sequences=11, rules=Rules(seasons=("S1",))),
            "max_sequences was 12 and is now 11",
        ),
        (
            replace(small, resize=ResizeSettings(size="64")),
            r"resize\.size was '96' and is now '64'",
        ),
        (replace(small, rules=Rules(seasons=("S11",))), r"rules\.seasons was \['S1'\]"),
        (replace(whole, licence="mine"), "^[^;]*licence was '' and is now 'mine'[^;]*$"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(changed, output)
        assert files_below(output) == before
    for larger in (
        replace(small, max_sequences=14),
        replace(small, rules=Rules(seasons=("S1", "S11")), max_sequences=14),
        whole,
    ):
        convert(larger, output)
        check_whole(output)
        assert of_shards(before).items() <= of_shards(files_below(output)).items()
    assert len(open_dataset(str(output)).info.editions) == 4


def test_a_changed_label_is_refused_with_the_image(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Nothing is written when an image that is in a shard is labelled otherwise now."""
    output = tmp_path / "out"
    convert(growing_pipeline, output)
    before = files_below(output)
    image_id = open_dataset(str(output)).index("train")["image_id"][0].as_py()
    growing.relabel(image_id)
    growing.take_all()
    with pytest.raises(ConfigError, match=rf"labels of image {image_id} was \['.*'\] and is now"):
        convert(growing_pipeline, output)
    assert files_below(output) == before


def test_only_excluded_images_are_an_edition_without_shards(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """The ledger counts them, and no shard is added."""
    output = tmp_path / "out"
    growing_pipeline = replace(growing_pipeline, rules=Rules(seasons=("S1",)))
    first = convert(growing_pipeline, output)
    growing.take_all()
    second = convert(growing_pipeline, output)
    assert second.index.shards == first.index.shards
    assert second.ledger.excluded["season"] > 0
    assert second.index.editions[1].num_shards == 0
    check_whole(output)


def test_rejects_that_were_put_back_are_recovered(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """In shards of their own; the ledger balances, info tells, and no old file differs."""
    output = tmp_path / "out"
    growing.take_all()
    first = convert(growing_pipeline, output)
    assert set(first.ledger.rejected) == REJECTED
    before = files_below(output)
    back, *broken = rejected(output)
    growing.mend(back)
    again = convert(growing_pipeline, output, retry=True)
    assert (again.num_retried, again.num_recovered) == (3, 1)
    assert again.num_made == len(again.added) > 0
    assert of_shards(before).items() <= of_shards(files_below(output)).items()
    assert again.ledger.num_in_shards == first.ledger.num_in_shards + 1
    assert sum(again.ledger.rejected.values()) == 2
    groups = group_rejects(open_dataset(str(output)))
    assert sum(group.num_rejected for group in groups.by_reason) == 2
    check_whole(output)
    unchanged = files_below(output)
    convert(growing_pipeline, output)
    assert files_below(output) == unchanged
    for name in broken:
        growing.mend(name)
    last = convert(growing_pipeline, output, retry=True)
    assert (last.num_retried, last.num_recovered) == (2, 2)
    assert last.ledger.rejected == {}
    check_whole(output)
    whole = files_below(output)
    nothing = convert(growing_pipeline, output, retry=True)
    assert (nothing.num_retried, nothing.added) == (0, ())
    assert files_below(output) == whole


def test_rejects_may_be_rejected_again(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the budget of what is rejected in the end, though every one of the shard is."""
    monkeypatch.setattr(shard_module, "MIN_JUDGED", 1)
    strict = replace(growing_pipeline, max_rejects=3, max_shard_reject_share=0.9)
    growing.take_all()
    output = tmp_path / "out"
    first = convert(strict, output)
    for _ in range(2):
        again = convert(strict, output, retry=True)
        assert (again.num_retried, again.num_recovered) == (3, 0)
        assert again.ledger == first.ledger
        check_whole(output)
    with pytest.raises(TooManyFailures, match="3 of 55 planned images"):
        convert(replace(strict, max_rejects=2), output)


def test_growth_and_retry_at_once(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Both are added; an unfinished edition is finished first, and nothing tried again."""
    output = tmp_path / "out"
    convert(growing_pipeline, output)
    for name in rejected(output):
        growing.mend(name)
    growing.take_all()
    made = convert(growing_pipeline, output, retry=True)
    assert [one.kind for one in made.index.editions] == ["catalog", "catalog", "retry"]
    assert made.num_recovered == made.num_retried > 0
    check_whole(output)


def test_a_second_archive_brings_what_was_missing(season: Path, tmp_path: Path) -> None:
    """Half a season rejected for want of its zip is recovered once the pipeline names that too."""
    names = zipped(season, tmp_path)
    shutil.copy(season / "labels.json", tmp_path)
    pipeline = replace(season_pipeline(str(tmp_path)), max_reject_share=1, max_shard_reject_share=1)
    output = tmp_path / "out"
    first = convert(replace(pipeline, images=names[:1]), output)
    before = files_below(output)
    made = convert(replace(pipeline, images=names), output, retry=True)
    assert first.ledger.rejected["missing"] > 20
    assert made.num_retried - made.num_recovered == made.ledger.num_rejected == 3
    assert set(made.ledger.rejected) == REJECTED
    assert of_shards(before).items() <= of_shards(files_below(output)).items()
    check_whole(output)


@pytest.mark.slow
def test_a_dataset_in_a_bucket_grows(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    make_bucket: Callable[[str], str],
) -> None:
    """On a real S3 server: growth and retry give the objects that a folder gets as files."""
    import s3fs

    url = f"{make_bucket('growing')}/dataset"
    for retry in (False, False, True):
        convert(growing_pipeline, tmp_path / "out", retry=retry)
        convert_season(growing_pipeline, SerialRunner(), url, retry_rejects=retry)
        growing.take_all()
    s3fs.S3FileSystem().get(f"{url}/", f"{tmp_path}/back/", recursive=True)
    assert files_below(tmp_path / "back") == files_below(tmp_path / "out")
    assert len(open_dataset(url).info.editions) == 3


# --- Killed ---


class Killed(BaseException):
    """Ends a conversion as a signal would: nothing of ours catches it."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """A function that lets so many more writes and deletions happen; None lets all."""
    left: list[int | None] = [None]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def method(store: Store, name: str, *args: Any) -> Any:
            if name != "lease.json" and left[0] is not None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
            return real(store, name, *args)

        return method

    for name in ("_write", "delete", "create"):
        monkeypatch.setattr(Store, name, dying(getattr(Store, name)))

    def set_number(number: int | None) -> None:
        left[0] = number

    return set_number


def deaths(
    step: Callable[[], Conversion], kill_after: Callable[[int | None], None], every: int = 1
) -> Iterator[None]:
    """One for each place where ``step`` can be killed; the caller prepares a fresh output.

    Args:
        step: what is killed.
        kill_after: as the fixture gives it.
        every: so many-th place alone.
    """
    number = 0
    while True:
        kill_after(number)
        try:
            step()
        except Killed:
            kill_after(None)
            yield
            number += every
        else:
            kill_after(None)
            return


@pytest.mark.slow
def test_growth_killed_at_any_write_ends_in_the_same_bytes(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    kill_after: Callable[[int | None], None],
) -> None:
    """Until then the dataset of before stays readable; one command again finishes it."""
    small, output = tmp_path / "small", tmp_path / "out"
    first = convert(growing_pipeline, small)
    growing.take_all()
    shutil.copytree(small, tmp_path / "undisturbed")
    convert(growing_pipeline, tmp_path / "undisturbed")
    expected = files_below(tmp_path / "undisturbed")
    shutil.copytree(small, output)
    num_deaths = 0
    for _ in deaths(lambda: convert(growing_pipeline, output), kill_after):
        num_deaths += 1
        left = files_below(output)
        assert of_shards(files_below(small)).items() <= of_shards(left).items()
        assert open_dataset(str(output)).info == first.index
        convert(growing_pipeline, output)
        assert files_below(output) == expected
        shutil.rmtree(output)
        shutil.copytree(small, output)
    assert num_deaths > 15


def test_a_killed_growth_can_be_taken_back_until_it_is_planned(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    kill_after: Callable[[int | None], None],
) -> None:
    """With the old label file again, the old dataset is there again, catalog and all."""
    small, output = tmp_path / "small", tmp_path / "out"
    convert(growing_pipeline, small)
    before = files_below(small)
    growing.take_all()
    shutil.copytree(small, output)
    num_taken_back = 0
    for _ in deaths(lambda: convert(growing_pipeline, output), kill_after):
        growing.take(lambda seq_id: seq_id.startswith("SER_S1#"))
        if len(json.loads((output / "plan/plan.json").read_text())["editions"]) > 1:
            with pytest.raises(ConfigError, match="is not listed"):
                convert(growing_pipeline, output)
            break
        convert(growing_pipeline, output)
        assert files_below(output) == before
        num_taken_back += 1
        growing.take_all()
        shutil.rmtree(output)
        shutil.copytree(small, output)
    assert num_taken_back > 5


@pytest.mark.slow
@pytest.mark.parametrize("plain_every", [None, 4], ids=["the same command", "a plain one"])
def test_a_retry_killed_at_any_write_ends_in_the_same_bytes(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    kill_after: Callable[[int | None], None],
    plain_every: int | None,
) -> None:
    """The retry that was begun is finished, and no other one begun; a second retry likewise."""
    small, output = tmp_path / "small", tmp_path / "out"
    growing.take_all()
    convert(growing_pipeline, small)
    convert(growing_pipeline, small, retry=True)
    first = open_dataset(str(small)).info
    growing.mend(rejected(small)[0])
    shutil.copytree(small, tmp_path / "undisturbed")
    convert(growing_pipeline, tmp_path / "undisturbed", retry=True)
    expected = files_below(tmp_path / "undisturbed")
    shutil.copytree(small, output)
    num_deaths = 0
    for _ in deaths(
        lambda: convert(growing_pipeline, output, retry=True), kill_after, plain_every or 1
    ):
        num_deaths += 1
        assert open_dataset(str(output)).info == first
        groups = group_rejects(open_dataset(str(output)))
        assert sum(group.num_rejected for group in groups.by_reason) == 3
        is_planned = len(json.loads((output / "plan/plan.json").read_text())["editions"]) == 3
        convert(growing_pipeline, output, retry=plain_every is None or not is_planned)
        assert files_below(output) == expected
        shutil.rmtree(output)
        shutil.copytree(small, output)
    assert num_deaths > 12 // (plain_every or 1)


# --- Repaired ---


@pytest.fixture(scope="module")
def grown_pipeline(tmp_path_factory: pytest.TempPathFactory) -> SeasonPipeline:
    """The pipeline of ``three_editions``."""
    return season_pipeline(str(tmp_path_factory.mktemp("grown") / "source"))


@pytest.fixture(scope="module")
def three_editions(
    season: Path, grown_pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dataset of three editions, whose rejected photographs are all good by now. Read only."""
    output = tmp_path_factory.mktemp("three")
    growing = GrowingSeason(season, Path(grown_pipeline.source))
    convert(grown_pipeline, output)
    growing.take_all()
    convert(grown_pipeline, output)
    for name in rejected(output):
        growing.mend(name)
    convert(grown_pipeline, output, retry=True)
    return output


@pytest.fixture
def three(three_editions: Path, tmp_path: Path) -> Path:
    """A copy of that dataset."""
    return shutil.copytree(three_editions, tmp_path / "three")


def test_a_shard_of_each_edition_is_repaired(
    three: Path, grown_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """To its bytes: what an old shard rejected it rejects again, though it is good by now."""
    info = open_dataset(str(three)).info
    expected = files_below(three)
    edges = [0]
    for edition in info.editions:
        edges.append(edges[-1] + edition.num_shards)
    for first, end in pairwise(edges):
        for shard in info.shards[first:end]:
            output = tmp_path / "damaged"
            shutil.copytree(three, output)
            (output / shard.tar_name).write_bytes(b"damaged")
            (output / f"rejects/{shard.name}.parquet").unlink(missing_ok=True)
            mended = repair_dataset(grown_pipeline, SerialRunner(), str(output))
            assert mended.shards == (shard.name,)
            assert mended.problems == ()
            assert files_below(output) == expected
            shutil.rmtree(output)


def test_a_torn_old_shard_is_made_again_as_it_was(
    three: Path, grown_pipeline: SeasonPipeline
) -> None:
    """By convert as well: a photograph that a later shard has is not in the old one too."""
    expected = files_below(three)
    for path in three.glob("index/*.parquet"):
        path.unlink()
    convert(grown_pipeline, three)
    assert files_below(three) == expected


@pytest.mark.parametrize(
    "name", [*plan_files(()), RETRIED_FILE, "index.parquet", "SHA256SUMS", "dataset.json"]
)
@pytest.mark.parametrize("damage", ["lost", "cut", "flipped"])
def test_a_damaged_file_of_several_editions_is_repaired(
    three: Path, grown_pipeline: SeasonPipeline, name: str, damage: str
) -> None:
    """Each alone comes back to its bytes; verify names it before."""
    expected = files_below(three)
    content = bytearray(expected[name])
    content[len(content) // 2] ^= 1
    if damage == "lost":
        (three / name).unlink()
    else:
        (three / name).write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if name != "dataset.json":
        problems = verify_dataset(str(three), SerialRunner()).problems
        assert name in {problem.name for problem in problems}
    mended = repair_dataset(grown_pipeline, SerialRunner(), str(three))
    assert mended.files == (name,)
    assert files_below(three) == expected


def test_damage_under_an_unfinished_edition_is_repaired(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Verify tells that an edition is being added; repair mends what is old and finishes it."""
    output, expected = tmp_path / "out", tmp_path / "expected"
    for folder in (output, expected):
        convert(growing_pipeline, folder)
    growing.take_all()
    convert(growing_pipeline, expected)

    def dying(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(season_module, "make_missing", dying)
    with pytest.raises(Killed):
        convert(growing_pipeline, output)
    monkeypatch.undo()
    (problem,) = verify_dataset(str(output), SerialRunner()).problems
    assert "has an edition more than dataset.json" in problem.message
    store, name = Store(url=str(output)), "index/val-000000.parquet"
    report = read_report(store, "val-000000")
    write_table(store, name, read_table(store, name).slice(1), report=report)
    with pytest.raises(DatasetError, match=rf"{name} .* run `serengeti-etl repair`"):
        convert(growing_pipeline, output)
    assert "val-000000" in repair_dataset(growing_pipeline, SerialRunner(), str(output)).shards
    assert files_below(output) == files_below(expected)


def test_half_a_plan_is_not_repaired(
    growing: GrowingSeason,
    growing_pipeline: SeasonPipeline,
    tmp_path: Path,
    kill_after: Callable[[int | None], None],
) -> None:
    """Repair says that convert must write the plan first."""
    output = tmp_path / "out"
    convert(growing_pipeline, output)
    growing.take_all()
    kill_after(4)
    with pytest.raises(Killed):
        convert(growing_pipeline, output)
    kill_after(None)
    with pytest.raises(
        DatasetError, match=r"is not whole at .*: run `serengeti-etl convert` as bef"
    ):
        repair_dataset(growing_pipeline, SerialRunner(), str(output))


def test_nothing_is_added_to_a_damaged_plan(
    growing: GrowingSeason, growing_pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """A growth over a plan that is not what it was is refused, and nothing is written."""
    output = tmp_path / "out"
    convert(growing_pipeline, output)
    store = Store(url=str(output))
    content = bytearray(store.read(PLAN_FILE))
    content[len(content) // 2] ^= 1
    store.write(PLAN_FILE, bytes(content))
    before = files_below(output)
    growing.take_all()
    with pytest.raises(DatasetError, match=rf"{PLAN_FILE} .* is not what it was .* repair"):
        convert(growing_pipeline, output)
    assert files_below(output) == before


@pytest.mark.parametrize("other", ["dataset.json", "index.parquet", "rejects"])
def test_a_plan_that_cannot_be_told_is_to_be_put_back(
    three: Path, grown_pipeline: SeasonPipeline, other: str
) -> None:
    """Repair refuses, and changes nothing, where what would tell the plan is damaged as well."""
    name = (
        next(str(p.relative_to(three)) for p in three.glob("rejects/*-*"))
        if other == "rejects"
        else other
    )
    content = (three / PLAN_FILE).read_bytes()
    whole = files_below(three)
    for one in (PLAN_FILE, name):
        (three / one).write_bytes(b"?")
    before = files_below(three)
    with pytest.raises(
        DatasetError, match=r"plan\.parquet or .* is damaged.* put these files back"
    ):
        repair_dataset(grown_pipeline, SerialRunner(), str(three))
    assert files_below(three) == before
    (three / PLAN_FILE).write_bytes(content)
    repair_dataset(grown_pipeline, SerialRunner(), str(three))
    assert files_below(three) == whole


# --- Several sizes ---


def test_several_sizes_grow_and_retry_as_each_alone(
    growing: GrowingSeason, tmp_path: Path, kill_after: Callable[[int | None], None]
) -> None:
    """Growth and retry give each size the bytes of converting it alone, also after a kill."""
    base = replace(
        season_pipeline(str(growing.folder)), resize=ResizeSettings(), sizes=("48", "96x64")
    )
    alone = {size: base.of_size(size) for size in base.sizes}
    both = tmp_path / "both"

    def step(*, retry: bool, num_writes: int) -> None:
        for size, one in alone.items():
            convert(one, tmp_path / "alone" / size, retry=retry)
        if num_writes:
            kill_after(num_writes)
            with pytest.raises(Killed):
                convert_sizes(base, SerialRunner(), str(both), retry_rejects=retry)
            kill_after(None)
        convert_sizes(base, SerialRunner(), str(both), retry_rejects=retry)
        assert files_below(both) == files_below(tmp_path / "alone")

    step(retry=False, num_writes=0)
    growing.take_all()
    step(retry=False, num_writes=11)  # the plan of one size is there, that of the other is not
    for name in rejected(both / "48"):
        growing.mend(name)
    step(retry=True, num_writes=12)
    for size in base.sizes:
        check_whole(both / size)
    assert len(open_dataset(str(both / "48")).info.editions) == 3
    # A size that was deleted is made anew with all its editions.
    shutil.rmtree(both / "96x64")
    convert_sizes(base, SerialRunner(), str(both))
    assert files_below(both) == files_below(tmp_path / "alone")


def test_plan_rows_of_earlier_editions_are_a_prefix(three_editions: Path) -> None:
    """The rows of plan.parquet are those of the shards, in the order of the editions."""
    info = open_dataset(str(three_editions)).info
    rows = read_table(Store(url=str(three_editions)), PLAN_FILE)
    at = 0
    for edition in info.editions:
        part = rows.slice(at, edition.num_images)
        at += edition.num_images
        assert len(set(part["shard"].to_pylist())) == edition.num_shards
        assert len(set(part["image_id"].to_pylist())) == edition.num_images
    assert at == rows.num_rows
