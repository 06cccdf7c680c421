"""What reading a season's labels costs: time and peak memory, ours beside the alternatives.

    python benchmarks/catalog.py [SCRATCH FOLDER] [--scale 0.1]

Label files of true size and shape are drawn by a seed (``label_files.py``; they stay in the scratch
folder, 6 GB at full scale). Then, each in a process of its own, so that peak memory is its own:

1. whole: the catalog of the LILA JSON and of the Hakuna pair by ``read_labels``, to sorted Parquet;
   beside it ``json.load`` + pandas, on as much of the file as fits in memory.
2. parse: the JSON alone, by our reader, by ijson (which refuses NaN: the text is mended for it),
   and by ``json.load``.
3. join: the same label rows to the same sorted catalog and annotations, by DuckDB (ours), pandas,
   pyarrow, polars and dask.dataframe.

Needs ``pip install ijson polars`` beside the project; a peer that is missing is said to be.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NUM_IMAGES, NUM_SEQUENCES = 7_178_440, 2_500_000
PEER_SHARE = 0.1
"""Share of the images that json.load + pandas is given: all of them need some 40 GB."""
SEPARATOR = "\x1d"


def whole(folder: Path, labels: str) -> str:
    """``read_labels`` of ``labels``: joined, sorted, checked, in Arrow and Parquet."""
    from serengeti_etl.catalog.read import read_labels
    from serengeti_etl.config import SeasonPipeline

    pipeline = SeasonPipeline(name="benchmark", source=str(folder), labels=labels)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = read_labels(pipeline, Path(scratch))
    if not is_sorted(found.images["seq_id"]):
        raise SystemExit("the catalog is not in its order")
    return f"{found.images.num_rows:,} images, {found.overview.num_annotations:,} annotations"


def is_sorted(column: Any) -> bool:
    """True when no value of the column is smaller than the one before it."""
    import pyarrow.compute as pc

    pairs = (column.slice(0, len(column) - 1), column.slice(1))
    return bool(pc.all(pc.less_equal(*pairs)).as_py())


def json_and_pandas(folder: Path, labels: str) -> str:
    """The whole file in memory, then data frames: the script that everybody writes first."""
    import pandas as pd

    value = json.loads((folder / labels).read_bytes())
    names = {one["id"]: one["name"] for one in value["categories"]}
    images, annotations = pd.DataFrame(value["images"]), pd.DataFrame(value["annotations"])
    del value
    annotations["category"] = annotations["category_id"].map(names)
    said = annotations.groupby("image_id")["category"].agg(lambda found: sorted(set(found)))
    images["labels"] = images["id"].map(said)
    images["datetime"] = pd.to_datetime(images["datetime"], errors="coerce")
    images = images.sort_values(["seq_id", "frame_num", "id"])
    annotations = annotations.sort_values(["seq_id", "image_id", "category", "id"])
    images.to_parquet(folder / "peer-images.parquet")
    text = {"count": annotations["count"].astype(str), "subject_id": annotations["subject_id"]}
    text["subject_id"] = text["subject_id"].astype(str)
    annotations.assign(**text).to_parquet(folder / "peer-annotations.parquet")
    return f"{len(images):,} images, {len(annotations):,} annotations"


def parse_ours(folder: Path, labels: str) -> str:
    """Every entry of the JSON by our reader."""
    from serengeti_etl.catalog.json_stream import iter_members

    with (folder / labels).open("rb") as file:
        num = sum(len(value) for _, value in iter_members(file, labels) if isinstance(value, list))
    return f"{num:,} entries"


def parse_ijson(folder: Path, labels: str) -> str:
    """The same by ijson's C back end, once over the file for each of the two lists."""
    import ijson

    num = 0
    for key in ("images", "annotations"):
        with (folder / labels).open("rb") as file:
            mended = WithoutNan(file)
            num += sum(1 for _ in ijson.items(mended, f"{key}.item", use_float=True))
    return f"{num:,} entries"


class WithoutNan:
    """The text of ``file`` with ``NaN`` as null, line by line: ijson knows no NaN."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        """About ``size`` bytes, whole lines."""
        text = self.file.read(size) + self.file.readline() if size else b""
        return text.replace(b": NaN", b": null")


def parse_json_load(folder: Path, labels: str) -> str:
    """The whole file by Python's own parser."""
    value = json.loads((folder / labels).read_bytes())
    return f"{len(value['images']) + len(value['annotations']):,} entries"


def join_duckdb(folder: Path, _: str) -> str:
    """Ours: DuckDB within 1.2 GB."""
    from serengeti_etl.catalog.database import Database
    from serengeti_etl.catalog.join import join_rows

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name in ("images.rows", "annotations.rows"):
            (Path(scratch) / name).symlink_to(folder / name)
        with Database(Path(scratch)) as database:
            join_rows(database, Path(scratch), 5)
            ((count,),) = database.rows("SELECT count(*) FROM images")
    return f"{count:,} images"


def join_pandas(folder: Path, _: str) -> str:
    """By pandas, with text in Arrow."""
    import pandas as pd

    images = pd.read_parquet(folder / "images.rows")
    annotations = pd.read_parquet(folder / "annotations.rows")
    pairs = annotations[["key", "category"]].drop_duplicates().sort_values(["key", "category"])
    said = pairs.groupby("key")["category"].agg(SEPARATOR.join).rename("labels")
    images = images.merge(said, on="key", how="left")
    images["datetime"] = pd.to_datetime(images["datetime"], errors="coerce")
    images = images.sort_values(["seq_id", "frame_num", "image_id"])
    images.to_parquet(folder / "peer-images.parquet", compression="zstd")
    annotations = annotations.drop(columns="seq_id").merge(images[["key", "image_id", "seq_id"]])
    annotations = annotations.sort_values(["seq_id", "image_id", "category", "annotation_id"])
    annotations.to_parquet(folder / "peer-annotations.parquet", compression="zstd")
    return f"{len(images):,} images"


def join_pyarrow(folder: Path, _: str) -> str:
    """By the joins and sorts of pyarrow itself."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    images = pq.ParquetFile(folder / "images.rows").read()
    annotations = pq.ParquetFile(folder / "annotations.rows").read()
    pairs = annotations.select(["key", "category"]).group_by(["key", "category"]).aggregate([])
    said = pairs.group_by("key").aggregate([("category", "list")])
    # Its join refuses columns of lists.
    labels = said["category_list"].combine_chunks()
    places = pc.index_in(images["key"], value_set=said["key"])
    images = images.append_column("labels", labels.take(places))
    moments = pc.strptime(images["datetime"], "%Y-%m-%d %H:%M:%S", "ms", error_is_null=True)
    images = images.set_column(images.column_names.index("datetime"), "datetime", moments)
    images = images.sort_by([(name, "ascending") for name in ("seq_id", "frame_num", "image_id")])
    pq.write_table(images, folder / "peer-images.parquet", compression="zstd")
    annotations = annotations.drop_columns("seq_id").join(
        images.select(["key", "image_id", "seq_id"]), "key", join_type="inner"
    )
    order = ("seq_id", "image_id", "category", "annotation_id")
    annotations = annotations.sort_by([(name, "ascending") for name in order])
    pq.write_table(annotations, folder / "peer-annotations.parquet", compression="zstd")
    return f"{images.num_rows:,} images"


def join_polars(folder: Path, _: str) -> str:
    """By polars, lazy, with its streaming engine."""
    import polars as pl

    images = pl.scan_parquet(folder / "images.rows")
    annotations = pl.scan_parquet(folder / "annotations.rows")
    said = annotations.group_by("key").agg(pl.col("category").unique().sort().alias("labels"))
    moment = pl.col("datetime").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
    catalog = images.join(said, on="key", how="left").with_columns(moment)
    catalog = catalog.sort("seq_id", "frame_num", "image_id")
    catalog.sink_parquet(folder / "peer-images.parquet", compression="zstd")
    told = annotations.drop("seq_id").join(images.select("key", "image_id", "seq_id"), on="key")
    told = told.sort("seq_id", "image_id", "category", "annotation_id")
    told.sink_parquet(folder / "peer-annotations.parquet", compression="zstd")
    count = pl.scan_parquet(folder / "peer-images.parquet").select(pl.len()).collect().item()
    return f"{count:,} images"


def join_dask(folder: Path, _: str) -> str:
    """By dask.dataframe on threads."""
    import dask.dataframe as dd

    images = dd.read_parquet(folder / "images.rows", split_row_groups=16)
    annotations = dd.read_parquet(folder / "annotations.rows", split_row_groups=16)
    pairs = annotations[["key", "category"]].drop_duplicates(split_out=16)
    pairs["category"] = pairs["category"] + SEPARATOR
    said = pairs.groupby("key")["category"].sum(split_out=16).rename("labels")
    catalog = images.merge(said.to_frame(), left_on="key", right_index=True, how="left")
    catalog = catalog.sort_values(["seq_id", "frame_num", "image_id"])
    catalog.to_parquet(folder / "peer-images")
    told = annotations.drop(columns="seq_id").merge(images[["key", "image_id", "seq_id"]], on="key")
    told.sort_values(["seq_id", "image_id"]).to_parquet(folder / "peer-annotations")
    return f"{len(dd.read_parquet(folder / 'peer-images')):,} images"


CANDIDATES: dict[str, Callable[[Path, str], str]] = {
    one.__name__: one
    for one in (
        whole,
        json_and_pandas,
        parse_ours,
        parse_ijson,
        parse_json_load,
        join_duckdb,
        join_pandas,
        join_pyarrow,
        join_polars,
        join_dask,
    )
}
NEEDS = {"parse_ijson": "ijson", "join_polars": "polars", "join_dask": "pyarrow"}


def run_one(name: str, folder: Path, labels: str) -> None:
    """Run a candidate in this process, and print its result as one line of JSON."""
    started = time.perf_counter()
    said = CANDIDATES[name](folder, labels)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {"said": said, "seconds": time.perf_counter() - started}
    result |= {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss / 1e6}
    print(json.dumps(result))


def measure(name: str, folder: Path, labels: str = "") -> dict[str, Any]:
    """The result of a candidate in a process of its own; ``failed`` where it did not end well."""
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        return {"failed": f"{NEEDS[name]} is not installed"}
    command = [sys.executable, __file__, str(folder), "--one", name, "--labels", labels]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"failed": f"exit {ended.returncode}: {last[0][:120]}"}
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def report(title: str, name: str, folder: Path, labels: str = "") -> None:
    """Measure and print one line."""
    found = measure(name, folder, labels)
    if "failed" in found:
        print(f"{title:<44}{found['failed']}", flush=True)
        return
    times = (
        f"{found['seconds']:8.1f} s {found['cpu_seconds']:8.1f} s CPU {found['peak_gb']:7.2f} GB"
    )
    print(f"{title:<44}{times}  {found['said']}", flush=True)


def draw(folder: Path, scale: float) -> None:
    """The label files, unless an earlier run left them."""
    from benchmarks.label_files import write_hakuna, write_lila

    folder.mkdir(parents=True, exist_ok=True)
    for name, share in (("lila.json", scale), ("lila-part.json", scale * PEER_SHARE)):
        if not (folder / name).exists():
            write_lila(folder / name, num_images=int(NUM_IMAGES * share))
    if not (folder / "hakuna").exists():
        write_hakuna(folder / "hakuna", num_sequences=int(NUM_SEQUENCES * scale))


def write_rows(folder: Path) -> None:
    """The label rows that the joins begin with."""
    from serengeti_etl.catalog.coco import read_coco
    from serengeti_etl.catalog.rows import RowWriter
    from serengeti_etl.storage import Store

    if not (folder / "annotations.rows").exists():
        with RowWriter(folder) as rows:
            read_coco(Store(url=str(folder)), "lila.json", rows)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("labels-benchmark"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--one")
    parser.add_argument("--labels", default="")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.one:
        run_one(arguments.one, folder, arguments.labels)
        return
    draw(folder, arguments.scale)
    size = (folder / "lila.json").stat().st_size / 1e9
    print(f"Python {platform.python_version()}, {platform.machine()}; lila.json of {size:.2f} GB")
    report("whole: LILA JSON, ours", "whole", folder, "lila.json")
    report("whole: Hakuna pair, ours", "whole", folder, "hakuna")
    report(f"whole: LILA, {PEER_SHARE:.0%} of it, ours", "whole", folder, "lila-part.json")
    part = f"whole: LILA, {PEER_SHARE:.0%} of it, json + pandas"
    report(part, "json_and_pandas", folder, "lila-part.json")
    for name in ("parse_ours", "parse_ijson", "parse_json_load"):
        report(f"{name} ({PEER_SHARE:.0%} of it)", name, folder, "lila-part.json")
    write_rows(folder)
    for name in ("join_duckdb", "join_pandas", "join_pyarrow", "join_polars", "join_dask"):
        report(name, name, folder)


if __name__ == "__main__":
    main()
