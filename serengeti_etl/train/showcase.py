"""Photographs that show people what a model makes of them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from serengeti_etl.load.batch import Batch
from serengeti_etl.runs.board import Sample
from serengeti_etl.train.predictions import Predictions

_NUM_SAMPLES = 8
_NUM_PREDICTED = 3
_MOST_PX = 200
_QUALITIES = (75, 55, 35, 15, 5)

MOST_BYTES = 9000
"""Of one photograph: eight of them travel with every page that is written."""


class Showcase:
    """Keeps a few photographs of a validation, each of another sequence, as they go by."""

    def __init__(self) -> None:
        self._images_CHW: list[torch.Tensor] = []
        self._places: list[int] = []
        self._seq_ids: set[str] = set()
        self._num_seen = 0

    def keep(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches as they are; on the CPU, before they go to a device."""
        for batch in batches:
            self._look(batch)
            yield batch

    def samples(self, predictions: Predictions, classes: Sequence[str]) -> list[Sample]:
        """What was kept, with what was made of it.

        Args:
            predictions: of all images that went by, in their order.
            classes: in the order of the network's outputs.
        """
        made = []
        for image_CHW, at in zip(self._images_CHW, self._places, strict=True):
            probabilities_C = predictions.probabilities_NC[at]
            order = np.argsort(-probabilities_C, kind="stable")[:_NUM_PREDICTED]
            shown = np.flatnonzero(predictions.targets_NC[at] > 0.5)  # noqa: PLR2004 - of 0 and 1
            made.append(
                Sample(
                    name=predictions.names[at],
                    jpeg=_small_jpeg(image_CHW),
                    truth=tuple(classes[one] for one in shown.tolist()),
                    predicted=tuple(
                        (classes[one], float(probabilities_C[one])) for one in order.tolist()
                    ),
                )
            )
        return made

    def _look(self, batch: Batch) -> None:
        for at in batch.mask_B.nonzero().flatten().tolist():
            if len(self._places) == _NUM_SAMPLES:
                return
            if batch.seq_ids[at] not in self._seq_ids:
                self._seq_ids.add(batch.seq_ids[at])
                self._images_CHW.append(batch.images_BCHW[at].clone())
                self._places.append(self._num_seen)
            self._num_seen += 1


def _small_jpeg(image_CHW: torch.Tensor) -> bytes:
    """At most 200 px wide, by means of whole squares of px: no sharper than it must be."""
    import simplejpeg

    every = -(-image_CHW.shape[-1] // _MOST_PX)
    pixels_1CHW = image_CHW[None].float()
    small_CHW = torch.nn.functional.avg_pool2d(pixels_1CHW, every)[0]
    pixels_HWC = small_CHW.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    for quality in _QUALITIES:
        jpeg = bytes(simplejpeg.encode_jpeg(pixels_HWC, quality=quality, colorspace="RGB"))
        if len(jpeg) <= MOST_BYTES:
            break
    return jpeg
