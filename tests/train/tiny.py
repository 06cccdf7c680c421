"""A network of a few hundred weights with the parts of a ResNet that matter to training."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from serengeti_etl.train import model
from serengeti_etl.train.recipe import Recipe, Stage

RECIPE = Recipe(
    model="resnet18",
    stages=(
        Stage(name="small", epochs=2, image_size=(32, 32), batch_size=4, learning_rate=0.02),
        Stage(name="large", epochs=1, image_size=(32, 40), batch_size=3, learning_rate=0.01),
    ),
)
"""Two stages that differ in size and batch; 6 + 6 + 9 steps on the factory's 27 images."""

NUM_STEPS = 21


class TinyNetwork(nn.Module):
    """Convolution, BatchNorm and a last layer named as torchvision names it."""

    def __init__(self, *, weights: None = None) -> None:
        super().__init__()
        assert weights is None
        self.conv1 = nn.Conv2d(3, 8, 5, stride=4, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.fc: nn.Module = nn.Linear(8, 1000)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of each image."""
        features_BFHW = torch.relu(self.bn1(self.conv1(images_BCHW)))
        logits_BC: Tensor = self.fc(features_BFHW.mean(dim=(2, 3)))
        return logits_BC


def install(patch: pytest.MonkeyPatch) -> None:
    """Let ``resnet18`` be the tiny network."""
    networks = SimpleNamespace(resnet18=TinyNetwork)
    patch.setattr(model, "_torchvision_models", lambda: networks)
