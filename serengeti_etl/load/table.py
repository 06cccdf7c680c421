"""What the loader keeps in memory of a split's index: a few flat arrays, no object per sample."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.load.member import BLOCK_NUM_BYTES, num_bytes_around
from serengeti_etl.load.selection import Selection
from serengeti_etl.load.shard_source import Shard

Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """The images that were selected of one split, in the order of the dataset.

    Attributes:
        shards: of the split, in the order of the dataset; those of several datasets one after the
            other.
        shard_sizes_S: selected images of each shard.
        datasets_S: number of each shard's dataset.
        blocks_N: place of each JPEG in its tar, in blocks of 512 bytes.
        num_bytes_N: size of each JPEG in bytes.
        sequences_N: number of each image's sequence, rising.
        codes_K: positions in ``classes`` of all labels of all images, one after the other;
            categories that are no class are left out.
        code_starts_N1: where each image's codes start in ``codes_K``, and the end.
        classes: categories in the order of a model's outputs.
        canvas: height and width in px that every one of them fits into.
    """

    shards: tuple[Shard, ...]
    shard_sizes_S: Int64
    datasets_S: Int32
    blocks_N: UInt32
    num_bytes_N: Int32
    sequences_N: Int32
    codes_K: Int16
    code_starts_N1: Int32
    classes: tuple[str, ...]
    canvas: tuple[int, int]

    def __len__(self) -> int:
        return len(self.blocks_N)

    def shards_of(self, images_B: Int64) -> Int64:
        """Number of the shard of each image, (B,)."""
        ends_S = np.cumsum(self.shard_sizes_S)
        return np.searchsorted(ends_S, images_B, side="right").astype(np.int64)

    def ranges(self) -> dict[int, Int64]:
        """Start and end in its tar, in bytes, of what is read of each image, (K, 2) by shard."""
        starts_N = (self.blocks_N.astype(np.int64) - 1) * BLOCK_NUM_BYTES
        sizes_N = num_bytes_around(self.num_bytes_N.astype(np.int64))
        ranges_N2 = np.stack([starts_N, starts_N + sizes_N], axis=1)
        parts = np.split(ranges_N2, np.cumsum(self.shard_sizes_S)[:-1])
        return {shard: part for shard, part in enumerate(parts) if len(part)}

    def codes_of(self, image: int) -> Int16:
        """Positions in ``classes`` of the labels of one image."""
        return self.codes_K[self.code_starts_N1[image] : self.code_starts_N1[image + 1]]

    def class_counts(self) -> Int64:
        """Images that show each class, (num_classes,)."""
        return np.bincount(self.codes_K, minlength=len(self.classes)).astype(np.int64)

    def sequence_counts(self) -> tuple[Int64, int]:
        """Sequences that show each class in any frame, (num_classes,), and sequences in all."""
        numbers_N = np.unique(self.sequences_N, return_inverse=True)[1]
        per_sequence_K = np.repeat(numbers_N, np.diff(self.code_starts_N1))
        num_classes = len(self.classes)
        pairs = np.unique(per_sequence_K * num_classes + self.codes_K)
        counts_C = np.bincount(pairs % num_classes, minlength=num_classes)
        return counts_C.astype(np.int64), int(numbers_N.max(initial=-1)) + 1


class SampleTable:
    """The samples of one split: images, or sequences of them.

    Args:
        images: that were selected.
        selection: what a sample is, and how often each comes.
    """

    def __init__(self, images: ImageTable, selection: Selection) -> None:
        self.images, self.selection = images, selection
        is_images = selection.frames == "all"
        self._starts_M1: Int32 | None = None if is_images else self._sequence_edges()

    def __len__(self) -> int:
        return len(self.images) if self._starts_M1 is None else len(self._starts_M1) - 1

    @property
    def num_frames(self) -> int:
        """Images of a sample, at most."""
        return self.selection.max_frames if self.selection.frames == "sequence" else 1

    @property
    def num_frames_left_out(self) -> int:
        """Images that no batch shows, as their sequence has more than ``max_frames``."""
        if self.selection.frames != "sequence":
            return 0
        return int(np.maximum(np.diff(self._sequence_edges()) - self.num_frames, 0).sum())

    @cached_property
    def shard_sizes(self) -> Int64:
        """Samples of each shard."""
        if self._starts_M1 is None:
            return self.images.shard_sizes_S
        shards_M = self.images.shards_of(self._starts_M1[:-1].astype(np.int64))
        return np.bincount(shards_M, minlength=len(self.images.shards)).astype(np.int64)

    @property
    def sequence_starts(self) -> Int64:
        """First sample of each sequence, where images are samples."""
        return self._sequence_edges()[:-1].astype(np.int64)

    def _sequence_edges(self) -> Int32:
        """First image of each sequence, and the end."""
        changed = np.diff(self.images.sequences_N, prepend=-1, append=-1)
        return np.flatnonzero(changed).astype(np.int32)

    def first_images(self, samples_B: Int64) -> Int64:
        """The first image of each sample, (B,)."""
        return samples_B if self._starts_M1 is None else self._starts_M1[samples_B].astype(np.int64)

    def num_images(self, samples_B: Int64) -> Int64:
        """Images of each sample, (B,)."""
        if self._starts_M1 is None:
            return np.ones(len(samples_B), dtype=np.int64)
        return (self._starts_M1[samples_B + 1] - self._starts_M1[samples_B]).astype(np.int64)

    def frames(self, samples_B: Int64, chosen_B: Int64) -> Int64:
        """The images of each sample, (B, num_frames), -1 where it has no more.

        Args:
            samples_B: numbers of samples.
            chosen_B: which of its images shows a sequence, where one does.
        """
        firsts_B, counts_B = self.first_images(samples_B), self.num_images(samples_B)
        if self.selection.frames == "one":
            return (firsts_B + chosen_B % counts_B)[:, None]
        frames_F = np.arange(self.num_frames)
        frames_BF = firsts_B[:, None] + frames_F
        return np.where(frames_F < counts_B[:, None], frames_BF, -1)

    def targets(self, images_BF: Int64) -> Float32:
        """Multi-hot targets, (B, num_classes): 1 for what any frame of the sample shows.

        Args:
            images_BF: numbers of images, -1 for none.
        """
        images = self.images
        targets_BC = np.zeros((len(images_BF), len(images.classes)), dtype=np.float32)
        starts_BF = images.code_starts_N1[images_BF]
        ends_BF = np.where(images_BF < 0, starts_BF, images.code_starts_N1[images_BF + 1])
        for place, ranges in enumerate(zip(starts_BF.tolist(), ends_BF.tolist(), strict=True)):
            for start, end in zip(*ranges, strict=True):
                targets_BC[place, images.codes_K[start:end]] = 1
        return targets_BC

    def weights(self) -> Float64:
        """How often each sample comes, (M,), 1 on average."""
        weights_M: Float64 = self._class_weights() * self._share_weights()
        total = float(weights_M.sum())
        return weights_M * (len(self) / total) if total else np.ones(len(self))

    def category_weights(self) -> dict[str, float]:
        """How often a sample of each category comes, against one of weight 1."""
        weights = self.selection.weights
        if weights == "balanced":
            counts_C = np.maximum(self._class_sums(np.ones(len(self))), 1)
            return dict(zip(self.images.classes, (1 / counts_C).tolist(), strict=True))
        given = {} if weights is None else weights
        return {name: float(given.get(name, 1.0)) for name in self.images.classes}

    def expected_shares(self) -> dict[str, float]:
        """Share of an epoch's samples that show each category."""
        sums_C = self._class_sums(self.weights()) / max(1, len(self))
        return dict(zip(self.images.classes, sums_C.tolist(), strict=True))

    def _class_sums(self, values_M: Float64) -> Float64:
        """Sum over the samples that show each class, (num_classes,)."""
        samples_K, codes_K = self._labels()
        pairs = np.unique(samples_K * len(self.images.classes) + codes_K)
        num_classes = len(self.images.classes)
        values = values_M[pairs // num_classes]
        sums_C = np.bincount(pairs % num_classes, weights=values, minlength=num_classes)
        return sums_C.astype(np.float64)

    def _labels(self) -> tuple[Int64, Int16]:
        """Sample and class of every label of every image."""
        images = self.images
        starts_M1 = np.arange(len(self) + 1) if self._starts_M1 is None else self._starts_M1
        per_sample_M = np.diff(images.code_starts_N1[starts_M1])
        return np.repeat(np.arange(len(self)), per_sample_M), images.codes_K

    def _class_weights(self) -> Float64:
        if self.selection.weights is None:
            return np.ones(len(self))
        weights_C = np.array(list(self.category_weights().values()))
        samples_K, codes_K = self._labels()
        weights_M = np.zeros(len(self))
        np.maximum.at(weights_M, samples_K, weights_C[codes_K])
        # What shows no class is named nowhere; balanced, it is as common as any.
        without = weights_C.min() if self.selection.weights == "balanced" else 1.0
        weights_M[np.bincount(samples_K, minlength=len(self)) == 0] = without
        return weights_M

    def _share_weights(self) -> Any:
        shares = self.selection.shares
        if shares is None:
            return 1.0
        datasets_M = np.repeat(self.images.datasets_S, self.shard_sizes)
        counts_D = np.bincount(datasets_M, minlength=len(shares))
        return (np.array(shares) / np.maximum(counts_D, 1))[datasets_M]
