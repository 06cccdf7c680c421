"""The photographs that every contestant is given: plain names, label files beside them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from serengeti_etl.sample import SampleSettings, draw_season

MAX_DRAWN = 96
"""More photographs than this are repeats: drawing takes longer than converting."""
FRAMES_PER_SEQUENCE = 2.05


def whole_jpegs(folder: Path, limit: int) -> list[Path]:
    """The first JPEGs below ``folder`` that begin and end as JPEGs do, no two alike."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg") or len(found) >= limit:
            continue
        content = path.read_bytes()
        if content[:2] == b"\xff\xd8" and b"\xff\xd9" in content[len(content) // 2 :]:
            found.setdefault(hashlib.sha256(content).hexdigest(), path)
    return list(found.values())


def draw_photographs(folder: Path, num: int) -> list[Path]:
    """Photographs of 2048x1536 px as the embedded season has them, none of them broken."""
    num_sequences = max(10, round(num / FRAMES_PER_SEQUENCE) + 4)
    draw_season(folder, SampleSettings(num_sequences=num_sequences, with_broken=False))
    return whole_jpegs(folder / "images", num)


def prepare(folder: Path, photographs: Path | None, counts: Sequence[int]) -> int:
    """Fill ``folder``: images/000000.jpg on, a label file for each of ``counts``, the split.

    Photographs that do not suffice are repeated under other names, as hard links where possible.

    Returns:
        How many different photographs there are.

    Raises:
        SystemExit: there is no whole JPEG in ``photographs``.
    """
    num = max(counts)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if photographs is not None:
            sources = whole_jpegs(photographs, num)
        else:
            sources = draw_photographs(Path(scratch), min(num, MAX_DRAWN))
        if not sources:
            raise SystemExit(f"{photographs} holds no whole JPEG")
        images = folder / "images"
        images.mkdir(parents=True)
        first = [images / f"{at:06d}.jpg" for at in range(len(sources))]
        for source, target in zip(sources, first, strict=True):
            shutil.copyfile(source, target)
    for at in range(len(first), num):
        _repeat(first[at % len(first)], images / f"{at:06d}.jpg")
    for count in set(counts):
        _write_labels(folder / f"labels-{count}.json", count)
    sites = {"splits": {"train": ["grass"], "val": ["water"]}}
    (folder / "splits.json").write_text(json.dumps(sites))
    return len(first)


def _repeat(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_labels(path: Path, num: int) -> None:
    """COCO Camera Traps: each image its own sequence, all in train but the first."""
    images = [
        {
            "id": f"{at:06d}",
            "file_name": f"{at:06d}.jpg",
            "seq_id": f"sequence-{at:06d}",
            "frame_num": 1,
            "location": "grass" if at else "water",
            "datetime": "2012-03-04 05:06:07",
        }
        for at in range(num)
    ]
    annotations = [
        {"id": f"a{at}", "image_id": f"{at:06d}", "category_id": at % 2} for at in range(num)
    ]
    categories = [{"id": 0, "name": "empty"}, {"id": 1, "name": "zebra"}]
    value = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(value))
