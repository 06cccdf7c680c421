"""Recipes: refusals and the shape of the learning rate."""

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.errors import ConfigError
from serengeti_etl.train.recipe import Recipe, Stage, one_cycle

PIPELINES = Path(__file__).parents[2] / "pipelines"


def recipe_of(name: str) -> Recipe:
    """The recipe in a file of ``pipelines/``."""
    spec = importlib.util.spec_from_file_location(name, PIPELINES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = module.recipe
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 0}, "epochs of stage 'x' is 0"),
        ({"image_size": (16, 64)}, "image_size"),
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"trainable": "tail"}, "trainable"),
        ({"backbone_rate": 1.5}, "backbone_rate"),
        ({"num_samples": 100, "batch_size": 101}, "num_samples"),
        ({"mixup": -0.1}, "mixup"),
    ],
)
def test_impossible_stages_are_refused(values: dict[str, Any], named: str) -> None:
    """Nonsense is refused when the stage is built, by the field's name."""
    with pytest.raises(ConfigError, match=named):
        Stage(**{"name": "x", "epochs": 1, **values})


def test_impossible_recipes_are_refused() -> None:
    """Unknown networks, and a frozen backbone of random weights alone, are refused."""
    with pytest.raises(ConfigError, match="model is 'vgg'"):
        Recipe(model="vgg")
    with pytest.raises(ConfigError, match="stages"):
        Recipe(stages=(Stage(name="head", epochs=1, trainable="head"),))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"empty_weight": 0.0}, "empty_weight is 0.0"),
        ({"average": 1.0}, "average is 1.0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm"),
        ({"model": "timm:"}, "model is 'timm:'"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], named: str) -> None:
    """Nonsense is refused when the recipe is built, by the field's name."""
    with pytest.raises(ConfigError, match=named):
        Recipe(**values)


def test_a_stage_says_only_what_changes() -> None:
    """A stage after another one keeps all that it does not name; a misspelt change is refused."""
    first = Stage(name="first", num_samples=1000, image_size=(96, 128), trainable="layer4")
    second = first.then("second", batch_size=7, augment=None)
    assert (second.name, second.batch_size, second.augment) == ("second", 7, None)
    assert (second.num_samples, second.image_size) == (1000, (96, 128))
    assert second.trainable == "layer4"
    with pytest.raises(ConfigError, match="stage 'third' is 'batchsize'"):
        second.then("third", batchsize=7)


def test_a_stage_lasts_epochs_or_samples() -> None:
    """Steps are those of whole batches; a part of an epoch counts as one that is begun."""
    whole = Stage(name="whole", epochs=3, batch_size=10)
    assert (whole.num_steps(109), whole.num_epochs(109)) == (30, 3)
    part = whole.then("part", num_samples=257)
    assert (part.num_steps(109), part.num_epochs(109)) == (25, 3)


def test_the_default_freezes_then_unfreezes() -> None:
    """ResNet50, head first, then all; from random weights the head stage is left out."""
    tuned = Recipe(weights="resnet50.pth")
    assert tuned.model == "resnet50"
    assert [stage.trainable for stage in tuned.active_stages] == ["head", "all", "all"]
    assert [stage.trainable for stage in Recipe().active_stages] == ["all", "all"]
    assert json.loads(json.dumps(tuned.settings())) == tuned.settings()


def test_the_rate_rises_for_a_quarter_and_falls_to_almost_nothing() -> None:
    """One cycle: 1/25 at the start, 1 at a quarter, 1e-4 at the end, without jumps."""
    assert one_cycle(0) == pytest.approx(1 / 25)
    assert one_cycle(0.25) == pytest.approx(1)
    assert one_cycle(1) == pytest.approx(1e-4)
    rates = [one_cycle(step / 1000) for step in range(1001)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.01


def test_recipe_files_are_valid() -> None:
    """The recipes that come with the package build; the story's has its three stages."""
    assert [stage.name for stage in recipe_of("train_resnet50").stages] == ["head", "all", "large"]
    assert recipe_of("train_small").model == "resnet18"
