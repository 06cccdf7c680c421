"""What contestants wrote, beside the originals; versions; the plot. Runs in the peers' environment.

    python benchmarks/peer_quality.py quality NAME IN_FOLDER OUT_FOLDER SIZE NUM_IMAGES
    python benchmarks/peer_quality.py versions
    python benchmarks/peer_quality.py plot RESULTS.json PLOT.png

``quality`` prints one line of JSON: how many outputs there are and, over the same sample of each
contestant's, mean bytes, longest sides and the mean SSIM of Y against a full decode and Lanczos by
Pillow before any coding.
"""
# mypy: disable-error-code="import-not-found,import-untyped"

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NUM_COMPARED = 24
NUM_COLOURS = 32
"""Of the plot, so that it is small enough for git."""
OURS = ("ours", "crop", "device")
"""Contestants in our colour."""
PACKAGES = (
    "img2dataset",
    "litdata",
    "mosaicml-streaming",
    "webdataset",
    "ray",
    "pillow",
    "opencv-python-headless",
    "pyvips",
    "pyvips-binary",
    "torch",
)

Outputs = Iterator[tuple[str, bytes]]


def compared(num: int) -> range:
    """Which of ``num`` photographs are compared."""
    return range(0, num, max(1, num // NUM_COMPARED))


def from_tars(folder: Path) -> Outputs:
    """Stem of the original and JPEG of each sample; img2dataset keeps the stem in its JSON."""
    for path in sorted(folder.rglob("*.tar")):
        stems, jpegs = {}, {}
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                content = file.read() if file else b""
                key, _, ending = member.name.rpartition(".")
                if ending == "jpg":
                    jpegs[key] = content
                elif ending == "json":
                    stems[key] = Path(json.loads(content).get("url") or key).stem
        for key, jpeg in jpegs.items():
            yield stems.get(key, key), jpeg


def from_files(folder: Path) -> Outputs:
    """The JPEGs of a contestant that works in memory."""
    for path in sorted(folder.glob("*.jpg")):
        yield path.stem, path.read_bytes()


def from_litdata(folder: Path) -> Outputs:
    """The samples by LitData's own reader."""
    from litdata import StreamingDataset

    for sample in StreamingDataset(str(folder)):
        yield sample["key"], sample["jpg"]


def mosaic() -> Any:
    """MosaicML's ``streaming``, whatever torchvision stands beside it.

    The torchvision of PyPI, made for GPUs, cannot load its operators beside a PyTorch for CPUs;
    ``streaming`` imports it for its own data sets only.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
    import streaming

    return streaming


def from_mds(folder: Path) -> Outputs:
    """The samples by MosaicML's own reader, one folder per writer."""
    library = mosaic()
    for part in sorted(folder.iterdir()):
        data = library.LocalDataset(local=str(part))
        for at in range(data.num_samples):
            yield data[at]["key"], data[at]["jpg"]


READERS: dict[str, Callable[[Path], Outputs]] = {
    "floor": from_files,
    "resize": from_files,
    "litdata": from_litdata,
    "mds": from_mds,
}


def quality(name: str, source: Path, out: Path, num: int) -> dict[str, Any]:
    """See the module."""
    wanted = {f"{at:06d}" for at in compared(num)}
    count, kept = 0, {}
    for stem, jpeg in READERS.get(name, from_tars)(out):
        count += 1
        if stem in wanted:
            kept[stem] = jpeg
    found = [_compare(jpeg, source / "images" / f"{stem}.jpg") for stem, jpeg in kept.items()]
    return {
        "outputs": count,
        "compared": len(kept),
        "bytes": sum(map(len, kept.values())) / max(1, len(kept)),
        "ssim": sum(one for one, _ in found) / max(1, len(found)),
        "sides": sorted({side for _, side in found}),
    }


def _compare(jpeg: bytes, original: Path) -> tuple[float, int]:
    """SSIM of Y, and the longest side of the output.

    Some contestants turn a photograph upright as its header says and some do not: the reference is
    the better of the two.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(jpeg)) as output, Image.open(original) as full:
        turned = ImageOps.exif_transpose(full)
        stored = full.convert("RGB")
        found = [_ssim(image, output) for image in (stored, turned.convert("RGB"))]
        return max(found), max(output.size)


def _ssim(full: Any, output: Any) -> float:
    """SSIM of Y of ``output`` against ``full``, made as small by Lanczos."""
    from PIL import Image

    from benchmarks.similarity import luma, similarity

    reference = full.resize(output.size, Image.Resampling.LANCZOS)
    return similarity(luma(reference), luma(output))


def versions() -> dict[str, str]:
    """Of each package that takes part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def plot(results: dict[str, Any], path: Path) -> None:
    """Horizontal bars: images a second, and CPU per image, with the range of the rounds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    rows = [row for row in results["rows"] if not row.get("failed")][::-1]
    names = [row["title"] for row in rows]
    colours = ["#d95f02" if row["name"] in OURS else "#7570b3" for row in rows]
    colours = [
        "#999999" if row["name"] == "floor" else colour
        for row, colour in zip(rows, colours, strict=True)
    ]
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.55 * len(rows) + 1.8), sharey=True)
    for axis, key, label in zip(
        axes, ("rate", "cpu_ms"), ("images/s, more is better", "CPU ms/image, less is better"),
        strict=True,
    ):  # fmt: skip
        middle = [row[key]["median"] for row in rows]
        below = [row[key]["median"] - row[key]["min"] for row in rows]
        above = [row[key]["max"] - row[key]["median"] for row in rows]
        bars = axis.barh(names, middle, xerr=[below, above], color=colours, capsize=3)
        axis.bar_label(bars, fmt="%.1f", padding=6)
        axis.margins(x=0.15)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    facts = results["facts"]
    caption = f"{results['num']} photographs to {results.get('size')} px, quality 85"
    figure.suptitle(
        f"{results.get('caption', caption)}; "
        f"{facts['cpu']}, {facts['cores']} cores; {facts['date'][:10]}, commit {facts['commit']}"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    Image.open(path).quantize(NUM_COLOURS).save(path, optimize=True)


def main() -> None:
    """Do what the first argument says."""
    what, *given = sys.argv[1:]
    if what == "quality":
        name, source, out, _, num = given
        print(json.dumps(quality(name, Path(source), Path(out), int(num))))
    elif what == "versions":
        print(json.dumps(versions()))
    else:
        plot(json.loads(Path(given[0]).read_text()), Path(given[1]))


if __name__ == "__main__":
    main()
