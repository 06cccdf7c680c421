"""One rank of a torchrun: reads batches in step with the others, and writes down what it saw.

Usage: torchrun ... rank_reader.py DATASET FOLDER NUM_STEPS BATCH_SIZE

After so many steps the first rank stands still, and the others wait for it: then they may be
killed. They go on to the end of the epoch where it is 0.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from serengeti_etl.load.loader import LoaderSettings, ShardLoader


def main() -> None:
    """Go on from the last state that is there, one epoch."""
    url, folder = sys.argv[1], Path(sys.argv[2])
    num_steps, batch_size = int(sys.argv[3]), int(sys.argv[4])
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    settings = LoaderSettings(
        image_size=(24, 32), window=2, lanes=2, drop_last=False, num_threads=1
    )
    loader = ShardLoader(
        url,
        split="train",
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=3,
        settings=settings,
    )
    with loader:
        states = sorted(folder.glob("state-*.json"))
        if states:
            loader.load_state_dict(json.loads(states[-1].read_text()))
        epoch = loader.epoch
        for step, batch in enumerate(loader, start=1):
            seen: list[object] = [None] * world_size
            places = batch.positions_B[batch.mask_B].tolist()
            dist.all_gather_object(seen, list(zip(places, batch.image_ids, strict=False)))
            # Every rank counts its steps: they would hang here if one had more.
            dist.all_reduce(torch.ones(1))
            if rank == 0 and loader.epoch == epoch:
                _note(folder, loader, seen)
            if rank == 0 and step == num_steps:
                time.sleep(600)
    if rank == 0:
        (folder / "done").touch()
    dist.destroy_process_group()


def _note(folder: Path, loader: ShardLoader, seen: list[object]) -> None:
    """The samples of the step and the place after it, both or neither."""
    state = loader.state_dict()
    path = folder / f"state-{state['num_consumed']:06d}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state | {"seen": seen}))
    partial.replace(path)


if __name__ == "__main__":
    main()
