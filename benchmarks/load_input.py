"""The JPEGs that every loader is given: made once, by this project, in each loader's own form."""

import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import simplejpeg

from benchmarks.peer_input import MAX_DRAWN, draw_photographs, prepare, whole_jpegs
from serengeti_etl import SeasonPipeline, open_dataset
from serengeti_etl.cluster import open_runner
from serengeti_etl.config import ResizeSettings, ShardSettings
from serengeti_etl.convert.season import convert_season
from serengeti_etl.label_config import SiteListSplit

WIDTH, HEIGHT = 512, 384
SHARD_SIZE = 256
"""Samples in one tar: few, so that two workers get the same number of tars."""
FORMS = ("litdata", "mds", "energon", "hf", "spdl")
"""What the peers' environment makes out of ``files`` and ``tars``; for SPDL, FFmpeg."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What there is to load.

    Attributes:
        folder: of all forms: ``dataset`` for ours, ``files/<class>/``, ``tars``, and ``FORMS``.
        num: samples.
        num_distinct: different photographs among them; the others are repeats.
        num_bytes: of all JPEGs together.
    """

    folder: Path
    num: int
    num_distinct: int
    num_bytes: int


def make_input(folder: Path, photographs: Path | None, num: int) -> Input:
    """Resize photographs into a dataset of ``num`` samples, and hand its JPEGs on as files, tars.

    What an earlier call has made of the same number is taken as it is.

    Args:
        folder: where to; made.
        photographs: folder of JPEGs; None draws some.
        num: samples wanted.

    Raises:
        SystemExit: there are no photographs, or some could not be resized.
    """
    told = folder / "input.json"
    if not told.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        num_distinct = _convert(folder, photographs, num)
        num_bytes = _hand_on(folder)
        told.write_text(json.dumps({"num_distinct": num_distinct, "num_bytes": num_bytes}))
    return Input(folder=folder, num=num, **json.loads(told.read_text()))


def _convert(folder: Path, photographs: Path | None, num: int) -> int:
    """This project's own conversion; the number of different photographs."""
    source, good = folder / "in", folder / "photographs"
    wanted = min(num, MAX_DRAWN) if photographs is None else num
    _pick(photographs, good, wanted)
    # The first photograph goes to val, since a plan wants something there.
    num_distinct = prepare(source, good, [num + 1])
    pipeline = SeasonPipeline(
        name="benchmark",
        source=str(source),
        labels=f"labels-{num + 1}.json",
        images="images",
        split=SiteListSplit(url="splits.json"),
        resize=ResizeSettings(size=f"{WIDTH}x{HEIGHT}"),
        shards=ShardSettings(max_samples=SHARD_SIZE),
    )
    with open_runner("local") as runner:
        convert_season(pipeline, runner, str(folder / "dataset"))
    shutil.rmtree(source)
    shutil.rmtree(good)
    made = open_dataset(str(folder / "dataset")).num_images("train")
    if made != num:
        raise SystemExit(f"{made} of {num} photographs could be resized: leave the others out")
    return num_distinct


def _pick(photographs: Path | None, good: Path, num: int) -> None:
    """Put photographs that fill the box, and that libjpeg-turbo decodes, into ``good``."""
    drawn = good.parent / "drawn"
    found = draw_photographs(drawn, num) if photographs is None else whole_jpegs(photographs, num)
    good.mkdir()
    for at, path in enumerate(found):
        if photographs is None or _is_plain(path.read_bytes()):
            shutil.copyfile(path, good / f"{at:06d}.jpg")
    shutil.rmtree(drawn, ignore_errors=True)


def _is_plain(jpeg: bytes) -> bool:
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(jpeg)
        simplejpeg.decode_jpeg(jpeg, min_height=HEIGHT, min_width=WIDTH)
    except ValueError:
        return False
    return bool(height >= HEIGHT and width >= WIDTH and colour == "YCbCr")


def _hand_on(folder: Path) -> int:
    """The dataset's JPEGs as one file each, in two class folders, and in tars; their bytes."""
    samples = list(_samples(folder / "dataset"))
    for name in ("empty", "zebra"):
        (folder / "files" / name).mkdir(parents=True)
    for at, jpeg in enumerate(samples):
        (folder / "files" / ("empty", "zebra")[at % 2] / f"{at:06d}.jpg").write_bytes(jpeg)
    for name in ("tars", "energon"):  # energon leaves its own files beside the tars
        (folder / name).mkdir()
        for first in range(0, len(samples), SHARD_SIZE):
            path = folder / name / f"{first // SHARD_SIZE:06d}.tar"
            _write_tar(path, first, samples[first : first + SHARD_SIZE])
    return sum(map(len, samples))


def _samples(dataset: Path) -> Iterator[bytes]:
    """The JPEGs of train, in the order of the index."""
    opened = open_dataset(str(dataset))
    tars = {shard.name: dataset / shard.tar_name for shard in opened.shards("train")}
    columns = ("shard", "offset", "num_bytes")
    for row in opened.index("train", columns=columns).to_pylist():
        with tars[row["shard"]].open("rb") as tar:
            tar.seek(row["offset"])
            yield tar.read(row["num_bytes"])


def _write_tar(path: Path, first: int, jpegs: Sequence[bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for at, jpeg in enumerate(jpegs, first):
            for suffix, content in (("jpg", jpeg), ("cls", str(at % 2).encode())):
                member = tarfile.TarInfo(f"{at:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
