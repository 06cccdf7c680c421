"""What is drawn for each place, and that it never changes by accident."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError
from serengeti_etl.load.augment import WHOLE, Augment, View, draw_views, uniform_bits, whole_views

PLACES = np.arange(4000)
JITTER = Augment(brightness=0.2, contrast=0.3, saturation=0.4)


def test_the_first_draws_are_these() -> None:
    """A resumed run, also by a later version, sees the pixels that it would have seen."""
    first, last = draw_views(JITTER, (7, 2), np.array([0, 1_000_000]))
    assert dataclasses.astuple(first)[:4] == (
        0.051719675647851265,
        0.0666674740333916,
        0.9080017845900846,
        False,
    )
    assert first.jitter == pytest.approx((0.99505782, 0.73216498, 0.94385350), abs=1e-7)
    assert dataclasses.astuple(last)[:4] == (
        0.0011238627094680021,
        0.008031726884497702,
        0.9696856183316435,
        True,
    )
    assert last.jitter == pytest.approx((0.82665586, 0.76032138, 0.69223011), abs=1e-7)


@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10**6),
    min_area=st.floats(0.05, 1.0),
    first=st.integers(0, 10**9),
    size=st.tuples(st.integers(1, 3000), st.integers(1, 4000)),
)
def test_views_lie_inside_the_photograph(
    seed: int, epoch: int, min_area: float, first: int, size: tuple[int, int]
) -> None:
    """Crops keep their share of the area and the aspect; in px they are inside, never empty."""
    views = draw_views(Augment(min_area=min_area), (seed, epoch), np.arange(first, first + 20))
    boxes_B4 = views.boxes(np.tile(size, (20, 1)))
    for view, box in zip(views, boxes_B4.tolist(), strict=True):
        assert view.side**2 >= min_area - 1e-12
        assert 0 <= view.top <= 1 - view.side
        assert 0 <= view.left <= 1 - view.side
        assert tuple(box) == view.box(*size)
        spans = zip(size, (view.top, view.left), box[:2], box[2:], strict=True)
        for side, share, start, length in spans:
            assert 0 <= start <= side - length
            assert length >= 1
            assert abs(start - share * side) <= 2
            assert abs(length - view.side * side) <= 1
            assert view.side == 1 or (start % 2 == 0 and (length % 2 == 0 or length == 1))


def test_crops_reach_every_edge_and_flips_are_even() -> None:
    """Over many places, sizes and corners spread over all that is allowed; half are mirrored."""
    views = draw_views(Augment(), (3, 1), PLACES)
    areas = views.sides_B**2
    assert areas.min() < 0.66
    assert areas.max() > 0.99
    assert abs(areas.mean() - 0.825) < 0.01
    for corners_B in (views.tops_B, views.lefts_B):
        shares = corners_B / (1 - views.sides_B)
        assert np.abs(np.histogram(shares, bins=5, range=(0, 1))[0] / 4000 - 0.2).max() < 0.03
    assert 0.47 < views.flips_B.mean() < 0.53


@given(
    first=st.integers(0, 3999),
    length=st.integers(1, 300),
    augment=st.sampled_from([Augment(), JITTER]),
)
def test_a_view_depends_on_its_place_alone(first: int, length: int, augment: Augment) -> None:
    """The same seed, epoch and place give the same view in a batch of any size."""
    together = draw_views(augment, (3, 1), PLACES)[first : first + length]
    alone = draw_views(augment, (3, 1), PLACES[first : first + length])
    assert list(alone) == list(together)
    assert alone.of(len(alone) - 1) == draw_views(augment, (3, 1), PLACES).of(
        min(first + length, 4000) - 1
    )


def test_seed_and_epoch_decide() -> None:
    """Another seed or another epoch gives other views."""
    views = list(draw_views(Augment(), (3, 1), PLACES[:50]))
    assert not set(views) & set(draw_views(Augment(), (3, 2), PLACES[:50]))
    assert not set(views) & set(draw_views(Augment(), (4, 1), PLACES[:50]))


def test_switching_one_kind_on_leaves_the_others_as_they_were() -> None:
    """Jitter changes neither crops nor flips; without flips the crops stay."""
    plain, jittered = draw_views(Augment(), (0, 0), PLACES), draw_views(JITTER, (0, 0), PLACES)
    unflipped = draw_views(Augment(flip=False), (0, 0), PLACES)
    for views in (jittered, unflipped):
        assert (views.tops_B == plain.tops_B).all()
        assert (views.lefts_B == plain.lefts_B).all()
        assert (views.sides_B == plain.sides_B).all()
    assert (jittered.flips_B == plain.flips_B).all()
    assert not unflipped.flips_B.any()
    dark = draw_views(dataclasses.replace(JITTER, contrast=0.0), (0, 0), PLACES)
    assert (dark.jitter_B3[:, [0, 2]] == jittered.jitter_B3[:, [0, 2]]).all()
    assert (dark.jitter_B3[:, 1] == 1).all()


def test_jitter_spreads_around_one_by_its_strength() -> None:
    """Factors fill the range from 1 - s to 1 + s evenly, and are all 1 when switched off."""
    factors_B3 = draw_views(JITTER, (0, 0), PLACES).jitter_B3
    assert factors_B3.dtype == np.float32
    for factors_B, strength in zip(factors_B3.T, JITTER.strengths, strict=True):
        assert 1 - strength <= factors_B.min() < 1 - 0.99 * strength
        assert 1 + 0.99 * strength < factors_B.max() <= 1 + strength
        assert abs(factors_B.mean() - 1) < 0.02
    assert np.abs(np.corrcoef(factors_B3.T) - np.eye(3)).max() < 0.05
    assert (draw_views(Augment(), (0, 0), PLACES).jitter_B3 == 1).all()


def test_whole_views_show_everything_as_it_is() -> None:
    """Without augmentation each view is the whole photograph, and its box the whole size."""
    views = whole_views(3)
    assert list(views) == [WHOLE] * 3
    assert views.boxes(np.array([[384, 512], [1, 1], [0, 0]])).tolist() == [
        [0, 0, 384, 512],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    assert len(whole_views(0)) == 0
    assert list(draw_views(Augment(), (0, 0), PLACES[:0])) == []
    assert View(top=0.9, left=0.9, side=0.5).box(100, 200) == (50, 100, 50, 100)


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_area", 0.0), ("min_area", 1.01), ("brightness", -0.1), ("saturation", 1.1)],
)
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    """The message names the field and what it got."""
    with pytest.raises(ConfigError, match=f"{field} is {value}"):
        Augment(**{field: value})  # type: ignore[arg-type]


def test_hashed_numbers_are_uniform_and_independent() -> None:
    """Columns and neighbouring places are uncorrelated, and the values fill [0, 1) evenly."""
    draws = uniform_bits((0, 0), np.arange(20000), 3)
    assert np.abs(np.histogram(draws, bins=10, range=(0, 1))[0] / draws.size - 0.1).max() < 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
