"""How far a run is."""

from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True, slots=True)
class RunPlace:
    """All that changes in a run beside weights and optimiser; kept in checkpoints.

    Attributes:
        stage: number of the stage, from 0; after the last one, their number.
        steps_of_stage: steps done in it.
        epochs: epochs done in all stages; the end of a stage ends its epoch.
        step: steps done in all stages.
        cursor: place in the order of samples, of ``ShardLoader.state_dict``.
        loss_sum: of the steps since the last record, the mean over ranks.
        num_losses: those steps.
        num_records: records of metrics.
        score: of the last validation.
        best_score: of the best one.
        class_means_score: of predicting the class means.
    """

    stage: int = 0
    steps_of_stage: int = 0
    epochs: int = 0
    step: int = 0
    cursor: dict[str, Any] | None = None
    loss_sum: float = 0.0
    num_losses: int = 0
    num_records: int = 0
    score: float | None = None
    best_score: float | None = None
    class_means_score: float | None = None

    def advance(self) -> None:
        """One more step is done, and its loss in the sum."""
        self.step += 1
        self.steps_of_stage += 1
        self.num_losses += 1

    def is_best(self, score: float) -> bool:
        """Whether a validation's score is lower than that of every one before."""
        return self.best_score is None or score < self.best_score

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {name: getattr(self, name) for name in self.__slots__}
