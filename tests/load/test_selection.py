"""Which samples are taken, and how often."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.compute as pc
import pytest

from serengeti_etl.dataset import index
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.read_table import read_images
from serengeti_etl.load.selection import EVERYTHING, Selection
from serengeti_etl.load.table import SampleTable
from tests.dataset_factory import CLASSES, Recipe, make_dataset
from tests.load.table_factory import draw_table

SETTINGS = LoaderSettings(image_size=(24, 32), drop_last=False, num_threads=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Shards of 7, 0, 6, 9 and 5 training samples, in sequences of two."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset")))


def shown(dataset: Dataset, selection: Selection, **more: Any) -> list[str]:
    """Image ids of one epoch, without blanks."""
    with ShardLoader(
        dataset, split="train", batch_size=4, selection=selection, settings=SETTINGS, **more
    ) as loader:
        return [name for batch in loader for name in batch.image_ids if name]


def ids(dataset: Dataset, where: Any = None) -> list[str]:
    """Image ids of the training split, as the index has them."""
    table = dataset.index("train", columns=["image_id"], where=where)
    return [str(name) for name in table["image_id"].to_pylist()]


@pytest.mark.parametrize(
    "where",
    [
        pc.field("frame_num") == 1,
        pc.field("season") == "S1",
        pc.field("seq_id") == "train#3",
        pc.field("shard").isin(["train-000000", "train-000003"]),
        pc.list_value_length(pc.field("labels")) > 1,
        pc.field("num_bytes") > 868,
        (pc.field("site") == "train-site") & (pc.field("frame_num") > 1),
    ],
    ids=str,
)
def test_where_takes_what_the_index_has(dataset: Dataset, where: Any) -> None:
    """An expression on any column gives exactly the images that it gives on the index."""
    found = shown(dataset, Selection(where=where))
    assert sorted(found) == sorted(ids(dataset, where))
    assert 0 < len(found) <= 27


def test_what_cannot_be_asked_for_is_said(dataset: Dataset) -> None:
    """A column that is not there, and a question with no answer, name themselves."""
    with pytest.raises(ConfigError, match=r"where is .*animal.*columns are image_id, seq_id"):
        shown(dataset, Selection(where=pc.field("animal") == "zebra"))
    with pytest.raises(ConfigError, match=r"nothing of split train of .* is selected"):
        shown(dataset, Selection(where=pc.field("season") == "S99"))


def test_one_sample_can_be_selected(dataset: Dataset) -> None:
    """An epoch of one image is one batch with one sample."""
    (name,) = ids(dataset)[:1]
    assert shown(dataset, Selection(where=pc.field("image_id") == name)) == [name]


def test_a_sequence_is_shown_by_one_frame_and_another_time_by_another(dataset: Dataset) -> None:
    """Each sequence comes once an epoch; over the epochs every frame comes."""
    rows = dataset.index("train", columns=["image_id", "seq_id", "shard"]).to_pylist()
    sequence_of = {row["image_id"]: (row["seq_id"], row["shard"]) for row in rows}
    selection = Selection(frames="one")
    seen = set()
    with ShardLoader(
        dataset, split="train", batch_size=4, selection=selection, settings=SETTINGS
    ) as loader:
        for _ in range(8):
            names = [name for batch in loader for name in batch.image_ids if name]
            found = [sequence_of[name] for name in names]
            assert sorted(found) == sorted(set(sequence_of.values()))
            seen |= set(names)
    assert seen == set(sequence_of)
    whole = SETTINGS.for_evaluation()
    with ShardLoader(
        dataset, split="train", batch_size=4, selection=selection, settings=whole
    ) as loader:
        first = [name for batch in loader for name in batch.image_ids if name]
    starts = {sequence: name for name, sequence in reversed(sequence_of.items())}
    assert first == [starts[sequence] for sequence in dict.fromkeys(sequence_of.values())]


def test_a_sequence_comes_with_its_frames_side_by_side(dataset: Dataset) -> None:
    """Frames of a sequence follow each other, what is missing is masked, targets are of all."""
    rows = {row["image_id"]: row for row in dataset.index("train").to_pylist()}
    selection = Selection(frames="sequence", max_frames=3)
    with ShardLoader(
        dataset, split="train", batch_size=4, selection=selection, settings=SETTINGS
    ) as loader:
        batches = list(loader)
        assert loader.samples.num_frames_left_out == 0
    seen = []
    for batch in batches:
        assert batch.images_BCHW.shape == (12, 3, 24, 32)
        assert batch.frame_mask_BF.shape == (4, 3)
        names = np.array(batch.image_ids).reshape(4, 3)
        assert np.array_equal(names != "", batch.frame_mask_BF.numpy())
        frames_BFCHW = batch.images_BCHW.view(4, 3, 3, 24, 32)
        assert not frames_BFCHW[~batch.frame_mask_BF].any()
        for at in range(int(batch.mask_B.sum())):
            of_sample = [rows[name] for name in names[at] if name]
            assert {row["seq_id"] for row in of_sample} == {batch.seq_ids[at]}
            labels = {label for row in of_sample for label in row["labels"]}
            wanted = [float(category in labels) for category in CLASSES]
            assert batch.targets_BC[at].tolist() == wanted
            seen += [row["image_id"] for row in of_sample]
    assert sorted(seen) == sorted(rows)


def test_frames_beyond_the_limit_are_counted(dataset: Dataset) -> None:
    """A limit of one frame leaves out the second of each sequence, and says how many."""
    read = read_images([dataset], "train", EVERYTHING)
    table = SampleTable(read.images, Selection(frames="sequence", max_frames=1))
    assert table.num_frames_left_out == len(read.images) - len(table)
    assert table.num_frames_left_out > 0


def test_a_smaller_fraction_is_part_of_a_larger(tmp_path: Path) -> None:
    """Whole sequences are taken, about as many as asked for, the same in every epoch."""
    dataset = make_dataset(str(tmp_path), Recipe(sizes={"train": (300, 300)}, height=8, width=8))
    sets = []
    for fraction in (0.1, 0.4, 1.0):
        table = read_images([dataset], "train", Selection(fraction=fraction)).images
        sets.append(set(table.sequences_N.tolist()))
        assert len(table) == 2 * len(sets[-1])
        assert math.isclose(len(sets[-1]) / 300, fraction, abs_tol=0.08)
    assert sets[0] < sets[1] < sets[2]


def test_balanced_classes_come_equally_often() -> None:
    """With one label each, a rare class comes as often as a common one; the shares are told."""
    table = draw_table([400, 300], Selection(weights="balanced"))
    shares = table.expected_shares()
    plain = draw_table([400, 300], Selection(weights={"empty": 1.0})).expected_shares()
    assert max(shares.values()) - min(shares.values()) <= max(plain.values()) - min(plain.values())
    weights = table.category_weights()
    counts = dict(zip(table.images.classes, table.images.class_counts().tolist(), strict=True))
    assert sorted(weights, key=weights.__getitem__) == sorted(counts, key=lambda c: -counts[c])


def test_a_weight_of_nothing_leaves_a_category_out(dataset: Dataset) -> None:
    """Samples of weight 0 never come, others more often, in an epoch of the same length."""
    selection = Selection(weights={"empty": 0.0, "zebra": 2.0})
    found = shown(dataset, selection)
    rows = {row["image_id"]: row["labels"] for row in dataset.index("train").to_pylist()}
    assert len(found) == len(rows)
    assert not [name for name in found if rows[name] == ["empty"]]
    assert found != shown(dataset, selection, seed=1)
    assert found == shown(dataset, selection)


def test_samples_of_no_class_weigh_what_nobody_named(dataset: Dataset) -> None:
    """With weights by name they weigh 1; balanced, as much as the commonest class."""
    images = read_images([dataset], "train", EVERYTHING).images
    is_none = np.diff(images.code_starts_N1) == 0
    assert is_none.any()
    named = SampleTable(images, Selection(weights=dict.fromkeys(CLASSES, 3.0))).weights()
    assert np.allclose(named[is_none] * 3, named[~is_none][0])
    balanced = SampleTable(images, Selection(weights="balanced")).weights()
    assert np.allclose(balanced[is_none], balanced[~is_none].min())


def test_a_sequence_is_one_where_row_groups_meet_too(tmp_path: Path) -> None:
    """However the index is cut into row groups, the sequences are the same."""
    dataset = make_dataset(str(tmp_path), Recipe(sizes={"train": (9, 6, 7), "val": (4,)}))
    whole = read_images([dataset], "train", EVERYTHING)
    for size in (1, 2, 3, 5):
        with patch.object(index, "ROWS_PER_GROUP", size):
            index.compact_index(dataset.store, dataset.info.shards)
        found = read_images([dataset], "train", EVERYTHING)
        assert np.array_equal(found.images.sequences_N, whole.images.sequences_N)
        assert np.array_equal(found.images.code_starts_N1, whole.images.code_starts_N1)
        assert found.taken == whole.taken


def test_several_datasets_are_mixed_in_the_shares_asked_for(tmp_path: Path) -> None:
    """Of two datasets, samples come by size, or by the shares given; classes are joined."""
    large = make_dataset(str(tmp_path / "a"), Recipe(sizes={"train": (60, 60)}))
    small = make_dataset(str(tmp_path / "b"), Recipe(sizes={"train": (20, 20)}, seed=1))
    counts = {}
    for shares in (None, (0.5, 0.5)):
        read = read_images([large, small], "train", EVERYTHING)
        table = SampleTable(read.images, Selection(shares=shares))
        weights = table.weights()
        counts[shares] = (weights[:120].sum(), weights[120:].sum())
        with ShardLoader(
            [str(tmp_path / "a"), small],
            split="train",
            batch_size=8,
            selection=Selection(shares=shares),
            settings=SETTINGS,
        ) as loader:
            assert loader.classes == CLASSES
            assert sum(int(batch.mask_B.sum()) for batch in loader) == 160
            state = loader.state_dict()
    assert np.allclose(counts[None], (120, 40))
    assert np.allclose(counts[0.5, 0.5], (80, 80))
    with pytest.raises(ConfigError, match="one number for each of the 2 datasets"):
        ShardLoader([large, small], split="train", batch_size=8, selection=Selection(shares=(1.0,)))
    other = ShardLoader([small, large], split="train", batch_size=8, settings=SETTINGS)
    with pytest.raises(ConfigError, match="plan_hash"):
        other.load_state_dict(state)


def test_a_state_of_another_selection_is_refused(dataset: Dataset) -> None:
    """A cursor counts samples of its own selection; in another its place means nothing."""
    selection = Selection(where=pc.field("frame_num") == 1)
    chosen = ShardLoader(
        dataset, split="train", batch_size=4, selection=selection, settings=SETTINGS
    )
    plain = ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS)
    with pytest.raises(ConfigError, match="selection of the loader's state"):
        plain.load_state_dict(chosen.state_dict())
    weighted = ShardLoader(
        dataset,
        split="train",
        batch_size=4,
        selection=Selection(weights={"zebra": 2.0}),
        settings=SETTINGS,
    )
    other = Selection(weights={"zebra": 3.0})
    with pytest.raises(ConfigError, match="selection of the loader's state"):
        ShardLoader(
            dataset, split="train", batch_size=4, selection=other, settings=SETTINGS
        ).load_state_dict(weighted.state_dict())
    same = Selection(where=pc.field("frame_num") < 2)
    ShardLoader(
        dataset, split="train", batch_size=4, selection=same, settings=SETTINGS
    ).load_state_dict(chosen.state_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fraction": 0}, "fraction is 0"),
        ({"frames": "two"}, "frames is 'two'"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"weights": "equal"}, "weights is 'equal'"),
        ({"weights": {"zebra": -1}}, "the weight of zebra is -1"),
        ({"shares": (0.0, 1.0)}, "shares is"),
    ],
)
def test_impossible_selections_are_refused(values: dict[str, Any], message: str) -> None:
    """What cannot be is refused when the selection is built, by its name."""
    with pytest.raises(ConfigError, match=message):
        Selection(**values)


def test_an_index_of_other_shards_is_refused(tmp_path: Path) -> None:
    """An index that lists shards in another order than dataset.json is named."""
    dataset = make_dataset(str(tmp_path))
    index.compact_index(dataset.store, dataset.info.shards[::-1])
    with pytest.raises(DatasetError, match=r"index and dataset.json of .* disagree"):
        read_images([dataset], "train", EVERYTHING)
    (tmp_path / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"index.parquet at .* cannot be read"):
        read_images([dataset], "train", EVERYTHING)
