"""The recipe of trainings that step slowly, and die as they are told to and when they are told to.

For ``deaths.py``. It takes the place of torchvision's network with one of a few hundred weights, in
which the dying is done; the loop around it is as it is.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from serengeti_etl.train import model
from serengeti_etl.train.recipe import Recipe, Stage

Way = Literal["live", "hang", "nan", "finish"]

STEP_SECONDS = 0.2
"""That a step sleeps."""

BATCH_SIZE = 2
FEW_STEPS, MANY_STEPS = 2000, 1_000_000
"""Of a training that is to finish, and of one that is not."""


@dataclass(kw_only=True, slots=True)
class Fate:
    """What becomes of a training.

    Attributes:
        way: that it ends in, once it is due; ``live`` for one that goes on.
        folder: where ``steps`` says that it steps, a file ``now`` makes it due, and ``died`` will
            hold the time of its end.
        num_steps: taken so far.
    """

    way: Way
    folder: Path
    num_steps: int = 0

    def befall(self, logits_BC: Tensor) -> Tensor:
        """What comes of a step's logits, a little later or never."""
        self.num_steps += 1
        (self.folder / "steps").touch()
        is_due = (self.folder / "now").exists()
        if is_due and self.way == "hang":
            self._note()
            while True:
                time.sleep(3600)
        if not (is_due and self.way == "finish"):  # its last steps need not be slow
            time.sleep(STEP_SECONDS)
        if is_due and self.way == "nan":
            self._note()
            return logits_BC * float("nan")
        if self.way == "finish" and self.num_steps == FEW_STEPS:
            self._note()
        return logits_BC

    def _note(self) -> None:
        if not (self.folder / "died").exists():
            part = self.folder / "died.part"
            part.write_text(repr(time.time()))
            part.rename(self.folder / "died")  # never seen before it is whole


class Mortal(nn.Module):
    """Convolution, BatchNorm and a last layer named as torchvision names it.

    Args:
        fate: of the training.
        weights: none can be had.
    """

    def __init__(self, fate: Fate, *, weights: None = None) -> None:  # noqa: ARG002 - as torchvision's
        super().__init__()
        self._fate = fate
        self.conv1 = nn.Conv2d(3, 8, 5, stride=4, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.fc: nn.Module = nn.Linear(8, 1000)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of each image."""
        features_BFHW = torch.relu(self.bn1(self.conv1(images_BCHW)))
        logits_BC: Tensor = self.fc(features_BFHW.mean(dim=(2, 3)))
        return self._fate.befall(logits_BC) if self.training else logits_BC


def mortal_recipe(way: Way, folder: str) -> Recipe:
    """The recipe of a training with a ``Fate``; ``resnet18`` is then its network."""
    torch.set_num_threads(1)
    networks: Any = model._torchvision_models()  # noqa: SLF001 - the one door to them
    networks.resnet18 = partial(Mortal, Fate(way=way, folder=Path(folder)))
    num_steps = FEW_STEPS if way == "finish" else MANY_STEPS
    stage = Stage(
        name="slow",
        num_samples=BATCH_SIZE * num_steps,
        image_size=(32, 32),
        batch_size=BATCH_SIZE,
    )
    return Recipe(model="resnet18", stages=(stage,))
