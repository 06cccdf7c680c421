"""Losses against their formulas in float64, one number at a time."""

import math

import pytest
import torch

from serengeti_etl.train.losses import LOSSES
from serengeti_etl.train.recipe import LOSS_NAMES

LOGITS_BC = torch.tensor([[-3.0, 0.5, 4.0], [20.0, -0.1, -20.0]])
TARGETS_BC = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.3, 1.0]])


def bce(p: float, target: float) -> float:
    return -target * math.log(p) - (1 - target) * math.log1p(-p)


def focal(p: float, target: float) -> float:
    error = target * (1 - p) + (1 - target) * p
    return error**2 * bce(p, target)


def asl(p: float, target: float) -> float:
    shifted = max(p - 0.05, 0)
    positive = -math.log(p) * (1 - p)
    return target * positive - (1 - target) * shifted**4 * math.log1p(-shifted)


@pytest.mark.parametrize(("name", "formula"), [("bce", bce), ("focal", focal), ("asl", asl)])
def test_each_loss_is_its_formula(name: str, formula: object) -> None:
    """The mean over images and classes, for mixed targets and extreme logits too."""
    assert callable(formula)
    pairs = zip(LOGITS_BC.flatten().tolist(), TARGETS_BC.flatten().tolist(), strict=True)
    expected = [formula(1 / (1 + math.exp(-logit)), target) for logit, target in pairs]
    got = LOSSES[name](LOGITS_BC, TARGETS_BC)
    assert float(got) == pytest.approx(sum(expected) / 6, rel=1e-5)


def test_every_name_of_a_recipe_has_a_loss() -> None:
    """The names that a recipe may give are those that there are."""
    assert tuple(LOSSES) == LOSS_NAMES


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_gradients_are_numbers_at_any_logit(name: str) -> None:
    """Logits of ±100 give finite gradients."""
    logits_BC = torch.tensor([[-100.0, 100.0, 0.0]] * 2, requires_grad=True)
    loss = LOSSES[name](logits_BC, torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    torch.autograd.backward(loss)
    assert logits_BC.grad is not None
    assert torch.isfinite(logits_BC.grad).all()
