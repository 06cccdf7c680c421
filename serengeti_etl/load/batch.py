"""A batch, and memory that batches are written to."""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from serengeti_etl.load.augment import Views

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one rank gets in one step.

    ``N = batch_size * num_frames``: of samples with several frames, those of a sample follow each
    other, so that ``batch.images_BCHW.unflatten(0, (-1, num_frames))`` is (B, F, C, H, W).

    Attributes:
        images_BCHW: uint8 RGB, (N, 3, height, width), channels last in memory. Where
            ``resize_on`` is ``device``, whole photographs in the top left corner of a black
            canvas, for ``load.device.prepare``; where ``decode_on`` is, (N, 3, 0, 0).
        targets_BC: float32, (batch_size, num_classes), 1 for each category that is shown.
        mask_B: bool, (batch_size,); False for blanks that fill up the last batch.
        frame_mask_BF: bool, (batch_size, num_frames); False where a sample has no more frames.
        image_ids: N of them; "" for blanks.
        seq_ids: one per sample; "" for blanks.
        positions_B: int64, (batch_size,): places in the global order of the epoch; -1 for blanks.
        sizes_N2: int64, height and width in px of each photograph in its image; 0 for blanks.
        views: what is still to be done to each image; whole views if nothing is.
        jpegs: N whole JPEG files where ``decode_on`` is ``device``, b"" for blanks; else none.
    """

    images_BCHW: torch.Tensor
    targets_BC: torch.Tensor
    mask_B: torch.Tensor
    frame_mask_BF: torch.Tensor
    image_ids: tuple[str, ...]
    seq_ids: tuple[str, ...]
    positions_B: torch.Tensor
    sizes_N2: NDArray[np.int64]
    views: Views
    jpegs: tuple[bytes, ...] = ()


class BatchMemory:
    """Memory for the pixels of batches, used again once nobody refers to it any more.

    Fresh memory costs a page fault for every 4 kB, which is a tenth of a decode.

    Args:
        num_kept: blocks that are kept; more may be in use.
        pin: page-locked memory, for copies to a GPU that do not block; torch keeps it by itself.
    """

    def __init__(self, num_kept: int, *, pin: bool) -> None:
        self._num_kept, self._pin = num_kept, pin
        self._blocks: list[UInt8] = []

    def take(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, UInt8]:
        """A tensor of uint8, and the same memory as an array; what is in it is undefined."""
        if self._pin:
            tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            return tensor, tensor.numpy()
        block = self._free_block(shape)
        # The tensor, and whatever is made of it, holds a reference to the block.
        return torch.from_numpy(block), block

    def _free_block(self, shape: tuple[int, ...]) -> UInt8:
        for at in range(len(self._blocks)):
            # Held by the list and by the call itself: by no tensor, no view.
            if self._blocks[at].shape == shape and sys.getrefcount(self._blocks[at]) <= _UNUSED:
                return self._blocks[at]
        block = np.empty(shape, dtype=np.uint8)
        self._blocks = [one for one in self._blocks if one.shape == shape]
        if len(self._blocks) < self._num_kept:
            self._blocks.append(block)
        return block


_UNUSED = 2
