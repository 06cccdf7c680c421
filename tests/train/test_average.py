"""The moving average of weights against its recursion."""

import pytest
import torch

from serengeti_etl.train.average import WeightAverage
from serengeti_etl.train.model import Classifier
from tests.train import tiny


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """A tiny network."""
    tiny.install(monkeypatch)
    torch.manual_seed(0)
    return Classifier("resnet18", 2)


def step(model: Classifier, number: int) -> None:
    """Change weights and running statistics as a step would."""
    torch.manual_seed(number)
    with torch.no_grad():
        for name in ("conv1.weight", "bn1.running_mean"):
            tensor = model.network.state_dict()[name]
            tensor.add_(torch.randn(tensor.shape))


def test_the_average_follows_its_recursion(model: Classifier) -> None:
    """The first weights are taken; then 2/11, 3/12 and so on are kept, up to the decay."""
    average = WeightAverage(model, 0.25)
    expected: dict[str, torch.Tensor] = {}
    for number in range(6):
        step(model, number)
        average.update(model)
        decay = 0.0 if number == 0 else min(0.25, (1 + number) / (10 + number))
        for name in ("conv1.weight", "bn1.running_mean"):
            tensor = model.network.state_dict()[name]
            old = expected.get(name, torch.zeros_like(tensor))
            expected[name] = decay * old + (1 - decay) * tensor
    got = average.model.network.state_dict()
    for name, tensor in expected.items():
        assert torch.allclose(got[name], tensor, atol=1e-6), name


def test_a_saved_average_goes_on_to_the_same(model: Classifier) -> None:
    """Saved after two steps and loaded into another: the same after two more, bit for bit."""
    average, other = WeightAverage(model, 0.9), WeightAverage(model, 0.9)
    for number in range(4):
        if number == 2:
            state = average.state()
            other.load_state(
                {**state, "weights": {k: v.clone() for k, v in state["weights"].items()}}
            )
        step(model, number)
        average.update(model)
        if number >= 2:
            other.update(model)
    left, right = average.model.network.state_dict(), other.model.network.state_dict()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())
