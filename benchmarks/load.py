"""Loading batches: ours beside bare JPEG decode and ten others, on the same JPEGs.

    python benchmarks/load.py [--images 4096] [--rounds 5] [--photographs FOLDER] [--plot PNG]
    python benchmarks/load.py --store | --memory | --resume | --sites | --egress

The photographs become 512x384 JPEGs in a dataset of this project, and from there files, tars and
what each loader reads, once (``--scratch`` keeps them). All decode, crop at random to 224 px, flip
and hand out uint8 batches of 256, on all cores, each time in a fresh process, in turn within each
round; ``load_peers.py`` says how. Of the passes all but the first are counted. CPU is user and
system time of the whole process tree, memory its highest PSS, of which PyTorch alone is told too,
since the others have another build of it. Ours runs twice: with the crop on the CPU, and as decode
of whole photographs only, crop and resize left to the device. A loader that cannot be installed,
fails or leaves samples out has a row that says so.

``--store`` has an S3 server on the same cores: what it and the rest around a loader take is told.
``--resume``, ``--sites`` and ``--egress`` look at a drawn index of Snapshot Serengeti's size, with
no photographs. The others run in an environment of their own, made on first use (``--venv``): some
5 GB, since the torchvision of PyPI needs its PyTorch for GPUs. Linux only.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.far_store import BUCKET, LATENCY_SECONDS, relayed, server, upload, variables
from benchmarks.load_index import NUM_IMAGES, draw_index
from benchmarks.load_input import HEIGHT, WIDTH, Input, make_input
from benchmarks.load_runs import (
    OWN,
    PINNED,
    REQUIREMENTS,
    Loader,
    Row,
    bare_bytes,
    make_forms,
    run_rounds,
)
from benchmarks.peer_runs import HERE, RunFailedError, ask, draw_plot, facts, make_venv
from benchmarks.report import Spread, print_table, spread, text

CORES = os.cpu_count() or 1
BATCH = 256
TITLES = {
    "floor": "floor: libjpeg-turbo decode, in memory",
    "device": "ours: decode only, crop left to the device",
    "crop": "ours: crop and resize on the CPU",
    "wds_torchvision": "webdataset + torchvision",
    "wds_pillow": "webdataset + Pillow",
    "litdata": "LitData + torchvision",
    "mds": "MosaicML streaming + torchvision",
    "spdl": "SPDL, its FFmpeg",
    "imagefolder": "ImageFolder + torchvision",
    "energon": "Megatron-Energon + torchvision",
    "hf": "Hugging Face datasets + torchvision",
    "dali": "DALI on the CPU",
    "ffcv": "FFCV",
}
JPEG_PEERS = ("wds_torchvision", "wds_pillow", "litdata", "mds", "spdl", "imagefolder")
"""Those whose best ours is to beat."""
GROWTH = 10


class Bench:
    """The samples and settings of one call.

    Args:
        given: the command line.
        scratch: folder for samples in all forms.
    """

    def __init__(self, given: argparse.Namespace, scratch: Path) -> None:
        self.given = given
        self.scratch = scratch
        step = BATCH * CORES  # so that every worker has whole batches only
        self.num: int = -(-given.images // step) * step

    def samples(self, factor: int = 1) -> Input:
        """The samples, or ``factor`` times as many."""
        num = self.num * factor
        made = make_input(self.scratch / f"input-{num}", self.given.photographs, num)
        kind = "given" if self.given.photographs else "drawn"
        print(
            f"{num} JPEGs ({made.num_distinct} different photographs, {kind}) of "
            f"{made.num_bytes / num / 1e3:.1f} kB, {WIDTH}x{HEIGHT} px; batches of {BATCH}; "
            f"{CORES} cores; {self.given.rounds} rounds"
        )
        return made

    def loader(self, name: str, samples: Input, **changes: Any) -> Loader:
        """One that loads these samples."""
        settings: dict[str, Any] = {
            "name": name,
            "title": TITLES[name],
            "source": str(samples.folder),
            "num": samples.num,
            "batch": BATCH,
            "passes": self.given.passes,
        }
        return Loader(**(settings | changes))

    def place(self, name: str, samples: Input) -> dict[str, Any]:
        """Where a contestant runs."""
        if name in OWN:
            return {}
        environment = {"LD_LIBRARY_PATH": str(samples.folder / "spdl")} if name == "spdl" else {}
        return {"python": self.peers(), "environment": environment}

    def names(self, default: Sequence[str]) -> list[str]:
        """Who takes part."""
        return self.given.only.split(",") if self.given.only else list(default)

    def rows(self, loaders: Sequence[Loader]) -> list[Row]:
        """All rounds."""
        return run_rounds(loaders, self.given.rounds)

    def peers(self) -> str:
        """The peers' interpreter."""
        return make_venv(self.given.venv, PINNED, REQUIREMENTS)

    def index(self) -> str:
        """The url of the drawn index."""
        url = draw_index(self.scratch, self.given.index_images)
        size = (Path(url) / "index.parquet").stat().st_size / 1e6
        print(f"a drawn index of {self.given.index_images} images, {size:.0f} MB")
        return url

    def ask_ours(self, *given: str) -> dict[str, Any]:
        """What ``load_ours.py`` finds, in a process of its own."""
        return ask([sys.executable, str(HERE / "load_ours.py"), *given])


# --- Everyone -------------------------------------------------------------------------------------


def everyone(bench: Bench) -> dict[str, Any]:
    """The main table, and the plot."""
    names = bench.names(tuple(TITLES))
    python = bench.peers()
    samples = bench.samples()
    make_forms(samples, python, names.__contains__)
    known = facts(python, "load_peers.py")
    loaders = [bench.loader(name, samples, **bench.place(name, samples)) for name in names]
    rows = bench.rows(loaders)
    _print_main(rows)
    print(", ".join(f"{name} {number}" for name, number in known["peers"].items()))
    known["bare_bytes"] = {"ours": bare_bytes(sys.executable), "others": bare_bytes(python)}
    bare = {name: round(num / 1e6) for name, num in known["bare_bytes"].items()}
    print(f"PyTorch alone, MB: in our environment {bare['ours']}, in the others' {bare['others']}")
    results = {"facts": known, "num": samples.num, "num_bytes": samples.num_bytes}
    results |= {"rows": [row.as_dict() for row in rows], "ratios": _print_ratios(rows)}
    if bench.given.plot:
        caption = f"{samples.num} JPEGs of {WIDTH}x{HEIGHT} px, batches of {BATCH}"
        draw_plot(results | {"caption": caption}, bench.given.plot.resolve(), python)
        print(f"plot: {bench.given.plot}")
    return results


def _print_main(rows: Sequence[Row]) -> None:
    """Each with its ratios to the floor and to ours with the crop on the CPU."""
    floor, ours = _find(rows, "floor"), _find(rows, "crop")
    lines = []
    for row in rows:
        if row.failed:
            lines.append([row.loader.title, row.failed])
            continue
        cells = [row.loader.title, text(row.spread("rate"), digits=0)]
        cells.append(text(row.ratio(floor), digits=2) if floor else "")
        cells.append(text(row.spread("cpu_ms"), digits=2))
        others = (floor, ours)
        cells += [text(row.ratio(one, "cpu_ms"), digits=2) if one else "" for one in others]
        cells += [text(row.spread("peak"), 1e-6, 0), text(row.spread("first"), digits=2)]
        lines.append(cells)
    head = ("", "images/s", "of floor", "CPU ms/image", "× floor", "× ours (crop)")
    print_table((*head, "memory MB", "first batch s"), lines)


def _find(rows: Sequence[Row], name: str) -> Row | None:
    return next((row for row in rows if row.loader.name == name and not row.failed), None)


def _print_ratios(rows: Sequence[Row]) -> dict[str, Spread]:
    """Both of ours against the floor and the best peer: what the goals are set in."""
    floor, found = _find(rows, "floor"), {}
    peers = [row for name in JPEG_PEERS if (row := _find(rows, name))]
    best = min(peers, key=lambda row: row.spread("cpu_ms")["median"]) if peers else None
    for name in ("device", "crop"):
        ours = _find(rows, name)
        if ours is None:
            continue
        if floor is not None:
            found[f"{name}: floor's CPU of ours"] = floor.ratio(ours, "cpu_ms")
            found[f"{name}: images/s of the floor"] = ours.ratio(floor)
        if best is not None:
            label = f"{name}: CPU of the leanest JPEG peer ({best.loader.title}), of ours"
            found[label] = best.ratio(ours, "cpu_ms")
    for label, value in found.items():
        print(f"{label}: {text(value, digits=2)}")
    return found


# --- Ours alone, with photographs -----------------------------------------------------------------


def store(bench: Bench) -> dict[str, Any]:
    """One pass from a folder, and from a store 50 ms away with a cold and a warm cache."""
    samples = bench.samples()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.scratch)))
        near = stack.enter_context(server(folder / "server"))
        upload(samples.folder / "dataset", near)
        far = variables(stack.enter_context(relayed(near)))
        away = f"S3, {1000 * LATENCY_SECONDS:.0f} ms away"
        loaders = []
        for name in bench.names(("device", "crop")):
            cache = folder / f"cache-{name}"
            url = {"source": f"s3://{BUCKET}", "environment": far, "cache": cache, "passes": 1}
            title = TITLES[name]
            loaders += [
                bench.loader(name, samples, title=f"{title}; folder", passes=1),
                bench.loader(name, samples, title=f"{title}; {away}, cold", **url, is_cold=True),
                bench.loader(name, samples, title=f"{title}; {away}, warm", **url),
            ]
        rows = bench.rows(loaders)
    _print_small(rows, "of folder", 3)
    return _results(rows, samples.num)


def memory(bench: Bench) -> dict[str, Any]:
    """One pass over N samples and over ten times as many, in tars of the same size."""
    names = bench.names(("device", "crop"))
    python = sys.executable if set(names) <= set(OWN) else bench.peers()
    loaders = []
    inputs = [bench.samples(factor) for factor in (1, GROWTH)]
    for samples in inputs:
        make_forms(samples, python, names.__contains__)
    for name in names:
        for samples in inputs:
            given = bench.place(name, samples) | {"title": f"{TITLES[name]}; {samples.num}"}
            loaders.append(bench.loader(name, samples, passes=1, **given))
    rows = bench.rows(loaders)
    _print_small(rows, "of the fewer", 2)
    return _results(rows, bench.num)


def _print_small(rows: Sequence[Row], label: str, size: int) -> None:
    """Rate and memory, with ratios to the first of each group of ``size``."""
    lines = []
    for at, row in enumerate(rows):
        first = rows[at - at % size]
        if row.failed or first.failed:
            lines.append([row.loader.title, row.failed or first.failed])
            continue
        cells = [row.loader.title]
        for key, scale, digits in (("rate", 1, 0), ("whole", 1, 0), ("peak", 1e-6, 0)):
            cells.append(text(row.spread(key), scale, digits))
            cells.append(text(row.ratio(first, key), digits=2))
        cells += [text(row.spread(key), digits=2) for key in ("first", "cpu_ms", "around_ms")]
        lines.append(cells)
    head = ["", "images/s after the first batch", label, "of the whole pass", label]
    head += ["memory MB", label, "first batch s", "CPU ms/image", "CPU ms/image around it"]
    print_table(head, lines)


def _results(rows: Sequence[Row], num: int) -> dict[str, Any]:
    return {"facts": facts(None), "num": num, "rows": [row.as_dict() for row in rows]}


# --- Ours alone, on the drawn index ---------------------------------------------------------------


def resume(bench: Bench) -> dict[str, Any]:
    """From the constructor to the rows of the first batch, at three places; memory of it."""
    url, num = bench.index(), bench.given.index_images
    lines, told = [], {}
    for share in (0.0, 0.5, 0.99):
        place = str(int(num * share))
        found = [bench.ask_ours("resume", url, place) for _ in range(bench.given.rounds)]
        keys = ("seconds", "cpu_seconds", "held", "peak")
        values = {key: spread(one[key] for one in found) for key in keys}
        told[place] = values
        cells = [text(values[key], digits=2) for key in keys[:2]]
        lines.append([place, *cells, *(text(values[key], 1e-6, 0) for key in keys[2:])])
    print_table(("resumed after", "seconds", "CPU s", "MB held", "MB at the highest"), lines)
    return {"facts": facts(None), "num": num, "places": told}


def sites(bench: Bench) -> dict[str, Any]:
    """Distinct sites in batches of 256, against a true shuffle."""
    found = bench.ask_ours("sites", bench.index())
    true = found["true"]
    names = {
        "true": "true shuffle",
        "true_again": "another true shuffle",
        "ours": "ours",
        "shard_by_shard": "shard after shard, no shuffle",
        "natural_buffer": "as cameras wrote them, buffer of 1,000",
    }
    lines = [[name, f"{found[key]:.2f}", f"{found[key] / true:.4f}"] for key, name in names.items()]
    print_table(("order", f"distinct sites in {BATCH}", "of a true shuffle"), lines)
    return {"facts": facts(None)} | found


def egress(bench: Bench) -> dict[str, Any]:
    """Bytes that 1, 2, 4 and 8 nodes fetch in an epoch, by arithmetic."""
    found = bench.ask_ours("egress", bench.index())
    lines = [
        [nodes, *(f"{value:.2f}" for value in shares.values())]
        for nodes, shares in found["nodes"].items()
    ]
    head = ("nodes", "whole shards, of the dataset", "of them the busiest node", "samples only")
    print_table(head, lines)
    return {"facts": facts(None)} | found


MODES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    one.__name__: one for one in (everyone, store, memory, resume, sites, egress)
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Loading batches, peers side by side.")
    parser.add_argument("--images", type=int, default=4096, help="samples in a pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=3, help="the first one is not counted")
    parser.add_argument("--photographs", type=Path, help="folder of JPEGs; else they are drawn")
    parser.add_argument("--index-images", type=int, default=NUM_IMAGES, help="in the drawn index")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--only", default="", help=f"some of {','.join(TITLES)}")
    parser.add_argument(
        "--scratch", type=Path, help="folder to keep samples in; else none are kept"
    )
    environment = Path(tempfile.gettempdir()) / "serengeti-etl-load-peers"
    parser.add_argument("--venv", type=Path, default=environment)
    modes = parser.add_mutually_exclusive_group()
    for name in MODES:
        about = (MODES[name].__doc__ or "").splitlines()[0]
        modes.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=about)
    return parser.parse_args()


def main() -> None:
    """Print a table and a line of JSON."""
    given = parse()
    mode = given.mode or "everyone"
    with tempfile.TemporaryDirectory(prefix="load-") as scratch:
        try:
            results = MODES[mode](Bench(given, (given.scratch or Path(scratch)).resolve()))
        except RunFailedError as error:
            raise SystemExit(str(error)) from error
    print(json.dumps({"mode": mode} | results, ensure_ascii=False))


if __name__ == "__main__":
    main()
