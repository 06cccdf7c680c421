"""Damage never becomes a wrong sample: a neighbour stands in, is counted, or the shard is named."""

import io
import json
import logging
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import DatasetError, SerengetiError, ShardError
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.member import (
    DamagedSampleError,
    json_end,
    num_bytes_around,
    padded,
    parse_member,
)
from tests.dataset_factory import Recipe, make_dataset

SETTINGS = LoaderSettings(image_size=(48, 64), num_threads=2, max_damaged=0).for_evaluation()
ALLOWING = LoaderSettings(image_size=(48, 64), num_threads=2, max_damaged=40).for_evaluation()
Seen = list[tuple[str, tuple[float, ...], bytes]]


def read(folder: Path, settings: LoaderSettings = SETTINGS) -> Seen:
    """Name, targets and pixels of every sample of val, in order."""
    with ShardLoader(str(folder), split="val", batch_size=4, settings=settings) as loader:
        return [
            (name, tuple(batch.targets_BC[at].tolist()), batch.images_BCHW[at].numpy().tobytes())
            for batch in loader
            for at, name in enumerate(batch.image_ids)
            if name
        ]


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    """Without leave to replace it, a damaged photograph is an error with shard and offset."""
    dataset = make_dataset(str(tmp_path))
    row = dataset.index("val").to_pylist()[0]
    tar = tmp_path / "val" / "val-000000.tar"
    content = bytearray(tar.read_bytes())
    content[row["offset"] : row["offset"] + 300] = bytes(300)
    tar.write_bytes(content)
    with pytest.raises(
        ShardError, match=rf"offset {row['offset']} of shard val-000000 .* max_damaged is 0"
    ):
        read(tmp_path)


def test_a_neighbour_stands_in_for_a_damaged_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next whole image of the shard, under its own name and targets; counted and logged."""
    dataset = make_dataset(str(tmp_path))
    whole = read(tmp_path)
    rows = dataset.index("val").to_pylist()
    tar = tmp_path / "val" / "val-000000.tar"
    content = bytearray(tar.read_bytes())
    for at in (1, 3):
        content[rows[at]["offset"] + 200] ^= 1
    tar.write_bytes(content)
    expected = [*whole]
    expected[1], expected[3] = whole[2], whole[0]  # of the last, the first of its shard
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, ALLOWING) == expected
        assert read(tmp_path, ALLOWING) == expected
    assert "its neighbour stands in for it" in caplog.text
    with (
        ShardLoader(str(tmp_path), split="val", batch_size=4, settings=ALLOWING) as loader,
    ):
        list(loader)
        assert loader.report().num_replaced == 2
    one = LoaderSettings(image_size=(48, 64), max_damaged=1).for_evaluation()
    with pytest.raises(ShardError, match="number 2, max_damaged is 1"):
        read(tmp_path, one)


def test_a_shard_without_a_whole_sample_is_named(tmp_path: Path) -> None:
    """Where no neighbour is left, the shard is an error, whatever may be replaced."""
    make_dataset(str(tmp_path))
    (tmp_path / "val" / "val-000000.tar").write_bytes(b"gone")
    with pytest.raises(ShardError, match=r"no sample of shard val-000000 .* is whole"):
        read(tmp_path, ALLOWING)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """A tar that is not there is an error at once, and names itself."""
    make_dataset(str(tmp_path))
    (tmp_path / "val" / "val-000001.tar").unlink()
    with pytest.raises(ShardError, match="val-000001"):
        read(tmp_path, ALLOWING)


def test_a_cut_tar_gives_what_is_whole(tmp_path: Path) -> None:
    """Samples before the cut are read, those behind it are replaced by them."""
    make_dataset(str(tmp_path))
    whole = read(tmp_path)
    tar = tmp_path / "val" / "val-000001.tar"
    tar.write_bytes(tar.read_bytes()[:6000])
    found = read(tmp_path, ALLOWING)
    assert found[:4] == whole[:4]
    assert set(found[4:]) < set(whole[4:])


def swap_tars(folder: Path, rng: random.Random) -> None:
    """Two shards change places."""
    one, two = (folder / "val" / f"val-00000{at}.tar" for at in rng.sample(range(2), 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def flip(folder: Path, rng: random.Random) -> None:
    """One bit of one file that the loader reads."""
    path = rng.choice([*sorted((folder / "val").iterdir()), folder / "index.parquet"])
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def swap_ranges(folder: Path, rng: random.Random) -> None:
    """Two ranges of a tar change places."""
    path = rng.choice(sorted((folder / "val").iterdir()))
    content, size = bytearray(path.read_bytes()), 512 * rng.randint(1, 3)
    one, two = (512 * rng.randrange((len(content) - size) // 512) for _ in range(2))
    content[one : one + size], content[two : two + size] = (
        content[two : two + size],
        content[one : one + size],
    )
    path.write_bytes(content)


def cut(folder: Path, rng: random.Random) -> None:
    """The end of a tar is gone."""
    path = rng.choice(sorted((folder / "val").iterdir()))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


@pytest.mark.parametrize("damage", [flip, swap_ranges, swap_tars, cut])
@pytest.mark.parametrize("check", [True, False])
def test_damage_anywhere_never_yields_a_wrong_sample(
    damage: Callable[[Path, random.Random], None], *, check: bool, tmp_path: Path
) -> None:
    """In 25 random places: only samples of the dataset, or an error; unchecked pixels aside."""
    # With ``check`` off a flip inside a photograph may pass: that is what it says. Names, labels
    # and places are still held to each other.
    recipe = Recipe(sizes={"val": (4, 5)})
    whole_folder = tmp_path / "whole"
    make_dataset(str(whole_folder), recipe)
    whole = {(name, targets): pixels for name, targets, pixels in read(whole_folder)}
    cache = type(ALLOWING.cache)(check=check)
    settings = LoaderSettings(image_size=(48, 64), max_damaged=40, cache=cache).for_evaluation()
    for seed in range(25):
        folder = tmp_path / str(seed)
        make_dataset(str(folder), recipe)
        damage(folder, random.Random(seed))  # noqa: S311 - not a secret
        try:
            found = read(folder, settings)
        except SerengetiError:
            continue
        assert len(found) == 9
        for name, targets, pixels in found:
            assert (name, targets) in whole, f"seed {seed}"
            assert not check or whole[name, targets] == pixels, f"seed {seed}"


def member(key: str, said: str, following: str) -> bytes:
    """A photograph of three bytes and a JSON, as ``tarfile`` writes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in ((key, b"abc"), (following, said.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member("a.jpg", '{"image_id": "b"}', "a.json"), "of another image"),
        (member("a.jpg", '{"image_id": "a"}', "b.json"), "followed by 'b'"),
        (member("a.jpg", "[1]", "a.json"), "of another image"),
        (member("a.jpg", "{", "a.json"), "is no JSON"),
        (member("a.png", '{"image_id": "a"}', "a.json"), "'a.png' where a .jpg should be"),
        (member("a.jpg", '{"image_id": "a"}', "a.json")[512:], "no file of a tar begins"),
        (b"", "no file of a tar begins"),
    ],
)
def test_a_photograph_is_held_to_what_is_said_of_it(content: bytes, message: str) -> None:
    """Other names, other files and no files at all are damage, each with its reason."""
    with pytest.raises(DamagedSampleError, match=message):
        parse_member(content, 3)


def test_an_index_that_is_not_of_these_tars_is_seen(tmp_path: Path) -> None:
    """Labels, places and sizes of the index are held to what the tar says, sample by sample."""
    import pyarrow as pa

    from serengeti_etl.dataset.index import INDEX_FILE, open_dataset, write_table

    make_dataset(str(tmp_path))
    dataset = open_dataset(str(tmp_path))
    table = dataset.index()
    labels = table["labels"].to_pylist()
    wrong = {
        "labels": [["zebra"] if "zebra" not in one else ["empty"] for one in labels],
        "offset": [offset + 512 for offset in table["offset"].to_pylist()],
        "num_bytes": [size - 1 for size in table["num_bytes"].to_pylist()],
    }
    for name, values in wrong.items():
        at = table.schema.get_field_index(name)
        changed = table.set_column(at, table.field(at), pa.array(values, table.field(at).type))
        write_table(dataset.store, INDEX_FILE, changed)
        with pytest.raises((ShardError, DatasetError)):
            read(tmp_path)


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0./"), min_size=1, max_size=20)


@settings(deadline=None)
@given(key=KEYS, jpeg=st.binary(min_size=1, max_size=3000), extra=st.integers(0, 3000))
def test_members_are_read_as_tarfile_writes_them(key: str, jpeg: bytes, extra: int) -> None:
    """Photograph and JSON of any sizes come back, and a wrong size never does."""
    said = {"image_id": key, "note": "x" * extra}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in ((f"{key}.jpg", jpeg), (f"{key}.json", json.dumps(said).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    end = json_end(content, len(jpeg))
    member = parse_member(content[:end], len(jpeg))
    assert (bytes(member.jpeg), member.said) == (jpeg, said)
    assert num_bytes_around(len(jpeg)) >= 1024 + padded(len(jpeg))
    with pytest.raises(DamagedSampleError):
        parse_member(content[:end], len(jpeg) + 1)
