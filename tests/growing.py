"""A source that grows: a part of a drawn season first, more of its label file later."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIRST = "SER_S1#"
"""Sequences of the first season begin so; the drawn season has those of another as well."""


class GrowingSeason:
    """A copy of a season whose label file lists a part of it, and whose photographs can change.

    Args:
        season: folder of the whole season; it is not touched.
        folder: for the copy.
    """

    def __init__(self, season: Path, folder: Path) -> None:
        shutil.copytree(season, folder)
        self.folder = folder
        self.labels: dict[str, Any] = json.loads((season / "labels.json").read_text())
        self.take(lambda seq_id: seq_id.startswith(FIRST))

    def take(self, keeps: Callable[[str], bool]) -> None:
        """List the images of the sequences that ``keeps`` holds for, and no others."""
        images = [image for image in self.labels["images"] if keeps(image["seq_id"])]
        ids = {image["id"] for image in images}
        annotations = [one for one in self.labels["annotations"] if one["image_id"] in ids]
        self._write(self.labels | {"images": images, "annotations": annotations})

    def take_all(self) -> None:
        """List all images."""
        self.take(lambda _seq_id: True)

    def relabel(self, image_id: str) -> None:
        """Give an image, and no other, another category, wherever the label file has it."""
        for one in self.labels["annotations"]:
            if one["image_id"] == image_id:
                others = {entry["id"] for entry in self.labels["categories"] if entry["id"] > 1}
                one["category_id"] = min(others - {one["category_id"]})

    def good_photograph(self) -> bytes:
        """A photograph that can be read."""
        photographs = (self.folder / "images").rglob("*.JPG")
        return max((path.read_bytes() for path in photographs), key=len)

    def mend(self, file_name: str) -> None:
        """Put a good photograph where ``file_name`` is missing or broken."""
        path = self.folder / "images" / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.good_photograph())

    def _write(self, labels: dict[str, Any]) -> None:
        (self.folder / "labels.json").write_text(json.dumps(labels))
