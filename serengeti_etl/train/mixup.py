"""Pairs of photographs laid over each other, and what else is drawn at random in a step.

Nothing is kept: every draw follows from (seed, step, part of the step, rank), so that a resumed run
draws what an undisturbed one would have drawn.
"""

import numpy as np
import torch
from torch import Tensor

Key = tuple[int, int, int, int]


def generator_of(key: Key) -> np.random.Generator:
    """Random numbers that the key alone decides."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def seed_torch(key: Key) -> None:
    """Let what torch draws from here on, such as dropout, follow from the key."""
    torch.manual_seed(int(generator_of(key).integers(2**63)))


def mix(images_BCHW: Tensor, targets_BC: Tensor, alpha: float, key: Key) -> tuple[Tensor, Tensor]:
    """Each photograph blended with another one of the batch, and their targets alike, as float32.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.

    Args:
        images_BCHW: uint8 or float.
        targets_BC: 0 to 1.
        alpha: the share of the first is drawn from Beta(alpha, alpha), one for the batch.
        key: see ``generator_of``.
    """
    rng = generator_of(key)
    share = float(rng.beta(alpha, alpha))
    partners_B = torch.from_numpy(rng.permutation(len(images_BCHW))).to(images_BCHW.device)
    images_BCHW = images_BCHW.float()
    mixed_BCHW = images_BCHW.mul(share).add_(images_BCHW[partners_B], alpha=1 - share)
    return mixed_BCHW, share * targets_BC + (1 - share) * targets_BC[partners_B]
