"""Settings refuse nonsense when they are built, and say what they may be."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from serengeti_etl.config import (
    MIB,
    ClusterSpec,
    ResizeSettings,
    SeasonPipeline,
    ShardSettings,
)
from serengeti_etl.errors import ConfigError, ImageError, SerengetiError, TooManyFailures
from serengeti_etl.label_config import FractionSplit


def with_sizes(*sizes: str, **changes: Any) -> SeasonPipeline:
    return SeasonPipeline(name="a", source="x", labels="y", sizes=sizes, **changes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResizeSettings(size="small"), "size is 'small', but it must be a longest side"),
        (lambda: ResizeSettings(size="0"), "16 to 8192 px"),
        (lambda: ResizeSettings(size="512x"), "512x384"),
        (lambda: ResizeSettings(quality=0), "quality is 0, but it must be from 1 to 100"),
        (lambda: ResizeSettings(subsampling="4:2:2"), "subsampling"),  # type: ignore[arg-type]
        (lambda: ShardSettings(max_samples=0), "max_samples is 0"),
        (lambda: FractionSplit(val_fraction=1.0), "val_fraction is 1.0"),
        (lambda: SeasonPipeline(name="a b", source="x", labels="y"), "name is 'a b'"),
        (lambda: SeasonPipeline(name="a", source="", labels="y"), "source is ''"),
        (lambda: SeasonPipeline(name="a", source="x", labels=""), "labels is ''"),
        (
            lambda: SeasonPipeline(name="a", source="x", labels="y", classes=("b", "b")),
            "without repeats",
        ),
        (
            lambda: SeasonPipeline(name="a", source="x", labels="y", max_reject_share=2),
            "max_reject_share is 2",
        ),
        (lambda: ClusterSpec(cluster="LocalCluster"), "module:Class"),
        (lambda: ClusterSpec(cluster="a:B", adaptive=(3, 2)), "adaptive is (3, 2)"),
        (lambda: ClusterSpec(cluster="a:B", adaptive=(0, 0)), "fewest and the most workers"),
        (lambda: ClusterSpec(cluster="a:B", adaptive=5), "adaptive is 5"),  # type: ignore[arg-type]
        (
            lambda: ClusterSpec(cluster="a:B", adaptive=(1, 2), num_workers=3),
            "num_workers is 3, but it must be None where adaptive",
        ),
        (
            lambda: ClusterSpec(cluster="a:B", options={"security": 1}, is_secure=True),
            "is_secure is True, but it must be left out",
        ),
        (lambda: ResizeSettings(decode_sizes=("512", "8")), "decode_sizes is '8'"),
        (lambda: with_sizes("512"), "a tuple of two at least; one size goes to resize.size"),
        (lambda: with_sizes("512", "small"), "sizes is 'small', but it must be a longest side"),
        (lambda: with_sizes("512", "256", "512"), "without repeats"),
        (lambda: with_sizes("512", "256").of_size("300"), "size is '300', but it must be one of"),
        (
            lambda: with_sizes("512", "256", resize=ResizeSettings(size="64")),
            "resize.size is '64', but it must be left out where sizes says what to write",
        ),
        (
            lambda: with_sizes("512", "256", resize=ResizeSettings(decode_sizes=("64",))),
            "resize.decode_sizes is ('64',)",
        ),
        (
            lambda: SeasonPipeline(name="a", source="x", labels="y", sizes="512x384"),  # type: ignore[arg-type]
            "sizes is '512x384', but it must be a tuple",
        ),
    ],
)
def test_nonsense_is_refused_with_what_it_may_be(build: Callable[[], object], message: str) -> None:
    """Each impossible setting is a ConfigError that names the field, its value and the range."""
    with pytest.raises(ConfigError) as caught:
        build()
    assert message in str(caught.value)


def test_sizes_are_a_longest_side_or_a_box() -> None:
    """``512`` has no box, ``512x384`` has."""
    assert ResizeSettings(size="512").box is None
    assert ResizeSettings(size="512x384").box == (512, 384)
    assert ResizeSettings(size="384x512").side == 512


def test_a_shortest_side_is_a_size_of_its_own() -> None:
    """``short256`` is no box, and a photograph of 4:3 has 341 by 256 px of it."""
    short = ResizeSettings(size="short256")
    assert (short.box, short.side, short.is_shortest_side) == (None, 256, True)
    assert not ResizeSettings(size="256").is_shortest_side
    assert short.typical_pixels == pytest.approx(341.3 * 256, rel=0.01)
    assert ResizeSettings(size="512").typical_pixels == 512 * 384


@pytest.mark.parametrize(
    ("images", "archives", "folder"),
    [
        ("", (), ""),
        ("photos/S1", (), "photos/S1"),
        ("S1.ZIP", ("S1.ZIP",), ""),
        ("S1.tar.gz", ("S1.tar.gz",), ""),  # which is then refused by name
        (("a.zip", "b.zip"), ("a.zip", "b.zip"), ""),
    ],
)
def test_archives_are_told_by_their_names(
    images: str | tuple[str, ...], archives: tuple[str, ...], folder: str
) -> None:
    """A name that ends like an archive's is one, and several are given as a tuple."""
    pipeline = SeasonPipeline(name="a", source="x", labels="y", images=images)
    assert (pipeline.archives, pipeline.images_folder) == (archives, folder)


def test_where_photographs_lie_does_not_decide_bytes() -> None:
    """A mirror or a local copy has the same deciding settings; another size has others."""
    here = SeasonPipeline(name="a", source="here", labels="y")
    there = SeasonPipeline(name="a", source="s3://there", labels="y", storage_options={"anon": 1})
    smaller = SeasonPipeline(name="a", source="here", labels="y", resize=ResizeSettings(size="256"))
    assert here.deciding_settings() == there.deciding_settings()
    assert here.deciding_settings() != smaller.deciding_settings()


def test_sizes_share_the_decode_and_the_limit_of_the_largest() -> None:
    """One size of several is a pipeline of its own, whose shards hold what the largest allows."""
    shards = ShardSettings(target_bytes=MIB, max_samples=10_000)
    several = with_sizes("512x384", "256x192", resize=ResizeSettings(quality=70), shards=shards)
    assert list(several.by_folder()) == ["512x384", "256x192"]
    for size, one in several.by_folder().items():
        assert one == several.of_size(size)
        assert (one.sizes, one.resize.size, one.resize.quality) == ((), size, 70)
        assert one.resize.decode_sizes == ("256x192", "512x384")
        assert one.shards.num_samples(one.resize) == one.shards.max_samples == 14
        assert one.by_folder() == {"": one}


def test_a_setting_that_nobody_sets_is_in_no_fingerprint() -> None:
    """Without ``decode_sizes`` the deciding settings are those of older datasets, with it not."""
    plain = SeasonPipeline(name="a", source="x", labels="y").deciding_settings()["resize"]
    assert "decode_sizes" not in plain
    said = with_sizes("512", "256").of_size("256").deciding_settings()["resize"]
    assert said["decode_sizes"] == ["256", "512"]


@pytest.mark.parametrize(
    "error",
    [ImageError("truncated", "ends early"), TooManyFailures("9 of 10"), ConfigError("size is 0")],
)
def test_errors_survive_pickling(error: SerengetiError) -> None:
    """Errors cross process borders with their type, text and fields."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
