"""What one photograph costs and how good it comes out: ways around libvips, on the same bytes.

    python benchmarks/resize.py [FOLDER OF JPEGS]

Without a folder, photographs are drawn. CPU seconds of this process, one thread, the candidates in
turn within each round; medians of the rounds, ratios to the floor. Similarity is SSIM of luma
against a full decode and Pillow's Lanczos before coding; the ceiling is that reference coded at
the same quality, and the goal 0.99 of the ceiling. The floor is a scaled libjpeg-turbo decode to
the least eighth above the size and an encode, with no resampling: a lower bound, not an equal
picture.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyvips
import simplejpeg
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peer_input import whole_jpegs
from benchmarks.similarity import luma, similarity
from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.resize import encoder_version, resize_jpeg, resize_to_each
from serengeti_etl.sample import SampleSettings, draw_season
from serengeti_etl.stages import Stages

SIZES = ("512", "512x384", "short256")
SEVERAL = (("512x384", "256x192"), ("512x384", "384x288", "256x192", "128x96"))
NUM_ROUNDS = 5
NUM_PHOTOGRAPHS = 24
QUALITY = 85

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One photograph, and what it is to become.

    Attributes:
        content: the JPEG.
        size: it has, width and height in px.
        target: it is to have, likewise.
        wanted: the same in words of the project's settings.
    """

    content: bytes
    size: tuple[int, int]
    target: tuple[int, int]
    wanted: str


def encode(pixels_HWC: Pixels) -> bytes:
    """A JPEG by libjpeg-turbo, with its standard tables."""
    return bytes(
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels_HWC), quality=QUALITY, colorsubsampling="420"
        )
    )


def decode(job: Job, eighths: int) -> Pixels:
    """A decode at so many eighths."""
    width, height = (-(-side * eighths // 8) for side in job.size)
    pixels_HWC: Pixels = simplejpeg.decode_jpeg(
        job.content, min_width=width, min_height=height, min_factor=1
    )
    return pixels_HWC


def floor(job: Job) -> bytes:
    """The least eighth that is not smaller than the target, encoded as it is."""
    wide, high = (8 * want / have for want, have in zip(job.target, job.size, strict=True))
    return encode(decode(job, next(n for n in (1, 2, 4, 8) if n >= min(wide, high, 8) - 1e-9)))


def ours(job: Job) -> bytes:
    """``resize_jpeg``, with all its checks."""
    return resize_jpeg(job.content, ResizeSettings(size=job.wanted)).jpeg


def reduced(job: Job, *, eighths: int, kernel: str) -> bytes:
    """libjpeg-turbo at so many eighths, libvips' reduce, libjpeg-turbo."""
    pixels_HWC = decode(job, eighths)
    height, width, bands = pixels_HWC.shape
    image = pyvips.Image.new_from_memory(pixels_HWC.data, width, height, bands, "uchar")
    image = image.reduce(width / job.target[0], height / job.target[1], kernel=kernel)
    return encode(np.frombuffer(image.write_to_memory(), np.uint8).reshape(*job.target[::-1], 3))


def thumbnail(job: Job) -> bytes:
    """By libvips alone: shrink-on-load, Lanczos3, its own encoder with optimised tables."""
    jpeg: bytes = _thumbnail(job).jpegsave_buffer(
        Q=QUALITY, subsample_mode="on", optimize_coding=True, keep="none"
    )
    return jpeg


def thumbnail_plain(job: Job) -> bytes:
    """The same with the encoder's standard tables."""
    return bytes(_thumbnail(job).jpegsave_buffer(Q=QUALITY, subsample_mode="on", keep="none"))


def _thumbnail(job: Job) -> Any:
    width, height = job.target
    return pyvips.Image.thumbnail_buffer(
        job.content, width, height=height, size="force", option_string="[fail_on=warning]"
    )


def pillow_draft(job: Job) -> bytes:
    """Pillow, scaled decode of at least twice the size, Lanczos."""
    image = Image.open(io.BytesIO(job.content))
    image.draft("RGB", (2 * job.target[0], 2 * job.target[1]))
    return _pillow(image, job)


def pillow_full(job: Job) -> bytes:
    """Pillow, full decode, Lanczos."""
    return _pillow(Image.open(io.BytesIO(job.content)), job)


def _pillow(image: Image.Image, job: Job) -> bytes:
    out = io.BytesIO()
    small = image.resize(job.target, Image.Resampling.LANCZOS)
    small.save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return out.getvalue()


CANDIDATES: dict[str, Callable[[Job], bytes]] = {
    "floor": floor,
    "ours": ours,
    "1/4, libvips lanczos3": partial(reduced, eighths=2, kernel="lanczos3"),
    "3/8, libvips cubic": partial(reduced, eighths=3, kernel="cubic"),
    "3/8, libvips lanczos3": partial(reduced, eighths=3, kernel="lanczos3"),
    "1/2, libvips linear": partial(reduced, eighths=4, kernel="linear"),
    "1/2, libvips cubic": partial(reduced, eighths=4, kernel="cubic"),
    "1/2, libvips lanczos3": partial(reduced, eighths=4, kernel="lanczos3"),
    "full, libvips lanczos3": partial(reduced, eighths=8, kernel="lanczos3"),
    "libvips thumbnail": thumbnail,
    "the same, standard tables": thumbnail_plain,
    "Pillow draft, Lanczos": pillow_draft,
    "Pillow full, Lanczos": pillow_full,
}


def milliseconds(jobs: list[Job]) -> dict[str, float]:
    """Median CPU per photograph of each candidate."""
    rounds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for _ in range(NUM_ROUNDS):
        for name, candidate in CANDIDATES.items():
            started = time.process_time()
            for job in jobs:
                candidate(job)
            rounds[name].append(1000 * (time.process_time() - started) / len(jobs))
    return {name: statistics.median(values) for name, values in rounds.items()}


def job_for(content: bytes, wanted: str) -> Job:
    """The photograph with its target."""
    made = resize_jpeg(content, ResizeSettings(size=wanted))
    size = (made.source_width, made.source_height)
    return Job(content=content, size=size, target=(made.width, made.height), wanted=wanted)


def show(photographs: list[bytes], wanted: str) -> None:
    """Print one table."""
    jobs = [job_for(content, wanted) for content in photographs]
    references = [
        Image.open(io.BytesIO(job.content))
        .convert("RGB")
        .resize(job.target, Image.Resampling.LANCZOS)
        for job in jobs
    ]
    coded = [Image.open(io.BytesIO(encode(np.asarray(image)))) for image in references]
    pairs = zip(references, coded, strict=True)
    ceiling = statistics.mean(similarity(luma(one), luma(other)) for one, other in pairs)
    print(f"\n{wanted}: ceiling of similarity {ceiling:.4f}, goal {0.99 * ceiling:.4f}")
    spent = milliseconds(jobs)
    for name, candidate in CANDIDATES.items():
        results = [candidate(job) for job in jobs]
        images = [Image.open(io.BytesIO(jpeg)) for jpeg in results]
        alike = [
            similarity(luma(reference), luma(image.resize(reference.size)))
            for reference, image in zip(references, images, strict=True)
            if name != "floor" or image.size == reference.size
        ]
        mean = f"{statistics.mean(alike):.4f}" if alike else "other size"
        size = statistics.mean(map(len, results)) / 1000
        ratio = spent[name] / spent["floor"]
        print(f"{name:<27}{spent[name]:7.1f} ms{ratio:6.2f} x floor  SSIM {mean}  {size:5.1f} kB")


def show_together(photographs: list[bytes], sizes: tuple[str, ...]) -> None:
    """Print what several sizes cost in one pass, and one after the other."""
    together = [ResizeSettings(size=size, decode_sizes=sizes) for size in sizes]
    ways: dict[str, list[list[ResizeSettings]]] = {
        "one pass": [together],
        "one after the other": [[ResizeSettings(size=size)] for size in sizes],
    }
    rounds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(NUM_ROUNDS):
        for way, passes in ways.items():
            started = time.process_time()
            for wanted in passes:
                for content in photographs:
                    resize_to_each(content, wanted, Stages())
            rounds[way].append(1000 * (time.process_time() - started) / len(photographs))
    one, each = (statistics.median(rounds[way]) for way in ways)
    print(f"{', '.join(sizes)}: one pass {one:.1f} ms, one after the other {each:.1f} ms, ", end="")
    print(f"ratio {one / each:.2f}")


def main() -> None:
    """Print a table for each size, and what several cost together."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) == 1:
            draw_season(folder, SampleSettings(num_sequences=14, num_sites=4))
        paths = whole_jpegs(folder, NUM_PHOTOGRAPHS)
        photographs = [path.read_bytes() for path in paths]
    size = sum(map(len, photographs)) / len(photographs) / 1e6
    print(f"{len(photographs)} photographs of {size:.2f} MB; {encoder_version()}")
    for wanted in SIZES:
        show(photographs, wanted)
    print("\nseveral sizes")
    for sizes in SEVERAL:
        show_together(photographs, sizes)


if __name__ == "__main__":
    main()
