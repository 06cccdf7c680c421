"""Converting photographs: ours beside a bare libjpeg-turbo floor and six others, on the same files.

    python benchmarks/convert.py [--images 960] [--rounds 5] [--photographs FOLDER] [--plot PNG]
    python benchmarks/convert.py --scaling | --store | --memory | --profile

Every contestant turns the same photographs into JPEGs of 512 px, quality 85, 4:2:0, on all cores,
each time in a fresh process, in turn within each round. Start-up (the job on two images) is taken
out of the rate and of CPU, and told apart. CPU is user and system time of the whole process tree,
memory its highest PSS. Without a folder, photographs of 2048x1536 are drawn. A contestant that
cannot be installed, fails or leaves images out has a row that says so. What a contestant spends
once per tar (img2dataset: about half a second) weighs more here, in tars of some tens, than in a
season: the more images, the truer.

The others run in an environment of their own, made on first use (``--venv``). Linux only.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.far_store import BUCKET, LATENCY_SECONDS, relayed, server, upload, variables
from benchmarks.peer_input import prepare
from benchmarks.peer_runs import (
    OWN,
    Contestant,
    Row,
    RunFailedError,
    draw_plot,
    facts,
    make_venv,
    run_rounds,
)
from benchmarks.report import print_table, text

SIZE = 512
CORES = os.cpu_count() or 1
SHARDS_PER_CORE = 8
VIPS = "vipsthumbnail + tar" if shutil.which("vipsthumbnail") else "pyvips thumbnail + tarfile"
TITLES = {
    "floor": "floor: libjpeg-turbo 1/n, in memory",
    "ours": "ours: convert_season, Dask",
    "img2dataset": "img2dataset, file:// urls",
    "litdata": "LitData optimize + Pillow",
    "mds": "MosaicML MDSWriter + Pillow",
    "shardwriter": "webdataset ShardWriter + Pillow",
    "vips": VIPS,
    "raydata": "Ray Data + Pillow",
}


class Bench:
    """The photographs and settings of one call.

    Args:
        given: the command line.
        scratch: folder for photographs and outputs.
    """

    def __init__(self, given: argparse.Namespace, scratch: Path) -> None:
        self.given = given
        self.scratch = scratch
        self.source = scratch / "in"
        self.num: int = given.images
        self.shard_size: int = given.shard_size or max(8, -(-self.num // (SHARDS_PER_CORE * CORES)))

    def prepare(self, factor: int = 1) -> None:
        """Draw or copy the photographs, and say what they are."""
        counts = [2, self.num, self.num * factor]
        distinct = prepare(self.source, self.given.photographs, counts)
        files = sorted((self.source / "images").iterdir())[: self.num]
        size = sum(file.stat().st_size for file in files) / len(files) / 1e6
        kind = "given" if self.given.photographs else "drawn"
        print(
            f"{self.num} photographs ({distinct} different ones, {kind}) of {size:.2f} MB to "
            f"{SIZE} px, quality 85, 4:2:0; {CORES} cores; tars of {self.shard_size}; "
            f"{self.given.rounds} rounds"
        )

    def contestant(self, name: str, title: str = "", **changes: Any) -> Contestant:
        """One that converts these photographs."""
        settings: dict[str, Any] = {
            "name": name,
            "title": title or TITLES.get(name, name),
            "num": self.num,
            "source": str(self.source),
            "shard_size": self.shard_size,
            "size": SIZE,
        }
        return Contestant(**(settings | changes))

    def run(self, contestants: Sequence[Contestant], judge: str | None = None) -> list[Row]:
        """All rounds."""
        return run_rounds(contestants, self.given.rounds, self.scratch, judge)


# --- Everyone -------------------------------------------------------------------------------------


def everyone(bench: Bench) -> dict[str, Any]:
    """The main table, and the plot."""
    names = bench.given.only.split(",") if bench.given.only else list(TITLES)
    judge = make_venv(bench.given.venv)
    bench.prepare()
    known = facts(judge)
    others = {"python": judge}
    rows = bench.run(
        [bench.contestant(name, **({} if name in OWN else others)) for name in names], judge
    )
    floor = _find(rows, "floor")
    print_table(
        ("", "images/s", "of floor", "CPU ms/image", "memory GB", "start-up s", "SSIM-Y", "KB"),
        [_line(row, floor) for row in rows],
    )
    _print_ratios(rows)
    told = [row.as_dict() for row in rows]
    results = {"facts": known, "num": bench.num, "size": SIZE, "rows": told}
    if bench.given.plot:
        draw_plot(results, bench.given.plot.resolve(), judge)
        print(f"plot: {bench.given.plot}")
    return results


def _line(row: Row, floor: Row | None) -> list[str]:
    """One contestant's cells."""
    if row.failed:
        return [row.contestant.title, f"failed: {row.failed}"]
    sides = row.quality["sides"]
    note = "" if sides == [SIZE] else f" (sides {sides[0]}–{sides[-1]} px)"
    return [
        row.contestant.title + note,
        text(row.spread("rate")),
        text(row.ratio(floor), digits=2) if floor else "",
        text(row.spread("cpu_ms")),
        text(row.spread("peak"), 1e-9, 2),
        text(row.spread("startup")),
        f"{row.quality['ssim']:.4f}",
        f"{row.quality['bytes'] / 1e3:.1f}",
    ]


def _find(rows: Sequence[Row], name: str) -> Row | None:
    return next((row for row in rows if row.contestant.name == name and not row.failed), None)


def _print_ratios(rows: Sequence[Row]) -> None:
    """Ours against the floor and the best of the others, in rate and in CPU."""
    ours, floor = _find(rows, "ours"), _find(rows, "floor")
    peers = [row for row in rows if row.contestant.name not in OWN and not row.failed]
    if ours is None:
        return
    if floor is not None:
        print(f"ours, of the floor: images/s {text(ours.ratio(floor), digits=2)}, ", end="")
        print(f"CPU {text(ours.ratio(floor, 'cpu_ms'), digits=2)} ×")
    if peers:
        fastest = max(peers, key=lambda row: row.spread("rate")["median"])
        leanest = min(peers, key=lambda row: row.spread("cpu_ms")["median"])
        ratio = text(ours.ratio(fastest), digits=2)
        print(f"ours, of the fastest other ({fastest.contestant.title}): images/s {ratio} ×")
        ratio = text(leanest.ratio(ours, "cpu_ms"), digits=2)
        print(f"CPU of the leanest other ({leanest.contestant.title}), of ours: {ratio} ×")


# --- Ours alone -----------------------------------------------------------------------------------


def scaling(bench: Bench) -> dict[str, Any]:
    """One worker and two."""
    bench.prepare()
    counts = (1, 2)
    rows = bench.run(
        [bench.contestant("ours", f"ours, workers: {num}", workers=num) for num in counts]
    )
    _print_small(rows, "of 1 worker")
    return _results(bench, rows)


def store(bench: Bench) -> dict[str, Any]:
    """From a folder, from an S3 server, and from one that is 50 ms away."""
    bench.prepare()
    with ExitStack() as stack:
        near = stack.enter_context(server(bench.scratch / "server"))
        upload(bench.source, near)
        far = stack.enter_context(relayed(near))
        local = bench.contestant("ours", "ours, local folder")
        bucket = {"source": f"s3://{BUCKET}"}
        near_row = bench.contestant("ours", "ours, S3", **bucket, environment=variables(near))
        title = f"ours, S3 and {1000 * LATENCY_SECONDS:.0f} ms"
        far_row = bench.contestant("ours", title, **bucket, environment=variables(far))
        rows = bench.run([local, near_row, far_row])
    _print_small(rows, "of local")
    return _results(bench, rows)


def memory(bench: Bench) -> dict[str, Any]:
    """N images and ten times as many, in tars of the same size."""
    factor = 10
    bench.prepare(factor)
    counts = (bench.num, bench.num * factor)
    rows = bench.run([bench.contestant("ours", f"ours, {num} images", num=num) for num in counts])
    first = rows[0] if not rows[0].failed else None
    lines = []
    for row in rows:
        if row.failed or first is None:
            lines.append([row.contestant.title, row.failed or "nothing to compare with"])
            continue
        cells = [row.contestant.title]
        for key in ("worker", "driver", "peak"):
            times = text(row.ratio(first, key), digits=2)
            cells += [text(row.spread(key), 1e-6, 0), times]
        lines.append(cells)
    head = ["", "largest worker MB", "×", "driver and scheduler MB", "×", "whole tree MB", "×"]
    print_table(head, lines)
    return _results(bench, rows)


def profile(bench: Bench) -> dict[str, Any]:
    """Where the time goes, and the CPU around the resize."""
    bench.prepare()
    names = {"ours": TITLES["ours"], "resize": "resize_jpeg alone, in memory"}
    rows = bench.run([bench.contestant(name, title) for name, title in names.items()])
    _print_small(rows, "of ours")
    ours, bare = _find(rows, "ours"), _find(rows, "resize")
    results = _results(bench, rows)
    if ours is None or bare is None:
        return results
    ratio = bare.ratio(ours, "cpu_ms")
    around = {"median": 1 - ratio["median"], "min": 1 - ratio["max"], "max": 1 - ratio["min"]}
    shares = ours.stages()
    print_table(
        ("stage", "share of the workers' time, %"),
        [[name, f"{100 * share:.1f}"] for name, share in shares.items()],
    )
    print(f"CPU outside decode, resize and encode: {text(around, 100)} % of ours")
    return results | {"stages": shares, "cpu_around": around}


def _print_small(rows: Sequence[Row], label: str) -> None:
    """Rate and CPU, with the ratio to the first row."""
    first = rows[0] if not rows[0].failed else None
    lines = []
    for row in rows:
        if row.failed:
            lines.append([row.contestant.title, f"failed: {row.failed}"])
            continue
        ratio = text(row.ratio(first), digits=2) if first else ""
        cpu = text(row.spread("cpu_ms"))
        peak, startup = text(row.spread("peak"), 1e-9, 2), text(row.spread("startup"))
        lines.append([row.contestant.title, text(row.spread("rate")), ratio, cpu, peak, startup])
    print_table(("", "images/s", label, "CPU ms/image", "memory GB", "start-up s"), lines)


def _results(bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    told = [row.as_dict() for row in rows]
    return {"facts": facts(None), "num": bench.num, "size": SIZE, "rows": told}


MODES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    one.__name__: one for one in (everyone, scaling, store, memory, profile)
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Converting photographs, peers side by side.")
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photographs", type=Path, help="folder of JPEGs; else they are drawn")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--only", default="", help=f"some of {','.join(TITLES)}")
    parser.add_argument("--shard-size", type=int, help="images in a tar; default 8 tars per core")
    environment = Path(tempfile.gettempdir()) / "serengeti-etl-peers"
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
    with tempfile.TemporaryDirectory(prefix="convert-") as scratch:
        try:
            results = MODES[mode](Bench(given, Path(scratch)))
        except RunFailedError as error:
            raise SystemExit(str(error)) from error
    print(json.dumps({"mode": mode} | results, ensure_ascii=False))


if __name__ == "__main__":
    main()
