"""What is cut off the bottom of photographs reaches no network: in no road that there is."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serengeti_etl.config import ResizeSettings
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate.run import evaluate_run
from serengeti_etl.load.augment import Augment, View, draw_views, kept_heights, whole_views
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.decode import decode_into, decode_onto
from serengeti_etl.load.device import Output, prepare
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.predict.photographs import Source
from serengeti_etl.predict.read_model import read_model
from serengeti_etl.predict.run import predict_photographs
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.storage import Store
from serengeti_etl.submit.model_folder import write_model_folder
from serengeti_etl.submit.package import write_submission
from serengeti_etl.submit.runtime import run_submission
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.recipe import Recipe
from serengeti_etl.train.settings import TrainSettings
from tests.dataset_factory import CLASSES, make_dataset
from tests.dataset_factory import Recipe as DatasetRecipe
from tests.model_factory import write_model
from tests.pictures import decibels, jpeg_of, picture, pillow, pillow_view
from tests.train import tiny

CROP = 0.2
"""Of 48 rows it leaves 38: the banner is the last 8."""
BANNERS = (0, 255)
SETTINGS = LoaderSettings(image_size=(24, 32), num_threads=1, crop_bottom=CROP)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Two that differ in nothing but their banners. Read only."""
    folder = tmp_path_factory.mktemp("banners")
    return [make_dataset(str(folder / f"{b}"), DatasetRecipe(banner=b)) for b in BANNERS]


def images_of(dataset: Dataset, settings: LoaderSettings) -> torch.Tensor:
    """All images of an epoch of train, as the network gets them."""

    def finished(batches: Iterable[Batch]) -> Iterable[torch.Tensor]:
        for batch in batches:
            if settings.resize_on == "cpu":
                yield batch.images_BCHW.clone()
            else:
                output = Output(image_size=settings.image_size)
                yield prepare(batch.images_BCHW, batch.sizes_N2, batch.views, output)

    with ShardLoader(dataset, split="train", batch_size=4, settings=settings) as loader:
        return torch.cat(list(finished(loader)))


@pytest.mark.parametrize("resize_on", ["cpu", "device"])
@pytest.mark.parametrize("augment", [None, Augment(contrast=0.5)], ids=["whole", "augmented"])
@pytest.mark.parametrize("size", [(24, 32), (38, 64), (8, 10)])
def test_no_banner_comes_out_of_a_loader(
    datasets: list[Dataset], resize_on: Any, augment: Augment | None, size: tuple[int, int]
) -> None:
    """Black or white, nothing of a loader's images changes; without the crop everything does."""
    cropped = dataclasses.replace(SETTINGS, resize_on=resize_on, augment=augment, image_size=size)
    black, white = (images_of(one, cropped) for one in datasets)
    assert torch.equal(black, white)
    whole = dataclasses.replace(cropped, crop_bottom=0.0)
    black, white = (images_of(one, whole).float() for one in datasets)
    assert ((black - white).abs().amax(dim=(1, 2, 3)) > 20).float().mean() > 0.8


@given(
    first=st.integers(0, 10**6),
    size=st.sampled_from([(80, 100), (96, 128), (31, 42), (120, 160), (12, 16)]),
    share=st.sampled_from([0.01, 0.06, 0.25, 0.5]),
)
@settings(max_examples=30, deadline=None)
def test_both_roads_cut_off_the_same(first: int, size: tuple[int, int], share: float) -> None:
    """Crops, flips and light on the CPU and in a batch on the device, and both are Pillow's."""
    shapes = [(96, 128), (72, 128), (96, 72), (50, 64)]
    jpegs = [jpeg_of(picture(*one, seed=at), subsampling=0) for at, one in enumerate(shapes)]
    drawn = draw_views(Augment(min_area=0.5), (0, 0), np.arange(first, first + 3))
    canvases = np.zeros((4, 96, 128, 3), dtype=np.uint8)
    sizes_B2 = np.array([decode_onto(j, c) for j, c in zip(jpegs, canvases, strict=True)])
    for plain in (drawn, whole_views(4)):
        views = dataclasses.replace(plain, crop_bottom=share)
        images_BCHW = torch.from_numpy(canvases).permute(0, 3, 1, 2)[: len(views)]
        made_BCHW = prepare(images_BCHW, sizes_B2[: len(views)], views, Output(image_size=size))
        boxes_B4 = views.boxes(sizes_B2[: len(views)])
        for jpeg, view, shape, box, made in zip(
            jpegs, views, shapes, boxes_B4.tolist(), made_BCHW, strict=False
        ):
            assert view.crop_bottom == share
            assert view.box(*shape) == tuple(box)
            assert box[0] + box[2] <= shape[0] * (1 - share)
            out_HWC = np.empty((*size, 3), dtype=np.uint8)
            decode_into(jpeg, view, out_HWC)
            by_device_HWC = made.permute(1, 2, 0).numpy()
            assert decibels(by_device_HWC, out_HWC) > 30
            wanted_HWC = pillow_view(pillow(jpeg), tuple(box), size)
            assert decibels(by_device_HWC, wanted_HWC[:, ::-1] if view.flip else wanted_HWC) > 45


@pytest.mark.parametrize("share", [0.0625, 0.25])
def test_a_decode_at_a_smaller_scale_cuts_off_the_same(share: float) -> None:
    """Rows left that a quarter does not divide are decoded at half the size, not lost."""
    jpeg, view = jpeg_of(picture(96, 128), subsampling=0), View(crop_bottom=share)
    out_HWC = np.empty((12, 16, 3), dtype=np.uint8)
    decode_into(jpeg, view, out_HWC)
    expected_HWC = pillow_view(pillow(jpeg), view.box(96, 128), (12, 16))
    assert decibels(out_HWC, expected_HWC) > 45


def test_rows_left_are_even_and_few_enough() -> None:
    """By hand; odd heights stay odd only where nothing is cut off."""
    heights_B = np.array([1, 2, 3, 48, 97, 384])
    assert kept_heights(heights_B, 0.0).tolist() == [1, 2, 3, 48, 97, 384]
    assert kept_heights(heights_B, 0.0625).tolist() == [1, 1, 2, 44, 90, 360]
    assert kept_heights(heights_B, 0.5).tolist() == [1, 1, 1, 24, 48, 192]
    assert View(crop_bottom=0.0625).box(97, 31) == (0, 0, 90, 31)


@pytest.mark.parametrize("share", [-0.01, 0.51, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    """By the loader, the recipe and the served model."""
    for refuses in (LoaderSettings, Recipe):
        with pytest.raises(ConfigError, match=r"crop_bottom is .* from 0 to 0\.5"):
            refuses(crop_bottom=share)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny network in the place of ResNet18."""
    tiny.install(monkeypatch)


@pytest.mark.parametrize("resize_on", ["cpu", "device"])
def test_training_validation_and_evaluation_see_no_banner(
    datasets: list[Dataset],
    resize_on: Any,
    network: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    """Weights, scores and predictions are those of other banners to the bit; not without it."""
    where = TrainSettings(device="cpu", num_threads=1, resize_on=resize_on)
    for share, is_same in ((CROP, True), (0.0, False)):
        recipe = dataclasses.replace(tiny.RECIPE, crop_bottom=share)
        runs = [str(tmp_path / f"{share}-{banner}") for banner in BANNERS]
        scores = [
            train(dataset.store.url, run, recipe, settings=where).score
            for dataset, run in zip(datasets, runs, strict=True)
        ]
        files = [ModelFile.read(Store(url=run)) for run in runs]
        assert files[0].crop_bottom == share
        names = files[0].state_dict
        equal = [torch.equal(files[0].state_dict[n], files[1].state_dict[n]) for n in names]
        assert all(equal) == (scores[0] == scores[1]) == is_same
        if is_same:
            for dataset, run in zip(datasets, runs, strict=True):
                evaluate_run(run, dataset.store.url, settings=where)
            tables = [pq.read_table(f"{run}/predictions-images.parquet") for run in runs]
            assert tables[0].equals(tables[1])
            evaluation = json.loads(Path(f"{runs[0]}/evaluation.json").read_text())
            assert evaluation["score"] == pytest.approx(scores[0], abs=1e-6)


def test_evaluation_needs_the_crop_of_its_run(datasets: list[Dataset], tmp_path: Path) -> None:
    """The same weights without it predict other things, and see the banners."""
    where = TrainSettings(device="cpu", num_threads=1)
    tables = {}
    for share in (CROP, 0.0):
        for banner, dataset in zip(BANNERS, datasets, strict=True):
            run = write_model(tmp_path / f"{share}", CLASSES, ResizeSettings(), 0.0, share)
            evaluate_run(run, dataset.store.url, settings=where)
            tables[share, banner] = pq.read_table(f"{run}/predictions-images.parquet")
    assert tables[CROP, 0].equals(tables[CROP, 255])
    assert not tables[0.0, 0].equals(tables[0.0, 255])
    assert not tables[0.0, 0].equals(tables[CROP, 0])


def test_a_run_goes_on_with_its_own_crop_only(
    datasets: list[Dataset],
    network: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    """Another share is refused by name; a run from before there was one counts as 0."""
    url, run, where = datasets[0].store.url, str(tmp_path), TrainSettings(device="cpu")
    train(url, run, tiny.RECIPE, settings=where)
    cropped = dataclasses.replace(tiny.RECIPE, crop_bottom=CROP)
    message = r"recipe\.crop_bottom was 0\.0 and is now 0\.2"
    with pytest.raises(ConfigError, match=message):
        train(url, run, cropped, settings=where)
    store = Store(url=run)
    value = store.read_json("run.json")
    del value["recipe"]["crop_bottom"]
    store.write_json("run.json", value)
    assert train(url, run, tiny.RECIPE, settings=where).num_steps == tiny.NUM_STEPS
    with pytest.raises(ConfigError, match=message):
        train(url, run, cropped, settings=where)


def test_a_model_of_before_crops_nothing(network: None, tmp_path: Path) -> None:  # noqa: ARG001
    """``model.pt`` and ``config.json`` without the field are read as 0."""
    run = write_model(tmp_path / "run", CLASSES, ResizeSettings(), 0.0, CROP)
    content = torch.load(f"{run}/model.pt", weights_only=True)
    assert content.pop("crop_bottom") == CROP
    torch.save(content, f"{run}/model.pt")
    assert ModelFile.read(Store(url=run)).crop_bottom == 0
    write_model_folder(run, str(tmp_path / "model"))
    config = Store(url=str(tmp_path / "model")).read_json("config.json")
    assert config.pop("crop_bottom") == 0
    Store(url=str(tmp_path / "model")).write_json("config.json", config)
    assert read_model(str(tmp_path / "model"), torch.device("cpu")).config.crop_bottom == 0


SHARE = 0.35
"""Of 72 rows it leaves 46; a banner of the last quarter ends in JPEG's blocks at row 48."""


@pytest.fixture(scope="module")
def originals(season: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of drawn photographs with a banner each, black and white. Read only."""
    drawn = sorted(one for one in (season / "images").rglob("*.JPG") if one.stat().st_size > 4000)
    folders = []
    for banner in BANNERS:
        folder = tmp_path_factory.mktemp(f"banner{banner}")
        folders.append(folder)
        for at, path in enumerate(drawn[:6]):
            pixels_HWC = np.array(Image.open(path).convert("RGB").resize((256, 192)))
            pixels_HWC[-48:] = banner
            Image.fromarray(pixels_HWC).save(folder / f"{at}.jpg", quality=95, subsampling=0)
    return folders


def served(model: str, folder: Path, output: Path) -> bytes:
    """The table of photographs."""
    settings = PredictSettings(output=str(output), device="cpu")
    assert not predict_photographs(model, Source(url=str(folder)), settings).failures
    return output.read_bytes()


def submitted(model: str, folder: Path, runtime: Path) -> bytes:
    """The submission over the photographs, each a sequence."""
    write_submission(model, str(runtime / "submission.zip"))
    shutil.unpack_archive(runtime / "submission.zip", runtime)
    shutil.copytree(folder, runtime / "data")
    names = sorted(path.name for path in folder.iterdir())
    tables: dict[str, list[list[Any]]] = {
        "test_metadata.csv": [["seq_id", "file_name"], *([name, name] for name in names)],
        "submission_format.csv": [["seq_id", *CLASSES], *([name, 0, 0, 0] for name in names)],
    }
    for name, rows in tables.items():
        with (runtime / "data" / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    run_submission(runtime)
    return (runtime / "submission.csv").read_bytes()


@pytest.mark.parametrize("kind", ["predict", "folder", "submit"])
def test_what_is_served_sees_no_banner(originals: list[Path], kind: str, tmp_path: Path) -> None:
    """Predictions of originals, by a run, a model folder or a submission: equal to the byte."""
    resize, found = ResizeSettings(size="96"), {}
    for share in (SHARE, 0.0):
        model = write_model(tmp_path / f"run{share}", CLASSES, resize, 0.0, share)
        if kind == "folder":
            write_model_folder(model, str(tmp_path / f"model{share}"))
            model = str(tmp_path / f"model{share}")
        for banner, folder in zip(BANNERS, originals, strict=True):
            place = tmp_path / f"{share}-{banner}"
            place.mkdir()
            found[share, banner] = (
                submitted(model, folder, place)
                if kind == "submit"
                else served(model, folder, place / "images.csv")
            )
    assert found[SHARE, 0] == found[SHARE, 255]
    assert found[0.0, 0] != found[0.0, 255]
