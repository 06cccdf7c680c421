"""Predictions of photographs together with their mirror images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from serengeti_etl.train.model import Classifier, predict
from tests.train import tiny


def test_a_mirrored_prediction_is_of_the_mean_of_both_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left and right swapped, not upside down; and the mirror image predicts the same."""
    tiny.install(monkeypatch)
    torch.manual_seed(0)
    model = Classifier("resnet18", 3)
    images_BCHW = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)

    def predicted(images: torch.Tensor, *, with_mirror: bool) -> np.ndarray:
        batch = SimpleNamespace(
            images_BCHW=images,
            mask_B=torch.ones(2, dtype=torch.bool),
            targets_BC=torch.zeros(2, 3),
            image_ids=("a", "b"),
            seq_ids=("s", "s"),
        )
        return predict(model, [batch], with_mirror=with_mirror).probabilities_NC  # type: ignore[list-item]

    made = predicted(images_BCHW, with_mirror=True)
    with torch.inference_mode():
        both = (model(images_BCHW) + model(images_BCHW.flip(dims=(3,)))) / 2
    assert np.allclose(made, torch.sigmoid(both.double()), rtol=0, atol=1e-12)
    assert np.allclose(made, predicted(images_BCHW.flip(3), with_mirror=True), rtol=0, atol=1e-6)
    assert not np.allclose(made, predicted(images_BCHW, with_mirror=False), rtol=0, atol=1e-6)
