"""What surrounds torchvision's decoder: canvases and errors. nvJPEG itself needs a GPU."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from serengeti_etl.errors import ConfigError
from serengeti_etl.load.decode import decode_image
from serengeti_etl.load.nvjpeg import decode_on_device
from tests.pictures import jpeg_of, picture

CPU = torch.device("cpu")
Install = Callable[[Callable[..., list[Tensor]]], None]


@pytest.fixture
def torchvision_io(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a decoder in the place of torchvision's, which may not load here."""

    def install(decode: Callable[..., list[Tensor]]) -> None:
        fake = ModuleType("torchvision.io")
        fake.__dict__.update(decode_jpeg=decode, ImageReadMode=SimpleNamespace(RGB="RGB"))
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.io", fake)

    return install


def by_simplejpeg(contents: list[Tensor], *, mode: str, device: torch.device) -> list[Tensor]:
    """Another decoder behind torchvision's signature."""
    assert mode == "RGB"
    assert all(content.dtype == torch.uint8 and content.ndim == 1 for content in contents)
    images = [decode_image(content.numpy().tobytes()) for content in contents]
    return [torch.from_numpy(image).permute(2, 0, 1).to(device) for image in images]


def test_photographs_lie_in_the_corners_of_canvases(torchvision_io: Install) -> None:
    """Sizes and pixels are those of each JPEG, and the rest of a canvas is zero."""
    torchvision_io(by_simplejpeg)
    jpegs = [jpeg_of(picture(*size)) for size in ((96, 128), (50, 40))]
    canvases_BCHW, sizes_B2 = decode_on_device(jpegs, CPU, (96, 128))
    assert sizes_B2.tolist() == [[96, 128], [50, 40]]
    assert canvases_BCHW.is_contiguous(memory_format=torch.channels_last)
    pixels_BHWC = canvases_BCHW.permute(0, 2, 3, 1).numpy()
    assert (pixels_BHWC[0] == decode_image(jpegs[0])).all()
    assert (pixels_BHWC[1, :50, :40] == decode_image(jpegs[1])).all()
    assert not pixels_BHWC[1, 50:].any()
    assert not pixels_BHWC[1, :, 40:].any()


def test_no_photographs_give_an_empty_batch(torchvision_io: Install) -> None:
    """Nothing to decode is no error."""
    torchvision_io(lambda *_, **__: pytest.fail("torchvision refuses an empty list"))
    canvases_BCHW, sizes_B2 = decode_on_device([], CPU, (96, 128))
    assert canvases_BCHW.shape == (0, 3, 96, 128)
    assert sizes_B2.shape == (0, 2)


def test_a_photograph_larger_than_the_canvas_is_refused(torchvision_io: Install) -> None:
    """The message has both sizes."""
    torchvision_io(by_simplejpeg)
    with pytest.raises(ValueError, match=r"\[96, 128\] px does not fit a canvas of \[96, 100\]"):
        decode_on_device([jpeg_of(picture())], CPU, (96, 100))


def test_what_torchvision_refuses_is_a_value_error(torchvision_io: Install) -> None:
    """As from the other decoders."""

    def refuse(contents: list[Tensor], **_: object) -> list[Tensor]:
        raise RuntimeError(f"Not a JPEG file: {len(contents)}")

    torchvision_io(refuse)
    with pytest.raises(ValueError, match="one of 1 JPEGs: Not a JPEG"):
        decode_on_device([b"no"], CPU, (96, 128))


def test_a_torchvision_that_does_not_load_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is tried in its place: the CPU's decoder has its own settings."""
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(ConfigError, match="install a matching pair"):
        decode_on_device([b"no"], CPU, (96, 128))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nvJPEG needs a GPU")
def test_nvjpeg_shows_what_libjpeg_shows() -> None:
    """On a GPU the pixels are the CPU decoder's within a few of 255."""
    jpeg = jpeg_of(picture())
    canvases_BCHW, _ = decode_on_device([jpeg] * 2, torch.device("cuda"), (96, 128))
    shown = canvases_BCHW[1].permute(1, 2, 0).cpu().numpy()
    assert np.abs(shown.astype(int) - decode_image(jpeg)).mean() < 2
