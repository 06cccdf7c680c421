"""Which JPEGs take the short way, and that it leads to the same place."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert import resize
from serengeti_etl.convert.plain_jpeg import decode_scaled, encode_jpeg, plain_jpeg
from serengeti_etl.stages import Stages


def jpeg(mode: str = "RGB", size: tuple[int, int] = (320, 240), **options: object) -> bytes:
    """A smooth picture as a JPEG of Pillow's."""
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    out = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a field before it"
    exif[0x0112] = value
    return jpeg(exif=exif)


def with_segment(marker: int, payload: bytes) -> bytes:
    """A JPEG with one more segment behind its first two bytes."""
    content = jpeg()
    num_bytes = (len(payload) + 2).to_bytes(2, "big")
    return content[:2] + bytes([0xFF, marker]) + num_bytes + payload + content[2:]


def test_what_cameras_write_is_plain() -> None:
    """Baseline YCbCr is plain: upright by Exif or without, padded, any chroma subsampling."""
    contents = [jpeg(), oriented(1), jpeg(subsampling="4:2:2"), jpeg(subsampling="4:4:4")]
    contents.append(with_segment(0xEF, b"\xff" * 60_000))
    for content in contents:
        found = plain_jpeg(content)
        assert found is not None
        assert (found.width, found.height) == (320, 240)


@pytest.mark.parametrize(
    "make",
    [
        lambda: jpeg(progressive=True),
        lambda: jpeg("L"),
        lambda: jpeg("CMYK"),
        lambda: jpeg(keep_rgb=True),
        lambda: oriented(6),
        lambda: oriented(35),
        lambda: jpeg(icc_profile=b"a profile"),
        lambda: with_segment(0xE2, b"MPF\0II*\0"),
        lambda: with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<hdrgm:Version/>"),
        lambda: with_segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        lambda: with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
        lambda: jpeg()[:2] + b"junk" + jpeg()[2:],
        lambda: b"\x89PNG\r\n",
        lambda: b"",
    ],
)
def test_everything_else_is_libvips_business(make: Callable[[], bytes]) -> None:
    """Progressive, grey, CMYK, RGB, turned, profiles, several pictures, gain maps, junk."""
    assert plain_jpeg(make()) is None


@settings(max_examples=200, deadline=None)
@given(share=st.floats(0, 1), at=st.floats(0, 1), value=st.integers(0, 255))
def test_no_damage_to_a_header_is_an_error_here(share: float, at: float, value: int) -> None:
    """Cut or changed anywhere, a header is read or left to libvips, and never raises."""
    content = bytearray(oriented(1))
    content[int(at * (len(content) - 1))] = value
    plain_jpeg(bytes(content[: int(share * len(content))]))


@settings(max_examples=40, deadline=None)
@given(width=st.integers(16, 900), height=st.integers(16, 900), side=st.integers(8, 900))
def test_a_scaled_decode_leaves_room_to_reduce(width: int, height: int, side: int) -> None:
    """Each side has 1.5 times what is wanted, below 3/8 twice, or all that the photograph has."""
    photograph = plain_jpeg(jpeg(size=(width, height)))
    assert photograph is not None
    decoded_height, decoded_width, _ = decode_scaled(photograph, side, side // 2).shape
    if (decoded_width, decoded_height) != (width, height):
        margin = 1.5 if 8 * decoded_width >= 3 * width else 2
        assert decoded_width >= margin * side
        assert decoded_height >= margin * (side // 2)


def test_the_usual_sizes_are_decoded_at_three_eighths() -> None:
    """2048 by 1536 px to 512 and to a shortest side of 256: no more work than that."""
    photograph = plain_jpeg(jpeg(size=(2048, 1536)))
    assert photograph is not None
    assert decode_scaled(photograph, 512, 384).shape == (576, 768, 3)
    assert decode_scaled(photograph, 341, 256).shape == (576, 768, 3)
    assert decode_scaled(photograph, 256, 192).shape == (384, 512, 3)


def test_a_warning_of_the_decoder_is_an_error() -> None:
    """A photograph that ends early is not decoded with a grey rest."""
    content = jpeg(size=(640, 480))
    photograph = plain_jpeg(content[: len(content) * 2 // 3])
    assert photograph is not None
    with pytest.raises(ValueError, match=r"(?i)premature"):
        decode_scaled(photograph, 100, 100)


def test_the_encoder_writes_baseline_with_the_chroma_that_is_asked_for() -> None:
    """4:2:0 is fewer bytes than 4:4:4, and neither is progressive."""
    pixels_HWC = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    small, large = encode_jpeg(pixels_HWC, 85, "4:2:0"), encode_jpeg(pixels_HWC, 85, "4:4:4")
    assert len(small) < len(large)
    assert "progressive" not in Image.open(io.BytesIO(small)).info


def test_both_ways_lead_to_the_same_picture(shared_data: Path) -> None:
    """A Serengeti original by way of libjpeg-turbo differs from libvips' by coding noise only."""
    path = next((shared_data / "serengeti").rglob("S1_E05_R3_PICT0518.JPG"))
    content, wanted = path.read_bytes(), ResizeSettings(size="512")
    assert plain_jpeg(content) is not None
    pictures = [
        np.asarray(Image.open(io.BytesIO(made.jpeg)).convert("RGB"), np.float64)
        for made in (
            resize.resize_jpeg(content, wanted),
            resize._resize_any(content, wanted, Stages()),
        )
    ]
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 4


def test_a_shortest_side_is_met() -> None:
    """``short256`` gives 341 by 256 px, upright ones 256 by 341, and never enlarges."""
    for size, expected in (
        ((640, 480), (341, 256)),
        ((480, 640), (256, 341)),
        ((90, 60), (90, 60)),
    ):
        made = resize.resize_jpeg(jpeg(size=size), ResizeSettings(size="short256"))
        assert (made.width, made.height) == expected
