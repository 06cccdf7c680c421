"""One contestant of ``load.py``, in a process of its own: passes, and what they took.

    python benchmarks/load_peers.py NAME SOURCE NUM [--batch 256] [--passes 3] [--cache FOLDER]

``floor``, ``crop`` and ``device`` run in this project's environment; the others in the one that
``load.py`` makes, which does not hold this project. All crop at random (0.65 to 1 of the area, 4:3
kept) to 224x224 px, flip every other photograph and hand out uint8 batches, each with as many
workers or threads as there are cores; ``floor`` only decodes, ``device`` hands out whole
photographs. The crop is reduced with an antialiasing bilinear filter, but by ``crop`` as this
project does, and by SPDL with FFmpeg's. Those that shuffle by a buffer have one of 1,000 samples.

The last line printed is JSON: ``first`` (seconds to the first batch, imports left out) and
``marks``, one for each pass: seconds since the same moment, CPU seconds of this process and all
below it, and samples.
"""
# mypy: disable-error-code="import-not-found,import-untyped,misc,no-any-return,untyped-decorator"

import argparse
import io
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIZE = 224
AREA, ASPECT = (0.65, 1.0), (4 / 3, 4 / 3)
BUFFER = 1000
CORES = os.cpu_count() or 1
_TICKS = os.sysconf("SC_CLK_TCK")
_PPID, _TIMES = 1, slice(11, 15)  # places in stat, counted from the state; times of reaped children


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a contestant is to do.

    Attributes:
        source: folder of all forms, or the url of a dataset.
        num: samples in a pass.
        batch: samples in a batch.
        passes: over all samples.
        cache: folder for shards of a bucket; "" for none.
    """

    source: str
    num: int
    batch: int
    passes: int
    cache: str

    def form(self, name: str) -> str:
        """Folder of one form of the samples."""
        return str(Path(self.source) / name)

    @property
    def files(self) -> list[Path]:
        """One file for each sample."""
        return sorted(Path(self.form("files")).rglob("*.jpg"))

    @property
    def tars(self) -> list[str]:
        """Tars of equal size."""
        return sorted(map(str, Path(self.form("tars")).glob("*.tar")))


Passes = Iterable[Any]
"""Each iteration is one pass, of batches (B, C, H, W) or (B, H, W, C), or of counts of samples."""


# --- What no loader can beat ----------------------------------------------------------------------

CHUNK = 64


class _Floor:
    """Decodes all of them in threads; nothing is read, cropped, copied or kept."""

    def __init__(self, jpegs: Sequence[bytes]) -> None:
        self._jpegs = jpegs

    def __iter__(self) -> Iterator[int]:
        chunks = [self._jpegs[at : at + CHUNK] for at in range(0, len(self._jpegs), CHUNK)]
        with ThreadPoolExecutor(CORES) as pool:
            yield from pool.map(_decode_all, chunks)


def _decode_all(jpegs: Sequence[bytes]) -> int:
    import numpy as np
    import simplejpeg

    # One buffer for all: taking fresh memory for each costs a tenth of the decode.
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpegs[0])
    pixels_HWC = np.empty((height, width, 3), dtype=np.uint8)
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg, "RGB", buffer=pixels_HWC)
    return len(jpegs)


def floor(job: Job) -> Callable[[], Passes]:
    """Bare libjpeg-turbo, by simplejpeg, in one thread per core, from memory."""
    import simplejpeg  # noqa: F401 - before the clock starts

    jpegs = [path.read_bytes() for path in job.files]
    return partial(_Floor, jpegs)


# --- Ours -----------------------------------------------------------------------------------------


def crop(job: Job) -> Callable[[], Passes]:
    """``ShardLoader`` that crops and resizes on the CPU."""
    from benchmarks.load_ours import passes

    return passes(_dataset(job), "cpu", SIZE, job.batch, job.cache)


def device(job: Job) -> Callable[[], Passes]:
    """``ShardLoader`` that decodes whole photographs; crop and resize are the device's."""
    from benchmarks.load_ours import passes

    return passes(_dataset(job), "device", SIZE, job.batch, job.cache)


def _dataset(job: Job) -> str:
    return job.source if "://" in job.source else job.form("dataset")


# --- The others: what they share ------------------------------------------------------------------


def _crop_and_flip() -> Any:
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(SIZE, scale=AREA, ratio=ASPECT, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


class _Torchvision:
    """JPEG bytes to pixels (3, SIZE, SIZE) by torchvision's own decode."""

    def __init__(self) -> None:
        self._transform = _crop_and_flip()

    def __call__(self, jpeg: bytes) -> Any:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        encoded = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return self._transform(decode_jpeg(encoded, mode=ImageReadMode.RGB))


class _Pillow:
    """JPEG bytes to pixels (3, SIZE, SIZE) by Pillow, cropped and resized by Pillow too."""

    def __init__(self) -> None:
        from torchvision.transforms import v2

        self._transform, self._to_tensor = _crop_and_flip(), v2.PILToTensor()

    def __call__(self, jpeg: bytes) -> Any:
        from PIL import Image

        return self._to_tensor(self._transform(Image.open(io.BytesIO(jpeg)).convert("RGB")))


def _loader(data: Any, job: Job, **settings: Any) -> Any:
    """PyTorch's loader with a worker per core, kept from pass to pass."""
    from torch.utils.data import DataLoader

    settings |= {"num_workers": CORES, "persistent_workers": True}
    return DataLoader(data, batch_size=job.batch, **settings)


# --- The others -----------------------------------------------------------------------------------


def wds_pillow(job: Job) -> Callable[[], Passes]:
    """The webdataset library with Pillow."""
    return _webdataset(job, _Pillow())


def wds_torchvision(job: Job) -> Callable[[], Passes]:
    """The webdataset library with torchvision's decode."""
    return _webdataset(job, _Torchvision())


def _webdataset(job: Job, decode: Callable[[bytes], Any]) -> Callable[[], Passes]:
    import webdataset as wds

    def make() -> Passes:
        tars = job.tars
        data = wds.WebDataset(tars, shardshuffle=len(tars), empty_check=False).shuffle(BUFFER)
        return _loader(data.to_tuple("jpg").map_tuple(decode).map(_only), job)

    return make


def _only(sample: tuple[Any, ...]) -> Any:
    return sample[0]


def litdata(job: Job) -> Callable[[], Passes]:
    """LitData's StreamingDataset and StreamingDataLoader with torchvision's decode."""
    from litdata import StreamingDataLoader, StreamingDataset

    decode = _Torchvision()

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            return decode(super().__getitem__(index)["jpg"])

    def make() -> Passes:
        data = Decoded(job.form("litdata"), shuffle=True)
        return StreamingDataLoader(
            data, batch_size=job.batch, num_workers=CORES, persistent_workers=True
        )

    return make


def mds(job: Job) -> Callable[[], Passes]:
    """MosaicML's StreamingDataset with torchvision's decode."""
    from streaming import StreamingDataset

    decode = _Torchvision()

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            return decode(super().__getitem__(index)["jpg"])

    def make() -> Passes:
        data = Decoded(local=job.form("mds"), shuffle=True, batch_size=job.batch)
        return _loader(data, job)

    return make


class _Spdl:
    """SPDL's pipeline: a thread per core, each with whole batches."""

    def __init__(self, files: list[Path], batch: int) -> None:
        self._files, self._batch = files, batch

    def __iter__(self) -> Iterator[Any]:
        from spdl.pipeline import PipelineBuilder

        files = random.sample(self._files, len(self._files))
        builder = PipelineBuilder().add_source(files).aggregate(self._batch)
        pipeline = builder.pipe(_spdl_batch, concurrency=CORES).add_sink(2 * CORES)
        built = pipeline.build(num_threads=CORES)
        with built.auto_stop():
            yield from built.get_iterator()


def _spdl_batch(files: list[Path]) -> Any:
    """FFmpeg decodes, crops, resizes, flips and turns to RGB in one filter chain."""
    import spdl.io

    one = spdl.io.decode_config(decoder_options={"threads": "1"})
    frames = []
    for file in files:
        packets = spdl.io.demux_image(file.read_bytes())
        share, left, top = random.uniform(*AREA) ** 0.5, random.random(), random.random()  # noqa: S311
        x, y = f"(in_w-out_w)*{left}", f"(in_h-out_h)*{top}"
        chain = [f"crop=in_w*{share}:in_h*{share}:{x}:{y}"]
        chain.append(f"scale={SIZE}:{SIZE}:flags=bilinear")
        chain += ["hflip"] if random.random() < 0.5 else []  # noqa: PLR2004, S311
        chain.append("format=pix_fmts=rgb24")
        frames.append(spdl.io.decode_packets(packets, ",".join(chain), one))
    return spdl.io.to_torch(spdl.io.convert_frames(frames))


def spdl(job: Job) -> Callable[[], Passes]:
    """SPDL's threads and its FFmpeg decoder and filters."""
    import spdl.pipeline  # noqa: F401 - before the clock starts

    files = job.files
    _spdl_batch(files[:1])  # its pipeline hides faults, such as FFmpeg's absence, behind no batch
    return partial(_Spdl, files, job.batch)


def imagefolder(job: Job) -> Callable[[], Passes]:
    """ImageFolder of torchvision, with torchvision's decode."""
    from torchvision.datasets import ImageFolder

    decode = _Torchvision()

    def read(path: str) -> Any:
        return decode(Path(path).read_bytes())

    class Images(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0]

    return lambda: _loader(Images(job.form("files"), loader=read), job, shuffle=True)


class _Several:
    """Passes of ``num_steps`` batches over something that never ends."""

    def __init__(self, endless: Iterable[Any], num_steps: int) -> None:
        self._batches, self._num_steps = iter(endless), num_steps

    def __iter__(self) -> Iterator[Any]:
        return islice(self._batches, self._num_steps)


def energon(job: Job) -> Callable[[], Passes]:
    """Megatron-Energon with torchvision's decode in its task encoder."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_loader,
        get_train_dataset,
        stateless,
    )

    decode = _Torchvision()

    @stateless
    def cook(sample: dict[str, Any]) -> Any:
        return decode(sample["jpg"])

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = (Cooker(cook),)

        def batch(self, samples: list[Any]) -> Any:
            import torch

            return torch.stack(samples)

    def make() -> Passes:
        config = WorkerConfig(rank=0, world_size=1, num_workers=CORES)
        settings: dict[str, Any] = {"batch_size": job.batch, "shuffle_buffer_size": BUFFER}
        data = get_train_dataset(
            job.form("energon"),
            worker_config=config,
            task_encoder=Encoder(),
            max_samples_per_sequence=None,
            **settings,
        )
        return _Several(get_loader(data), job.num // job.batch)

    return make


def hf(job: Job) -> Callable[[], Passes]:
    """Hugging Face datasets, mapped Arrow files, with torchvision's decode."""
    from datasets import load_from_disk

    decode = _Torchvision()

    def transform(rows: dict[str, list[bytes]]) -> dict[str, list[Any]]:
        return {"jpg": [decode(jpeg) for jpeg in rows["jpg"]]}

    def make() -> Passes:
        data = load_from_disk(job.form("hf")).with_transform(transform)
        return _loader(data, job, shuffle=True, collate_fn=_stacked)

    return make


def _stacked(samples: list[dict[str, Any]]) -> Any:
    import torch

    return torch.stack([sample["jpg"] for sample in samples])


class _Dali:
    """Runs of a DALI pipeline."""

    def __init__(self, pipe: Any, num_steps: int) -> None:
        self._pipe, self._num_steps = pipe, num_steps

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._num_steps):
            (images,) = self._pipe.run()
            yield images.as_array()


def dali(job: Job) -> Callable[[], Passes]:
    """NVIDIA DALI on the CPU: its decode of the crop only, its resize."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=job.batch, num_threads=CORES, device_id=None)
    def images() -> Any:
        files = fn.readers.file(file_root=job.form("files"), random_shuffle=True)
        area, aspect = list(AREA), list(ASPECT)
        pixels = fn.decoders.image_random_crop(
            files[0], device="cpu", random_area=area, random_aspect_ratio=aspect
        )
        resized = fn.resize(
            pixels, resize_x=SIZE, resize_y=SIZE, interp_type=types.INTERP_LINEAR, antialias=True
        )
        return fn.flip(resized, horizontal=fn.random.coin_flip())

    def make() -> Passes:
        pipe = images()
        pipe.build()
        return _Dali(pipe, job.num // job.batch)

    return make


def ffcv(job: Job) -> Callable[[], Passes]:
    """FFCV, which stands here to say why it does not run."""
    del job
    try:
        import ffcv as library  # noqa: F401
    except ImportError as error:
        reason = "not there: on the registry as source only; needs a compiler, OpenCV, turbojpeg"
        raise SystemExit(reason) from error
    raise SystemExit("not there: its own format is not made here")


# --- The forms ------------------------------------------------------------------------------------


def _make_litdata(folder: Path, files: list[Path]) -> None:
    from litdata import optimize

    optimize(
        fn=_litdata_one,
        inputs=list(map(str, files)),
        output_dir=str(folder / "litdata"),
        num_workers=1,
        chunk_bytes="16MB",
        verbose=False,
    )


def _litdata_one(file: str) -> dict[str, Any]:
    return {"jpg": Path(file).read_bytes()}


def _make_mds(folder: Path, files: list[Path]) -> None:
    from streaming import MDSWriter

    out = str(folder / "mds")
    with MDSWriter(out=out, columns={"jpg": "bytes"}, size_limit="16mb") as writer:
        for file in files:
            writer.write({"jpg": file.read_bytes()})


def _make_energon(folder: Path, files: list[Path]) -> None:
    """Its index beside the tars that are there."""
    del files
    from click.testing import CliRunner
    from megatron.energon.tools.prepare import command

    given = [str(folder / "energon"), "--non-interactive", "--split-ratio", "1,0,0"]
    ended = CliRunner().invoke(command, [*given, "--sample-type", "CrudeWebdataset"])
    if ended.exit_code:
        raise SystemExit(f"Error: energon prepare: {ended.output.strip()[-200:]}")


def _make_spdl(folder: Path, files: list[Path]) -> None:
    """FFmpeg's libraries under their own names, which SPDL looks for: those that PyAV brings."""
    del files
    import av

    for library in (Path(av.__file__).parents[1] / "av.libs").iterdir():
        plain = re.sub(r"-[0-9a-f]{8}(\.so\.\d+).*", r"\1", library.name)
        target = folder / "spdl" / library.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(library, target)
        target.with_name(plain).symlink_to(target.name)


def _make_hf(folder: Path, files: list[Path]) -> None:
    from datasets import Dataset, Features, Value

    def rows() -> Iterator[dict[str, bytes]]:
        for file in files:
            yield {"jpg": file.read_bytes()}

    features, cache = Features({"jpg": Value("binary")}), str(folder / "hf-cache")
    data = Dataset.from_generator(rows, features=features, cache_dir=cache)
    data.save_to_disk(str(folder / "hf"))


FORMS: dict[str, Callable[[Path, list[Path]], None]] = {
    "litdata": _make_litdata,
    "mds": _make_mds,
    "energon": _make_energon,
    "spdl": _make_spdl,
    "hf": _make_hf,
}


# --- The clock ------------------------------------------------------------------------------------


def tree_cpu() -> float:
    """CPU seconds of this process, of all below it and of those of them that have ended."""
    times: dict[int, float] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            parents[int(entry.name)] = int(stat[_PPID])
            times[int(entry.name)] = sum(map(int, stat[_TIMES])) / _TICKS
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(times[pid] for pid in below)


def drive(make: Callable[[], Passes], num_passes: int) -> dict[str, Any]:
    """Time to the first batch, and a mark at the end of each pass."""
    started, first = time.perf_counter(), 0.0
    shapes: set[tuple[int, ...]] = set()
    marks = [[0.0, tree_cpu(), 0]]
    passes = make()
    for _ in range(num_passes):
        num = 0
        for images in passes:
            first = first or time.perf_counter() - started
            if isinstance(images, int):
                num += images
                continue
            _require_bytes(images)
            shapes.add(tuple(images.shape[1:]))
            num += len(images)
        marks.append([time.perf_counter() - started, tree_cpu(), num])
    return {"first": first, "marks": marks, "shapes": sorted(map(list, shapes))}


def _require_bytes(images: Any) -> None:
    if "uint8" not in str(images.dtype):
        raise SystemExit(f"Error: batches are of {images.dtype}, not uint8")


PEERS: dict[str, Callable[[Job], Callable[[], Passes]]] = {
    one.__name__: one
    for one in (
        floor,
        crop,
        device,
        wds_torchvision,
        wds_pillow,
        litdata,
        mds,
        spdl,
        imagefolder,
        energon,
        hf,
        dali,
        ffcv,
    )
}
PACKAGES = (
    "torch",
    "torchvision",
    "pillow",
    "simplejpeg",
    "webdataset",
    "litdata",
    "mosaicml-streaming",
    "spdl",
    "av",
    "megatron-energon",
    "datasets",
    "nvidia-dali-cuda120",
    "ffcv",
)


def versions() -> dict[str, str]:
    """Of each package that takes part."""
    from importlib.metadata import distributions

    known = {one.name.lower(): one.version for one in distributions()}
    return {name: known.get(name, "not installed") for name in PACKAGES}


def main() -> None:
    """Do one job, make one form, or tell versions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[*PEERS, *(f"make-{name}" for name in FORMS), "versions"])
    parser.add_argument("source", nargs="?", default="")
    parser.add_argument("num", type=int, nargs="?", default=0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--cache", default="")
    given = vars(parser.parse_args())
    name = given.pop("name")
    job = Job(**given)
    if name == "versions":
        print(json.dumps(versions()))
    elif name in PEERS:
        print(json.dumps(drive(PEERS[name](job), job.passes)))
    else:
        FORMS[name.removeprefix("make-")](Path(job.source), job.files)


if __name__ == "__main__":
    main()
