"""How long the report of a dataset takes, how much memory, and how large it becomes.

    python benchmarks/pages.py [--images 100000,1000000,7178440] [--folder FOLDER]

Of drawn indexes (``load_index``), each in a fresh process. Every photograph that the report asks
for is the same JPEG of 512x384 px, which takes 50 ms to come, as from a far bucket; eight come at
once.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.clients import LATENCY_SECONDS
from benchmarks.load_index import NUM_IMAGES, draw_index
from benchmarks.peer_runs import facts
from benchmarks.report import print_table
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.report.conversion import dataset_page
from serengeti_etl.storage import Store
from tests.dataset_factory import Recipe, jpeg_of

ROOT = Path(__file__).resolve().parents[1]


def measure(url: str) -> dict[str, Any]:
    """Of one report, in this process."""
    jpeg = jpeg_of(["zebra"], "one", Recipe(height=384, width=512))

    def read_range(_store: Store, _name: str, _start: int, _end: int) -> bytes:
        time.sleep(LATENCY_SECONDS)
        return jpeg

    Store.read_range = read_range  # type: ignore[method-assign, assignment]
    dataset = open_dataset(url)
    started, cpu = time.perf_counter(), time.process_time()
    page = dataset_page(dataset)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "page_bytes": len(page),
        "pictures": page.count(b"<img "),
    }


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description="The report of a dataset.")
    parser.add_argument("--images", default=f"100000,1000000,{NUM_IMAGES}")
    parser.add_argument("--folder", type=Path, default=Path("serengeti-bench"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    found = {}
    for num_images in map(int, given.images.split(",")):
        url = draw_index(given.folder.resolve(), num_images)
        command = [sys.executable, __file__, "--one", url]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
        found[num_images] = json.loads(shown.stdout)
    head = ("images", "seconds", "of CPU", "peak memory, MB", "page, MB", "pictures")
    print_table(
        head,
        [
            [
                f"{num_images:,}",
                f"{one['seconds']:.1f}",
                f"{one['cpu_seconds']:.1f}",
                f"{one['peak_bytes'] / 1e6:.0f}",
                f"{one['page_bytes'] / 1e6:.1f}",
                str(one["pictures"]),
            ]
            for num_images, one in found.items()
        ],
    )
    print(json.dumps({"facts": facts(None), "pages": found}))


if __name__ == "__main__":
    main()
