"""The moving average of a model's weights, which often predicts better than the last ones."""

from typing import Any, cast

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from serengeti_etl.train.model import Classifier


class WeightAverage:
    """The exponential moving average of all weights, and of BatchNorm's running statistics.

    Over the first steps the average is shorter, ``(1 + n) / (10 + n)`` after n of them, so that it
    does not hold on to the weights that it began with.

    Args:
        model: to follow.
        decay: share of the average that each step keeps, such as 0.9998; below 1.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self._decay = decay
        # Without `device` its counter is on the CPU, so that nobody waits for a GPU to read it.
        self._averaged = AveragedModel(model, multi_avg_fn=self._move, use_buffers=True)

    @property
    def model(self) -> Classifier:
        """With the averaged weights."""
        return cast("Classifier", self._averaged.module)

    def update(self, model: Classifier) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(model)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        num_updates = int(self._averaged.n_averaged)
        return {"weights": self.model.network.state_dict(), "num_updates": num_updates}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.model.network.load_state_dict(state["weights"])
        self._averaged.n_averaged.fill_(state["num_updates"])

    def _move(self, averaged: Any, current: Any, num_updates: Any) -> None:
        num_steps = int(self._averaged.n_averaged)
        decay = min(self._decay, (1 + num_steps) / (10 + num_steps))
        move: Any = get_ema_multi_avg_fn
        move(decay)(averaged, current, num_updates)
