"""Memory stays the same however many epochs are read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dataset_factory import Recipe, make_dataset

ROOT = Path(__file__).parents[2]

PROGRAM = """
import gc, json, sys
from torch.utils.data import DataLoader
from serengeti_etl import LoaderSettings, ShardLoader

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

class Measured:
    def __init__(self, batch):
        self.num_bytes = resident()

if __name__ == "__main__":
    settings = LoaderSettings(image_size=(96, 128), num_threads=2)
    loader = ShardLoader(sys.argv[1], split="train", batch_size=32, settings=settings)
    found = []
    if sys.argv[2] == "worker":
        stream = DataLoader(loader, batch_size=None, num_workers=1, collate_fn=Measured,
                            persistent_workers=True, multiprocessing_context="forkserver")
    for epoch in range(6):
        if sys.argv[2] == "plain":
            for batch in loader:
                pass
            gc.collect()
            found.append(resident())
        else:
            # What the worker itself holds, as it tells in place of each batch.
            found.append(max(one.num_bytes for one in stream))
    print(json.dumps(found))
"""


@pytest.mark.parametrize("way", ["plain", "worker"])
def test_memory_is_flat_over_the_epochs(way: str, tmp_path: Path) -> None:
    """The sixth epoch holds no more than the second, here or in a DataLoader's worker."""
    make_dataset(str(tmp_path / "data"), Recipe(sizes={"train": (200, 200)}, height=96, width=128))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "data"), way],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert len(found) == 6
    assert found[-1] < 1.05 * found[1], found
