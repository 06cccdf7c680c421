"""The batched road on the device gives the pictures of the road on the CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from serengeti_etl.errors import ConfigError
from serengeti_etl.load.augment import Augment, View, Views, draw_views, whole_views
from serengeti_etl.load.decode import decode_into, decode_onto
from serengeti_etl.load.device import IMAGES_AT_ONCE, Output, prepare
from serengeti_etl.load.jitter import jitter_in_place
from tests.pictures import decibels, jpeg_of, picture, pillow, pillow_view

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
CANVAS = (96, 128)
SIZES = [(96, 128), (72, 128), (96, 72), (50, 64)]
JPEGS = [jpeg_of(picture(*size, seed=at)) for at, size in enumerate(SIZES)]
JITTER = Augment(brightness=0.3, contrast=0.3, saturation=0.3)


@pytest.fixture(scope="module")
def canvases() -> tuple[Tensor, np.ndarray]:
    """Four photographs of different sizes on canvases, and these sizes."""
    pixels_BHWC = np.full((len(JPEGS), *CANVAS, 3), 201, dtype=np.uint8)
    sizes_B2 = np.array(
        [decode_onto(jpeg, canvas) for jpeg, canvas in zip(JPEGS, pixels_BHWC, strict=True)]
    )
    return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2), sizes_B2


def pixels(image_CHW: Tensor) -> np.ndarray:
    return image_CHW.permute(1, 2, 0).float().cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(96, 128), (64, 64), (33, 41), (150, 200)])
def test_views_are_pillows_crop_resized_and_mirrored(
    canvases: tuple[Tensor, np.ndarray], size: tuple[int, int], device: str
) -> None:
    """Reduced and enlarged, each view equals crop, antialiased resize and mirror by Pillow."""
    images_BCHW, sizes_B2 = canvases
    for epoch in range(5):
        views = draw_views(Augment(min_area=0.3), (0, epoch), np.arange(4))
        made_BCHW = prepare(images_BCHW.to(device), sizes_B2, views, Output(image_size=size))
        for jpeg, view, photo_size, made in zip(JPEGS, views, SIZES, made_BCHW, strict=True):
            expected = pillow_view(pillow(jpeg), view.box(*photo_size), size)
            assert decibels(pixels(made), expected[:, ::-1] if view.flip else expected) > 50


@pytest.mark.parametrize("device", DEVICES)
@given(first=st.integers(0, 10**6), size=st.sampled_from([(80, 100), (96, 128), (120, 160)]))
@settings(max_examples=25, deadline=None)
def test_both_roads_give_the_same_pictures(device: str, first: int, size: tuple[int, int]) -> None:
    """Decode, crop, flip and jitter on the CPU, or decode there and the rest in a batch."""
    pixels_BHWC = np.zeros((len(JPEGS), *CANVAS, 3), dtype=np.uint8)
    sizes_B2 = np.array([decode_onto(j, c) for j, c in zip(JPEGS, pixels_BHWC, strict=True)])
    views = draw_views(JITTER, (0, 0), np.arange(first, first + 4))
    images_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).to(device)
    made_BCHW = prepare(images_BCHW, sizes_B2, views, Output(image_size=size))
    for jpeg, view, made in zip(JPEGS, views, made_BCHW, strict=True):
        out_HWC = np.empty((*size, 3), dtype=np.uint8)
        decode_into(jpeg, view, out_HWC)
        assert decibels(pixels(made), out_HWC) > 45


@pytest.mark.parametrize("size", [(24, 32), (31, 42), (13, 20)])
def test_both_roads_agree_where_one_decodes_at_a_smaller_scale(
    canvases: tuple[Tensor, np.ndarray], size: tuple[int, int]
) -> None:
    """A target far below the photograph's size is close on both."""
    images_BCHW, sizes_B2 = canvases
    views = draw_views(Augment(), (0, 0), np.arange(4))
    made_BCHW = prepare(images_BCHW, sizes_B2, views, Output(image_size=size))
    for jpeg, view, made in zip(JPEGS, views, made_BCHW, strict=True):
        out_HWC = np.empty((*size, 3), dtype=np.uint8)
        decode_into(jpeg, view, out_HWC)
        assert decibels(pixels(made), out_HWC) > 38


def test_nothing_but_the_photograph_shows(canvases: tuple[Tensor, np.ndarray]) -> None:
    """What lies on a canvas outside the photograph, or outside the crop, has no weight."""
    images_BCHW, sizes_B2 = canvases
    views = draw_views(Augment(), (0, 0), np.arange(4))
    output = Output(image_size=(64, 80))
    dirty_BCHW = images_BCHW.clone()
    for image_CHW, (top, left, rows, columns) in zip(
        dirty_BCHW, views.boxes(sizes_B2).tolist(), strict=True
    ):
        kept = image_CHW[:, top : top + rows, left : left + columns].clone()
        image_CHW[:] = 255
        image_CHW[:, top : top + rows, left : left + columns] = kept
    clean_BCHW = prepare(images_BCHW, sizes_B2, views, output)
    assert torch.equal(prepare(dirty_BCHW, sizes_B2, views, output), clean_BCHW)


def test_a_whole_photograph_at_its_own_size_stays_as_it_is(
    canvases: tuple[Tensor, np.ndarray],
) -> None:
    """No crop and no resize: bit by bit the same, mirrored if so wanted."""
    images_BCHW, sizes_B2 = canvases
    output = Output(image_size=CANVAS)
    whole = whole_views(1)
    assert torch.equal(prepare(images_BCHW[:1], sizes_B2[:1], whole, output), images_BCHW[:1])
    mirrored = batch_of(View(flip=True))
    made_BCHW = prepare(images_BCHW[:1], sizes_B2[:1], mirrored, output)
    assert torch.equal(made_BCHW, images_BCHW[:1].flip(3))


def batch_of(view: View) -> Views:
    return Views(
        tops_B=np.array([view.top]),
        lefts_B=np.array([view.left]),
        sides_B=np.array([view.side]),
        flips_B=np.array([view.flip]),
        jitter_B3=np.array([view.jitter], dtype=np.float32),
    )


def test_an_image_does_not_depend_on_its_batch(canvases: tuple[Tensor, np.ndarray]) -> None:
    """More images than are worked on at once come out as each would alone; twice the same."""
    images_BCHW, sizes_B2 = canvases
    many = np.arange(IMAGES_AT_ONCE + 6) % 4
    views = draw_views(JITTER, (0, 0), np.arange(len(many)))
    output = Output(image_size=(48, 64))
    made_BCHW = prepare(images_BCHW[many], sizes_B2[many], views, output)
    assert torch.equal(made_BCHW, prepare(images_BCHW[many], sizes_B2[many], views, output))
    for at in (0, 7, IMAGES_AT_ONCE - 1, IMAGES_AT_ONCE, IMAGES_AT_ONCE + 5):
        one = slice(at, at + 1)
        alone = prepare(images_BCHW[many[one]], sizes_B2[many[one]], views[one], output)
        assert (made_BCHW[at].int() - alone[0].int()).abs().max() <= 1


def test_floats_are_normalised_when_mean_and_std_are_given(
    canvases: tuple[Tensor, np.ndarray],
) -> None:
    """(value / 255 - mean) / std for each colour; without these two, 0 to 255 as they are."""
    images_BCHW, sizes_B2 = canvases
    views = whole_views(4)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    plain = prepare(images_BCHW, sizes_B2, views, Output(image_size=(40, 50), dtype=torch.float32))
    rounded = prepare(images_BCHW, sizes_B2, views, Output(image_size=(40, 50)))
    assert rounded.dtype == torch.uint8
    assert (plain.round() == rounded).all()
    assert plain.max() > 200
    expected = torch.stack([(plain[:, c] / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    for dtype, within in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        output = Output(image_size=(40, 50), dtype=dtype, mean=mean, std=std)
        made = prepare(images_BCHW, sizes_B2, views, output)
        assert made.dtype == dtype
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert (made.float() - expected).abs().max() < within


def test_autocast_of_the_caller_does_not_round_pixels(
    canvases: tuple[Tensor, np.ndarray],
) -> None:
    """Inside a training step in bf16 the pictures are the same."""
    images_BCHW, sizes_B2 = canvases
    views = draw_views(Augment(), (0, 0), np.arange(4))
    output = Output(image_size=(64, 80), dtype=torch.float32)
    expected = prepare(images_BCHW, sizes_B2, views, output)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prepare(images_BCHW, sizes_B2, views, output), expected)


def test_blanks_of_the_last_batch_come_out_black() -> None:
    """A place without a photograph has size 0 and gives zeros, not NaN; no batch gives no batch."""
    canvas = torch.zeros((2, 3, *CANVAS), dtype=torch.uint8)
    output = Output(image_size=(24, 32), dtype=torch.float32)
    views = draw_views(JITTER, (0, 0), np.arange(2))
    made = prepare(canvas, np.zeros((2, 2), dtype=np.int64), views, output)
    assert torch.equal(made, torch.zeros((2, 3, 24, 32)))
    none = prepare(canvas[:0], np.zeros((0, 2), dtype=np.int64), views[:0], output)
    assert none.shape == (0, 3, 24, 32)


def test_jitter_touches_only_images_that_ask_for_it() -> None:
    """In one batch each image follows its own factors."""
    images_BCHW = torch.from_numpy(picture().copy()).permute(2, 0, 1).float().repeat(3, 1, 1, 1)
    before = images_BCHW[0].clone()
    jitter_in_place(images_BCHW, np.array([[1, 1, 1], [0.5, 1, 1], [1, 1, 0]], dtype=np.float32))
    assert torch.equal(images_BCHW[0], before)
    assert torch.allclose(images_BCHW[1], before * 0.5)
    assert torch.allclose(images_BCHW[2, 0], images_BCHW[2, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (0, 5)}, "image_size is"),
        ({"dtype": torch.int32}, "dtype is"),
        ({"mean": (0.5, 0.5, 0.5)}, "std is None"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.0, 0.1), "dtype": torch.float32}, "std is"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.1, 0.1)}, "dtype is torch.uint8"),
    ],
)
def test_impossible_outputs_are_refused(changes: dict[str, object], message: str) -> None:
    """The message names the field; uint8 that is normalised would be nonsense."""
    with pytest.raises(ConfigError, match=message):
        Output(**({"image_size": (4, 4)} | changes))  # type: ignore[arg-type]
