"""What one photograph costs: ours beside bare libjpeg-turbo and Pillow, on the same bytes.

    python benchmarks/resize.py [FOLDER OF JPEGS]

Without a folder, photographs are drawn. CPU seconds of this process, one thread, the candidates in
turn within each round; medians of the rounds and ratios to the floor. The floor is a scaled
libjpeg-turbo decode and an encode of nearly the same size, with no resampling: a lower bound, not
an equal picture.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import simplejpeg
from PIL import Image

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.resize import encoder_version, resize_jpeg
from serengeti_etl.sample import SampleSettings, draw_season

SIDE = 512
NUM_ROUNDS = 7
NUM_PHOTOGRAPHS = 24


def floor(photograph: bytes) -> bytes:
    """Scaled decode to the next eighth above the size, encoded as it is."""
    pixels_HWC = simplejpeg.decode_jpeg(photograph, min_height=1, min_width=1, min_factor=4)
    return bytes(simplejpeg.encode_jpeg(pixels_HWC, quality=85, colorsubsampling="420"))


def ours(photograph: bytes) -> bytes:
    """``resize_jpeg`` as the shards are made: checks, libvips, Lanczos3, optimised tables."""
    return resize_jpeg(photograph, ResizeSettings(size=str(SIDE))).jpeg


def pillow_draft(photograph: bytes) -> bytes:
    """Pillow with a scaled decode."""
    image = Image.open(io.BytesIO(photograph))
    image.draft("RGB", (SIDE, SIDE))
    return _pillow(image)


def pillow_full(photograph: bytes) -> bytes:
    """Pillow with a full decode."""
    return _pillow(Image.open(io.BytesIO(photograph)))


def _pillow(image: Image.Image) -> bytes:
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85, subsampling="4:2:0", optimize=True)
    return out.getvalue()


CANDIDATES: tuple[Callable[[bytes], bytes], ...] = (floor, ours, pillow_draft, pillow_full)


def measure(photographs: list[bytes]) -> dict[str, float]:
    """Median CPU milliseconds per photograph of each candidate."""
    rounds: dict[str, list[float]] = {candidate.__name__: [] for candidate in CANDIDATES}
    for _ in range(NUM_ROUNDS):
        for candidate in CANDIDATES:
            started = time.process_time()
            for photograph in photographs:
                candidate(photograph)
            spent = time.process_time() - started
            rounds[candidate.__name__].append(1000 * spent / len(photographs))
    return {name: statistics.median(values) for name, values in rounds.items()}


def read_photographs(folder: Path) -> list[bytes]:
    """The first whole JPEGs below ``folder``."""
    found: list[bytes] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg") and len(found) < NUM_PHOTOGRAPHS:
            content = path.read_bytes()
            if content[:2] == b"\xff\xd8" and b"\xff\xd9" in content[len(content) // 2 :]:
                found.append(content)
    return found


def main() -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) == 1:
            draw_season(folder, SampleSettings(num_sequences=14, num_sites=4))
        photographs = read_photographs(folder)
    for candidate in CANDIDATES:
        candidate(photographs[0])
    size = sum(map(len, photographs)) / len(photographs) / 1e6
    print(f"{len(photographs)} photographs of {size:.2f} MB to {SIDE} px; {encoder_version()}")
    medians = measure(photographs)
    for name, milliseconds in medians.items():
        print(
            f"{name:<14}{milliseconds:8.1f} ms CPU  {milliseconds / medians['floor']:6.2f} x floor"
        )


if __name__ == "__main__":
    main()
