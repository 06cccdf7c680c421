"""One photograph: right pixels or the right reason; never half grey, larger or tagged."""

import ast
import csv
import io
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert import plain_jpeg
from serengeti_etl.convert import resize as resize_module
from serengeti_etl.convert.resize import (
    REASONS,
    ResizedImage,
    encoder_version,
    resize_jpeg,
    resize_to_each,
)
from serengeti_etl.errors import ImageError
from serengeti_etl.stages import Stages

ANY_SIZE = ResizeSettings(min_side=1)


def photograph(width: int = 320, height: int = 240, **options: object) -> bytes:
    """A JPEG with a bright red left half, a blue right half and a white top left corner."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 220
    pixels[:, width // 2 :, 2] = 220
    pixels[: height // 4, : width // 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **({"quality": 92} | options))
    return buffer.getvalue()


def pixels_of(jpeg: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), np.float64)


def oracle(content: bytes, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """What Pillow makes of a photograph: upright, RGB, Lanczos."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float64)


def difference(result: ResizedImage, content: bytes) -> float:
    """Mean absolute difference from Pillow's result, of 255."""
    return float(
        np.abs(pixels_of(result.jpeg) - oracle(content, (result.width, result.height))).mean()
    )


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(16, 700),
    height=st.integers(16, 700),
    size=st.sampled_from(["64", "256", "512", "128x96", "96x128", "512x384"]),
)
def test_sizes_are_as_asked_and_never_enlarged(width: int, height: int, size: str) -> None:
    """The longest side or the box is met from above, and a small photograph keeps its size."""
    wanted = ResizeSettings(size=size)
    result = resize_jpeg(photograph(width, height), wanted)
    assert Image.open(io.BytesIO(result.jpeg)).size == (result.width, result.height)
    assert (result.source_width, result.source_height) == (width, height)
    if wanted.box is not None:
        assert (result.width, result.height) == (
            min(width, wanted.box[0]),
            min(height, wanted.box[1]),
        )
        return
    assert max(result.width, result.height) == min(max(width, height), wanted.side)
    scale = max(result.width, result.height) / max(width, height)
    assert abs(result.width - width * scale) <= 1
    assert abs(result.height - height * scale) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", ["96", "96x64"])
def test_every_orientation_comes_out_upright(orientation: int, size: str) -> None:
    """Pixels equal Pillow's after the same rotation, for all eight of EXIF's orientations."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = photograph(exif=exif)
    assert difference(resize_jpeg(content, ResizeSettings(size=size)), content) < 4


def test_nothing_of_the_source_s_metadata_is_left() -> None:
    """EXIF and comments do not reach a shard; the JPEG is baseline 4:2:0."""
    exif = Image.Exif()
    exif[0x010F] = "SECRET MAKER"
    content = photograph(exif=exif, comment=b"SECRET PLACE")
    assert b"SECRET" in content
    jpeg = resize_jpeg(content, ANY_SIZE).jpeg
    image = Image.open(io.BytesIO(jpeg))
    assert b"SECRET" not in jpeg
    assert dict(image.getexif()) == {}
    assert "icc_profile" not in image.info
    assert "progressive" not in image.info
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


def test_subsampling_and_quality_are_as_set() -> None:
    """4:4:4 keeps full chroma, and a lower quality is fewer bytes."""
    content = photograph()
    full = resize_jpeg(content, ResizeSettings(subsampling="4:4:4")).jpeg
    layers = Image.open(io.BytesIO(full)).layer  # type: ignore[attr-defined]
    assert [layer[1:3] for layer in layers] == [(1, 1), (1, 1), (1, 1)]
    low = resize_jpeg(content, ResizeSettings(quality=30)).jpeg
    assert len(low) < len(resize_jpeg(content, ResizeSettings(quality=90)).jpeg)


def test_grey_alpha_and_png_become_rgb() -> None:
    """One channel, a transparent PNG named .JPG and 16 bits come out as three channels of 8."""
    for mode in ("L", "RGBA", "I;16", "P"):
        buffer = io.BytesIO()
        Image.new(mode, (64, 48)).save(buffer, "PNG")
        result = resize_jpeg(buffer.getvalue(), ANY_SIZE)
        assert pixels_of(result.jpeg).shape == (48, 64, 3)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_a_photograph_cut_anywhere_is_refused(share: float) -> None:
    """However much is missing, the result is a reason, never a half-grey picture."""
    content = photograph(640, 480)
    with pytest.raises(ImageError) as caught:
        resize_jpeg(content[: int(len(content) * share)], ResizeSettings())
    assert caught.value.reason in ("truncated", "not_an_image", "empty_file", "corrupt")


def test_the_same_photograph_gives_the_same_bytes_in_another_process() -> None:
    """Neither the process nor libvips' number of threads shows in the bytes."""
    code = (
        "import sys, hashlib, pyvips\n"
        "from serengeti_etl.config import ResizeSettings\n"
        "from serengeti_etl.convert import resize\n"
        "resize._prepare_libvips()\n"
        "pyvips.concurrency_set(4)\n"
        "jpeg = resize.resize_jpeg(sys.stdin.buffer.read(), ResizeSettings(size='200')).jpeg\n"
        "sys.stdout.buffer.write(jpeg)\n"
    )
    content = photograph(1000, 700)
    there = subprocess.run(
        [sys.executable, "-c", code], input=content, capture_output=True, check=True
    )
    assert there.stdout == resize_jpeg(content, ResizeSettings(size="200")).jpeg


def test_a_small_file_that_declares_a_huge_picture_is_refused_unread() -> None:
    """The limit on pixels is applied to the header."""
    with pytest.raises(ImageError, match="declares 320x240 px, above 1,000"):
        resize_jpeg(photograph(), ResizeSettings(max_pixels=1000))
    with pytest.raises(ImageError, match="too_small"):
        resize_jpeg(photograph(40, 8), ResizeSettings())


def test_the_version_names_the_build() -> None:
    """Such as ``libvips 8.18.7, simplejpeg 1.9.0``."""
    assert re.fullmatch(r"libvips \d+\.\d+\.\d+, simplejpeg \d+\.\d+\.\d+", encoder_version())


def test_odd_and_broken_files_end_as_expected(shared_data: Path) -> None:
    """Each of 140 real oddities is taken, or refused for an accepted reason; the rest are named."""
    wrong = []
    with (shared_data / "odd" / "expected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        accepted = {row["expected"], *row["also_accepted"].split("|")} - {""}
        if all(outcome.startswith("skipped") for outcome in accepted):
            continue  # a matter of listing folders, not of reading a photograph
        outcome = outcome_of((shared_data / "odd" / row["file"]).read_bytes())
        if not any(outcome == one or (outcome == "ok" and one[:2] == "ok") for one in accepted):
            wrong.append((row["file"], outcome, accepted))
    assert wrong == []
    assert len(rows) == 140


def test_odd_and_broken_files_need_less_than_two_gigabytes(shared_data: Path) -> None:
    """Under a limit of 2 GB of address space every oddity ends as it does without one."""
    folder = shared_data / "odd"
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from pathlib import Path\n"
        "from tests.convert.test_resize import outcomes_below\n"
        "print(outcomes_below(Path(sys.argv[1])))\n"
    )
    limited = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ast.literal_eval(limited.stdout) == outcomes_below(folder)


def outcomes_below(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: outcome_of(path.read_bytes()) for path in paths}


def outcome_of(content: bytes) -> str:
    try:
        resize_jpeg(content, ANY_SIZE)
    except ImageError as error:
        return f"rejected:{error.reason}" if error.reason in REASONS else "an unknown reason"
    return "ok"


def test_real_photographs_look_as_pillow_shows_them(shared_data: Path) -> None:
    """Colours and geometry of the Serengeti originals match a full decode and Lanczos."""
    names = sorted((shared_data / "serengeti" / "snapshotserengeti-unzipped").rglob("*.JPG"))
    assert len(names) == 24
    for name in names[::4]:
        content = name.read_bytes()
        # Grain costs 4 to 5.5 of 255 in JPEG coding alone; half a grey picture would be above 20.
        assert difference(resize_jpeg(content, ResizeSettings()), content) < 7, name.name


def test_cmyk_photographs_are_not_negatives(shared_data: Path) -> None:
    """A CMYK copy of a frame looks like the frame, and an ambiguous one is refused."""
    folder = shared_data / "odd" / "colour"
    for name in ("serengeti_cmyk.jpg", "ycck_serengeti_256.jpg", "cmyk_adobe_serengeti_256.jpg"):
        content = (folder / name).read_bytes()
        assert difference(resize_jpeg(content, ANY_SIZE), content) < 20, name
    with pytest.raises(ImageError, match="ambiguous"):
        resize_jpeg((folder / "cmyk_no_adobe_marker.jpg").read_bytes(), ANY_SIZE)


def test_threads_do_not_get_each_other_s_reasons(shared_data: Path) -> None:
    """Broken files resized in eight threads at once end with the message that each has alone."""
    paths = sorted(path for path in (shared_data / "odd").rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in paths if path.parent.name in ("damaged", "truncated")]
    alone = [message_of(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(message_of, contents * 3)) == alone * 3


def message_of(content: bytes) -> str:
    try:
        resize_jpeg(content, ANY_SIZE)
    except ImageError as error:
        return str(error)
    return "ok"


def test_threads_that_come_first_together_find_libvips_set_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one thread blocks and allows loaders, no other finds its own loader blocked."""
    real = pyvips.operation_block_set

    def slowly(name: str, *, state: bool) -> None:
        real(name, state=state)
        time.sleep(0.02)

    monkeypatch.setattr(pyvips, "operation_block_set", slowly)
    resize_module._set_up_libvips.cache_clear()
    content = photograph(progressive=True)
    with ThreadPoolExecutor(4) as pool:

        def after(seconds: float) -> str:
            time.sleep(seconds)
            return message_of(content)

        assert list(pool.map(after, (0.0, 0.11))) == ["ok"] * 2


SIZES = ("512x384", "short200", "256x192", "64")


def at_each_size(**options: Any) -> list[ResizeSettings]:
    """The settings of several sizes that share their decode."""
    return [ResizeSettings(size=size, decode_sizes=SIZES, **options) for size in SIZES]


def outcome_at(content: bytes, wanted: ResizeSettings) -> ResizedImage | str:
    """What becomes of a photograph at this size alone."""
    try:
        return resize_jpeg(content, wanted)
    except ImageError as error:
        return str(error)


def outcomes_at_each(content: bytes, wanted: list[ResizeSettings]) -> list[ResizedImage | str]:
    """What becomes of a photograph at several sizes together."""
    made = resize_to_each(content, wanted, Stages())
    return [str(one) if isinstance(one, ImageError) else one for one in made]


@settings(max_examples=40, deadline=None)
@given(width=st.integers(16, 2600), height=st.integers(16, 2600))
def test_one_decode_serves_every_size(width: int, height: int) -> None:
    """Whatever the photograph's shape, four sizes take one decode, and have the bytes of each."""
    content, wanted = photograph(width, height), at_each_size()
    with pytest.MonkeyPatch.context() as patch:
        shapes = decoded_shapes(patch)
        together = outcomes_at_each(content, wanted)
        assert len(shapes) == 1
        assert together == [outcome_at(content, one) for one in wanted]
        assert set(shapes) == {shapes[0]}
        for size in SIZES:
            resize_jpeg(content, ResizeSettings(size=size))
            assert np.all(np.array(shapes[0]) >= shapes[-1]), "no size is decoded coarser"


def decoded_shapes(patch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A list that grows by the shape of each scaled decode."""
    real, shapes = plain_jpeg.decode_scaled, []

    def noting(*args: Any) -> Any:
        decoded_HWC = real(*args)
        shapes.append(decoded_HWC.shape)
        return decoded_HWC

    patch.setattr(resize_module, "decode_scaled", noting)
    return shapes


def half_of(content: bytes) -> bytes:
    return content[: len(content) // 2]


def test_odd_photographs_end_at_each_size_as_alone() -> None:
    """PNG, CMYK, grey, turned, progressive, cut, empty, tiny and no picture at all."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photograph())).save(buffer, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    cmyk, grey = io.BytesIO(), io.BytesIO()
    Image.new("CMYK", (320, 240), (10, 90, 200, 30)).save(cmyk, "JPEG")
    Image.new("L", (320, 240), 77).save(grey, "JPEG")
    contents = [
        buffer.getvalue(),
        cmyk.getvalue(),
        grey.getvalue(),
        photograph(exif=exif),
        photograph(progressive=True),
        half_of(photograph()),
        half_of(photograph(progressive=True)),
        b"",
        photograph(40, 8),
        b"no picture",
    ]
    kinds = []
    for content in contents:
        alone = [outcome_at(content, one) for one in at_each_size()]
        assert outcomes_at_each(content, at_each_size()) == alone
        kinds.append({one.partition(":")[0] if isinstance(one, str) else "ok" for one in alone})
    assert kinds[:5] == [{"ok"}] * 5
    cut, empty = {"truncated"}, {"empty_file"}
    assert kinds[5:] == [cut, cut, empty, {"too_small"}, {"not_an_image"}]


def test_odd_and_broken_files_end_at_each_size_as_alone(shared_data: Path) -> None:
    """140 real oddities have, at four sizes together, the bytes or the reason of each size."""
    paths = sorted(path for path in (shared_data / "odd").rglob("*") if path.is_file())
    wanted = at_each_size(min_side=1, max_pixels=20_000_000)
    for path in paths:
        content = path.read_bytes()
        alone = [outcome_at(content, one) for one in wanted]
        assert outcomes_at_each(content, wanted) == alone, path.name


def test_a_finer_decode_harms_no_size() -> None:
    """A grainy photograph, decoded for a larger size too, is as near to Pillow's as alone."""
    grain = np.random.default_rng(0).normal(128, 40, (1536, 2048, 3)).clip(0, 255)
    coarse = Image.fromarray(grain.astype(np.uint8)).resize((1024, 768)).resize((2048, 1536))
    buffer = io.BytesIO()
    coarse.save(buffer, "JPEG", quality=92)
    content = buffer.getvalue()
    sizes = ("512x384", "256x192", "128x96")
    for size in sizes[1:]:
        alone = resize_jpeg(content, ResizeSettings(size=size))
        shared = resize_jpeg(content, ResizeSettings(size=size, decode_sizes=sizes))
        assert shared.jpeg != alone.jpeg, "the decode is another"
        assert difference(shared, content) <= 1.02 * difference(alone, content)


def test_the_smallest_of_several_sizes_is_as_bright_as_the_photograph() -> None:
    """Reduced by a factor of 12 and more from the shared decode, a grey stays that grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (2048, 1536), (200, 200, 200)).save(buffer, "JPEG")
    wanted = [ResizeSettings(size=size, decode_sizes=("1024", "32")) for size in ("1024", "32")]
    for one in resize_to_each(buffer.getvalue(), wanted, Stages()):
        assert isinstance(one, ResizedImage)
        assert np.all(pixels_of(one.jpeg) == 200)


def test_the_reasons_that_are_kept_hold_no_pictures() -> None:
    """An outcome that is an error has neither traceback nor cause: both hold libvips' images."""
    for outcome in resize_to_each(half_of(photograph()), at_each_size(), Stages()):
        assert isinstance(outcome, ImageError)
        assert (outcome.__traceback__, outcome.__cause__, outcome.__context__) == (None, None, None)
