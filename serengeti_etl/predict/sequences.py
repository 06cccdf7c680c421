"""Frames to sequences: which belong together, and what they say together.

Taken along by submissions.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serengeti_etl.predict.served import ModelConfig
from serengeti_etl.train.predictions import Float64, Predictions


def together(frames: Sequence[Float64], config: ModelConfig) -> Float64:
    """Probabilities of a sequence, (num_classes,), as the score wants it.

    Args:
        frames: probabilities of its frames that could be read, one at least.
        config: of the model that gave them.
    """
    probabilities_FC = np.stack(list(frames))
    names = ("",) * len(frames)
    images = Predictions(
        names=names,
        seq_ids=names,
        targets_NC=np.zeros_like(probabilities_FC),
        probabilities_NC=probabilities_FC,
    )
    sequence_C: Float64 = config.serving.sequences(images, config.empty).probabilities_NC[0]
    return sequence_C


@dataclass(kw_only=True, slots=True)
class Sequencer:
    """Names the sequence of each photograph, in order.

    Where none is given, those of one place that follow each other within ``gap_seconds`` are one,
    named by its first; a photograph without a time is one by itself.

    Attributes:
        gap_seconds: longest time between two frames of a sequence.
    """

    gap_seconds: float = 5.0
    _place: str | None = None
    _time: dt.datetime | None = None
    _seq_id: str = ""

    def seq_id(self, file_name: str, given: str | None, site: str, time: dt.datetime | None) -> str:
        """Name of the photograph's sequence.

        Args:
            file_name: of the photograph.
            given: sequence that a list names; None if none does.
            site: where it was taken; photographs of another site are of another sequence.
            time: when; None if nobody knows.
        """
        if given is not None:
            return given
        if not self._goes_on(site, time):
            self._seq_id = file_name.rpartition(".")[0] or file_name
        self._place, self._time = site, time
        return self._seq_id

    def _goes_on(self, site: str, time: dt.datetime | None) -> bool:
        if site != self._place or time is None or self._time is None:
            return False
        return abs((time - self._time).total_seconds()) <= self.gap_seconds
