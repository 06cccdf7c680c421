"""Pixels at the size needed, or as they are on a canvas."""

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from serengeti_etl.load.augment import WHOLE, Augment, View, draw_views
from serengeti_etl.load.decode import decode_image, decode_into, decode_onto, use_one_core
from tests.pictures import decibels, jpeg_of, picture, pillow, pillow_view

JPEG = jpeg_of(picture())


def decoded(view: View, size: tuple[int, int], jpeg: bytes = JPEG) -> np.ndarray:
    out_HWC = np.full((*size, 3), 77, dtype=np.uint8)
    decode_into(jpeg, view, out_HWC)
    return out_HWC


@pytest.mark.parametrize("size", [(96, 128), (72, 96), (51, 128), (120, 160)])
def test_whole_photographs_equal_pillows_resize(size: tuple[int, int]) -> None:
    """Stretched, reduced or enlarged from the full decode, they are Pillow's antialiased resize."""
    expected = pillow_view(pillow(JPEG), (0, 0, 96, 128), size)
    assert decibels(decode_image(JPEG, size), expected) > 50
    assert decode_image(JPEG).shape == (96, 128, 3)


@pytest.mark.parametrize("view", [WHOLE, View(top=0.1, left=0.05, side=0.83, flip=True)])
@pytest.mark.parametrize("size", [(48, 64), (30, 40), (24, 32), (20, 50), (12, 16), (8, 10)])
@pytest.mark.parametrize("photo_size", [(96, 128), (97, 128), (98, 127)])
def test_small_pictures_look_as_the_full_decode_reduced(
    view: View, size: tuple[int, int], photo_size: tuple[int, int]
) -> None:
    """Also where the decode is at 1/2, 1/4 or 1/8, and where that does not come out even."""
    jpeg = jpeg_of(picture(*photo_size))
    expected = pillow_view(pillow(jpeg), view.box(*photo_size), size)
    shown = decoded(view, size, jpeg)
    assert decibels(shown, expected[:, ::-1] if view.flip else expected) > 38


def test_small_pictures_come_from_a_scaled_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than the full size is decoded where the target allows, and never too little."""
    least = []
    decode = simplejpeg.decode_jpeg

    def watched(*args: Any, **options: Any) -> Any:
        least.append(options["min_height"])
        return decode(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    for view in (WHOLE, View(side=0.75)):
        for size in ((65, 64), (32, 42), (16, 21), (8, 10), (16, 100)):
            decoded(view, size)
    assert least == [96, 48, 24, 12, 96, 96, 96, 48, 48, 96]


@given(place=st.integers(0, 10**6), size=st.sampled_from([(72, 96), (96, 128), (130, 170)]))
@settings(max_examples=60, deadline=None)
def test_views_are_pillows_crop_resized_and_mirrored(place: int, size: tuple[int, int]) -> None:
    """Every drawn view equals crop, antialiased resize and mirror by Pillow."""
    view = draw_views(Augment(), (0, 0), np.array([place])).of(0)
    expected = pillow_view(pillow(JPEG), view.box(96, 128), size)
    assert decibels(decoded(view, size), expected[:, ::-1] if view.flip else expected) > 50


@pytest.mark.parametrize("view", [WHOLE, View(side=0.5, top=0.2, flip=True)])
def test_memory_in_pieces_is_written_to_as_well(view: View) -> None:
    """A part of a larger picture can be the target, and what lies around it stays."""
    size = (96, 128) if view == WHOLE else (60, 80)
    around_HWC = np.full((130, 170, 3), 9, dtype=np.uint8)
    decode_into(JPEG, view, around_HWC[5 : 5 + size[0], 7 : 7 + size[1]])
    assert (around_HWC[5 : 5 + size[0], 7 : 7 + size[1]] == decoded(view, size)).all()
    around_HWC[5 : 5 + size[0], 7 : 7 + size[1]] = 9
    assert (around_HWC == 9).all()


@pytest.mark.parametrize(
    ("at", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.5])
def test_jitter_is_pillows(at: int, enhance: Callable[[Image.Image], Any], factor: float) -> None:
    """Each factor does what Pillow's, and so torchvision's, enhancement of that name does."""
    factors = tuple(factor if place == at else 1.0 for place in range(3))
    view = View(jitter=(factors[0], factors[1], factors[2]))
    expected = np.asarray(enhance(Image.fromarray(decode_image(JPEG))).enhance(factor))
    assert decibels(decoded(view, (96, 128)), expected) > 48


def test_jitter_rounds_to_the_nearest() -> None:
    """Pictures do not become darker by half a level."""
    shown = decoded(View(jitter=(0.5, 1.0, 1.0)), (96, 128))
    assert abs(shown.mean() - decode_image(JPEG).mean() / 2) < 0.1


def test_jitters_come_in_torchvisions_order() -> None:
    """Brightness first, cut at white, then contrast, then saturation."""
    expected = Image.fromarray(decode_image(JPEG))
    expected = ImageEnhance.Brightness(expected).enhance(1.6)
    expected = ImageEnhance.Contrast(expected).enhance(0.5)
    expected = ImageEnhance.Color(expected).enhance(1.7)
    shown = decoded(View(jitter=(1.6, 0.5, 1.7)), (96, 128))
    assert decibels(shown, np.asarray(expected)) > 45


def test_one_core_is_for_the_calling_thread_alone() -> None:
    """Torch's threads become one where it was asked for, and stay as they were elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(1, initializer=use_one_core) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(96, 128), (50, 128), (96, 100), (31, 17)])
def test_a_canvas_holds_the_full_decode_and_zeros(size: tuple[int, int]) -> None:
    """The photograph lies in the top left corner, bit by bit, and old contents are gone."""
    jpeg = jpeg_of(picture(*size))
    canvas_HWC = np.full((96, 128, 3), 201, dtype=np.uint8)
    assert decode_onto(jpeg, canvas_HWC) == size
    assert (canvas_HWC[: size[0], : size[1]] == decode_image(jpeg)).all()
    canvas_HWC[: size[0], : size[1]] = 0
    assert not canvas_HWC.any()


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((192, 256), (96, 128)),
        ((100, 128), (96, 123)),
        ((96, 256), (48, 128)),
        ((150, 90), (96, 58)),
        ((1, 2000), (1, 128)),
    ],
)
def test_a_photograph_larger_than_the_canvas_is_made_to_fit(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    """It keeps its aspect, touches an edge of the canvas, and looks as Pillow would reduce it."""
    jpeg = jpeg_of(picture(*size))
    canvas_HWC = np.full((96, 128, 3), 201, dtype=np.uint8)
    assert decode_onto(jpeg, canvas_HWC) == fitted
    shown = canvas_HWC[: fitted[0], : fitted[1]].copy()
    assert decibels(shown, pillow_view(pillow(jpeg), (0, 0, *size), fitted)) > 30
    canvas_HWC[: fitted[0], : fitted[1]] = 0
    assert not canvas_HWC.any()


@pytest.mark.parametrize("cut", [0, 2, 200, 0.5, 0.9, -2])
def test_broken_bytes_raise(cut: float) -> None:
    """A JPEG cut anywhere is a ValueError on every road, never a half-grey image."""
    jpeg = JPEG[: int(cut * len(JPEG)) if isinstance(cut, float) else cut]
    canvas_HWC = np.zeros((96, 128, 3), dtype=np.uint8)
    for size in (None, (24, 32), (96, 128), (120, 160)):
        with pytest.raises(ValueError, match=r"\w+"):
            decode_image(jpeg, size)
    for canvas in (canvas_HWC, canvas_HWC[:40, :50].copy(), np.zeros((99, 140, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"\w+"):
            decode_onto(jpeg, canvas)


@pytest.mark.parametrize("seed", range(8))
def test_garbage_raises(seed: int) -> None:
    """Random bytes, also behind the header of a JPEG, are a ValueError."""
    noise = np.random.default_rng(seed).bytes(4000)
    for jpeg in (noise, JPEG[:2] + noise, JPEG[:700] + noise[:100] + JPEG[800:]):
        with pytest.raises(ValueError, match=r"\w+"):
            decode_onto(jpeg, np.zeros((96, 128, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("mode", "options"),
    [("L", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("CMYK", {})],
)
def test_other_kinds_of_jpeg_become_rgb(mode: str, options: dict[str, bool | int]) -> None:
    """Greyscale, progressive, 4:4:4 and CMYK files look as Pillow shows them."""
    jpeg = jpeg_of(picture(), mode, **options)
    canvas_HWC = np.zeros((96, 128, 3), dtype=np.uint8)
    assert decode_onto(jpeg, canvas_HWC) == (96, 128)
    assert decibels(canvas_HWC, pillow(jpeg)) > 45


def test_damaged_files_of_the_collection_raise(shared_data: Path) -> None:
    """Every odd file that must be rejected as cut or corrupt raises; none comes out half grey."""
    folder, canvas_HWC = shared_data / "odd", np.zeros((384, 512, 3), dtype=np.uint8)
    with (folder / "expected.csv").open(newline="") as file:
        names = [
            row["file"]
            for row in csv.DictReader(file)
            if row["file"].startswith(("truncated/", "damaged/", "not_an_image/"))
            and row["expected"].startswith("rejected")
        ]
    assert len(names) > 30
    for name in names:
        with pytest.raises(ValueError, match=r"\w+"):
            decode_onto((folder / name).read_bytes(), canvas_HWC)


@pytest.mark.parametrize(
    "name",
    [
        "grey_serengeti_256.jpg",
        "progressive_serengeti.jpg",
        "cmyk_adobe_serengeti_256.jpg",
        "ycck_serengeti_256.jpg",
        "restart_markers.jpg",
        "rgb_coded.jpg",
    ],
)
def test_odd_colours_of_the_collection_look_as_pillow_shows_them(
    shared_data: Path, name: str
) -> None:
    """Real photographs coded in unusual ways."""
    jpeg = (shared_data / "odd" / "colour" / name).read_bytes()
    expected = pillow(jpeg)
    canvas_HWC = np.zeros((*expected.shape[:2], 3), dtype=np.uint8)
    assert decode_onto(jpeg, canvas_HWC) == expected.shape[:2]
    assert decibels(canvas_HWC, expected) > 40
