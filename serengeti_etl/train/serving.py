"""What is made of a network's outputs: mirror images, aggregation, temperatures.

``evaluate`` finds out which is best, and ``predict`` and submissions do the same. Taken along by
submissions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serengeti_etl.errors import require
from serengeti_etl.train.calibration import with_temperatures
from serengeti_etl.train.predictions import Predictions
from serengeti_etl.train.sequences import WINNERS, Aggregation, aggregate_sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What is made of a network's outputs; by default what the competition's winner did.

    Attributes:
        with_mirror: the mean of the logits of each photograph and its mirror image; twice the work.
        aggregation: of the frames of a sequence.
        temperatures: by which the log odds of a sequence are divided, one per category; () for
            none. They are of sequences: photographs keep theirs.
    """

    with_mirror: bool = False
    aggregation: Aggregation = WINNERS
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        given = self.temperatures
        are_good = all(math.isfinite(one) and one > 0 for one in given)
        require(are_good, "temperatures", given, "positive numbers")

    def sequences(self, images: Predictions, empty: int | None) -> Predictions:
        """Sequences out of images: aggregated, then tempered.

        Args:
            images: of whole sequences, mirrored and with the odds of ``empty`` put right.
            empty: position of ``empty`` among the classes; None if it is no class.
        """
        made = aggregate_sequences(images, empty, aggregation=self.aggregation)
        if not self.temperatures:
            return made
        return with_temperatures(made, np.array(self.temperatures))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Serving":
        """Of what ``dataclasses.asdict`` made.

        Raises:
            ConfigError: an aggregation is unknown, or a temperature not positive.
            KeyError, TypeError, ValueError: the value is of another kind.
        """
        return Serving(
            with_mirror=bool(value["with_mirror"]),
            aggregation=Aggregation(**value["aggregation"]),
            temperatures=tuple(float(one) for one in value["temperatures"]),
        )


PLAIN = Serving()
"""Nothing tuned."""
