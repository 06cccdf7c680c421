"""One contestant of ``convert.py``, in a process of its own.

    python benchmarks/peers.py NAME IN_FOLDER OUT_FOLDER SIZE NUM_IMAGES

``ours``, ``resize`` and ``floor`` run in this project's environment; the others in the one that
``convert.py`` makes, which does not hold this project. What each writes holds JPEGs whose longest
side is SIZE, quality 85, 4:2:0. Those that work in memory print their own times, last of all.
"""
# mypy: disable-error-code="import-not-found,import-untyped"

import argparse
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peer_quality import compared, mosaic

QUALITY = 85
CORES = os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a contestant is to do.

    Attributes:
        source: folder, or url, of ``images/`` and label files.
        out: folder to write to.
        size: longest side of the outputs, px.
        num: images, the first ones of ``source``.
        shard_size: images in one tar, where the contestant can be told.
        workers: processes; None as many as cores, as our runner does by itself.
    """

    source: str
    out: Path
    size: int
    num: int
    shard_size: int
    workers: int | None

    @property
    def files(self) -> list[Path]:
        """The photographs."""
        return [Path(self.source) / "images" / f"{at:06d}.jpg" for at in range(self.num)]

    @property
    def parts(self) -> list[list[Path]]:
        """The photographs dealt to as many hands as there are cores."""
        return [part for rank in range(CORES) if (part := self.files[rank::CORES])]


# --- In memory: what no pipeline can beat, and our resize without a pipeline --------------------

_PHOTOGRAPHS: list[bytes] = []


def floor(job: Job) -> None:
    """Scaled libjpeg-turbo decode and encode in a process pool; nothing read, nothing written."""
    import simplejpeg  # noqa: F401 - before the processes part

    _in_memory(job, _floor_one)


def resize(job: Job) -> None:
    """Our ``resize_jpeg`` alone in a process pool; nothing read, nothing written."""
    _in_memory(job, _resize_one)


def _floor_one(photograph: bytes, size: int) -> bytes:
    import simplejpeg

    height, width, _, _ = simplejpeg.decode_jpeg_header(photograph)
    share = min(1.0, size / max(height, width))
    pixels_HWC = simplejpeg.decode_jpeg(
        photograph, min_height=int(height * share), min_width=int(width * share), min_factor=1
    )
    return bytes(simplejpeg.encode_jpeg(pixels_HWC, quality=QUALITY, colorsubsampling="420"))


def _resize_one(photograph: bytes, size: int) -> bytes:
    # First imported in the child: libvips must not be used before a process parts.
    from serengeti_etl.config import ResizeSettings
    from serengeti_etl.convert.resize import resize_jpeg

    return resize_jpeg(photograph, ResizeSettings(size=str(size))).jpeg


def _in_memory(job: Job, function: Callable[[bytes, int], bytes]) -> None:
    _PHOTOGRAPHS.extend(_read_once(job.files))
    spend = partial(_spend, function, job.size)
    with multiprocessing.get_context("fork").Pool(CORES) as pool:
        pool.map(partial(_warm, function, job.size), range(4 * CORES), chunksize=1)
        started = time.perf_counter()
        cpu = sum(pool.imap_unordered(spend, range(job.num), chunksize=4))
        seconds = time.perf_counter() - started
        for at in compared(job.num):
            jpeg = pool.apply(function, (_PHOTOGRAPHS[at], job.size))
            (job.out / f"{at:06d}.jpg").write_bytes(jpeg)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}))


def _read_once(files: list[Path]) -> Iterator[bytes]:
    """The contents; files that are one file under several names share their bytes."""
    known: dict[int, bytes] = {}
    for file in files:
        number = file.stat().st_ino
        if number not in known:
            known[number] = file.read_bytes()
        yield known[number]


def _warm(function: Callable[[bytes, int], bytes], size: int, _: int) -> None:
    function(_PHOTOGRAPHS[0], size)
    time.sleep(0.05)  # so that each process gets some


def _spend(function: Callable[[bytes, int], bytes], size: int, at: int) -> float:
    started = time.process_time()
    function(_PHOTOGRAPHS[at], size)
    return time.process_time() - started


# --- Ours -----------------------------------------------------------------------------------------


def ours(job: Job) -> None:
    """The whole of ``convert_season``: labels, plan, fetch, resize, tar, index, Dask."""
    from serengeti_etl import SeasonPipeline
    from serengeti_etl.cluster import open_runner
    from serengeti_etl.config import ClusterSpec, ResizeSettings, ShardSettings
    from serengeti_etl.convert.season import convert_season
    from serengeti_etl.label_config import SiteListSplit

    pipeline = SeasonPipeline(
        name="benchmark",
        source=job.source,
        labels=f"labels-{job.num}.json",
        images="images",
        split=SiteListSplit(url="splits.json"),
        resize=ResizeSettings(size=str(job.size), quality=QUALITY),
        shards=ShardSettings(max_samples=job.shard_size),
    )
    where: str | ClusterSpec = "local"
    if job.workers is not None:
        options: dict[str, Any] = {"n_workers": job.workers, "threads_per_worker": 1}
        options |= {"processes": True, "dashboard_address": "127.0.0.1:0"}
        where = ClusterSpec(cluster="distributed:LocalCluster", options=options)
    with open_runner(where) as runner:
        conversion = convert_season(pipeline, runner, str(job.out))
    print(json.dumps({"stages": dict(conversion.seconds)}))


# --- The others -----------------------------------------------------------------------------------


def img2dataset(job: Job) -> None:
    """img2dataset over ``file://`` addresses, which its urllib opens; webdataset output."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset import download

    with tempfile.TemporaryDirectory() as scratch:
        urls = Path(scratch) / "urls.txt"
        urls.write_text("".join(f"{file.resolve().as_uri()}\n" for file in job.files))
        download(
            url_list=str(urls),
            output_folder=str(job.out / "shards"),
            output_format="webdataset",
            input_format="txt",
            image_size=job.size,
            resize_mode="keep_ratio_largest",
            resize_only_if_bigger=True,
            encode_quality=QUALITY,
            processes_count=CORES,
            thread_count=2 * CORES,
            number_sample_per_shard=job.shard_size,
            compute_hash=None,
            extract_exif=False,
        )


def litdata(job: Job) -> None:
    """LitData ``optimize`` with Pillow: draft, Lanczos, JPEG bytes."""
    import litdata as library

    library.optimize(
        fn=partial(_litdata_one, job.size),
        inputs=[str(file) for file in job.files],
        output_dir=str(job.out),
        num_workers=CORES,
        chunk_bytes="64MB",
        mode="overwrite",
        verbose=False,
    )


def _litdata_one(size: int, file: str) -> dict[str, Any]:
    return {"key": Path(file).stem, "jpg": pillow_bytes(Path(file).read_bytes(), size)}


def mds(job: Job) -> None:
    """MosaicML streaming's ``MDSWriter`` with Pillow, one writer per process."""
    _in_processes(job, _mds_part)


def _mds_part(job: Job, rank: int) -> None:
    columns, folder = {"key": "str", "jpg": "bytes"}, str(job.out / str(rank))
    with mosaic().MDSWriter(out=folder, columns=columns, size_limit="64mb") as writer:
        for file in job.parts[rank]:
            writer.write({"key": file.stem, "jpg": pillow_bytes(file.read_bytes(), job.size)})


def shardwriter(job: Job) -> None:
    """Pillow and webdataset's ``ShardWriter``, one writer per process."""
    _in_processes(job, _shardwriter_part)


def _shardwriter_part(job: Job, rank: int) -> None:
    from webdataset import ShardWriter

    pattern = str(job.out / f"{rank}-%06d.tar")
    with ShardWriter(pattern, maxcount=job.shard_size, verbose=0) as writer:
        for file in job.parts[rank]:
            jpeg = pillow_bytes(file.read_bytes(), job.size)
            writer.write({"__key__": file.stem, "jpg": jpeg})


def vips(job: Job) -> None:
    """``vipsthumbnail`` where it is installed, else pyvips' thumbnail; a tar per process."""
    if shutil.which("vipsthumbnail"):
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(partial(_vipsthumbnail_part, job), range(len(job.parts))))
    else:
        _in_processes(job, _pyvips_part)


def _vipsthumbnail_part(job: Job, rank: int) -> None:
    """Some hundred files to a command; what it wrote goes into the tar."""
    files, step = job.parts[rank], 200
    with tempfile.TemporaryDirectory(dir=job.out) as scratch:
        options = f"[Q={QUALITY},subsample_mode=on,strip]"
        command = ["vipsthumbnail", "-s", str(job.size), "-o", f"{scratch}/%s.jpg{options}"]
        for at in range(0, len(files), step):
            some = [str(file) for file in files[at : at + step]]
            environment = os.environ | {"VIPS_CONCURRENCY": "1"}
            subprocess.run([*command, *some], check=True, env=environment)  # noqa: S603
        with tarfile.open(job.out / f"{rank}.tar", "w") as tar:
            for file in files:
                tar.add(Path(scratch) / file.name, file.name)


def _pyvips_part(job: Job, rank: int) -> None:
    import pyvips

    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    with tarfile.open(job.out / f"{rank}.tar", "w") as tar:
        for file in job.parts[rank]:
            image = pyvips.Image.thumbnail(str(file), job.size, height=job.size, size="down")
            jpeg = image.jpegsave_buffer(Q=QUALITY, subsample_mode="on", keep="none")
            member = tarfile.TarInfo(file.name)
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))


def raydata(job: Job) -> None:
    """Ray Data: ``read_binary_files``, Pillow in a ``map``, ``write_webdataset``."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    import ray

    ray.init(num_cpus=CORES, include_dashboard=False, logging_level="ERROR")
    files = [str(file) for file in job.files]
    blocks = max(1, -(-job.num // job.shard_size))
    rows = ray.data.read_binary_files(files, include_paths=True, override_num_blocks=blocks)
    rows.map(partial(_ray_row, job.size)).write_webdataset(str(job.out), encoder=None)
    ray.shutdown()


def _ray_row(size: int, row: dict[str, Any]) -> dict[str, Any]:
    return {"__key__": Path(row["path"]).stem, "jpg": pillow_bytes(row["bytes"], size)}


def pillow_bytes(photograph: bytes, size: int) -> bytes:
    """Draft mode (a decode at 1/2, 1/4 or 1/8), Lanczos, quality 85, 4:2:0."""
    from PIL import Image

    image = Image.open(io.BytesIO(photograph))
    image.draft("RGB", (size, size))
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return out.getvalue()


def _in_processes(job: Job, part: Callable[[Job, int], None]) -> None:
    """``part`` for each hand, in processes that share nothing."""
    with multiprocessing.get_context("spawn").Pool(len(job.parts)) as pool:
        pool.starmap(part, [(job, rank) for rank in range(len(job.parts))], chunksize=1)


PEERS: dict[str, Callable[[Job], None]] = {
    one.__name__: one
    for one in (
        floor,
        ours,
        resize,
        img2dataset,
        litdata,
        mds,
        shardwriter,
        vips,
        raydata,
    )
}


def main() -> None:
    """Do one job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(PEERS))
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("size", type=int)
    parser.add_argument("num", type=int)
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--workers", type=int)
    given = vars(parser.parse_args())
    function = PEERS[given.pop("name")]
    given["out"].mkdir(parents=True, exist_ok=True)
    function(Job(**given))


if __name__ == "__main__":
    main()
