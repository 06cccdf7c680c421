"""What training makes small: binary cross-entropy, and two others that weigh errors differently."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

Loss = Callable[[Tensor, Tensor], Tensor]

FOCAL_GAMMA = 2.0
"""Lin et al., "Focal Loss for Dense Object Detection", 2017."""

ASL_GAMMA_POSITIVE, ASL_GAMMA_NEGATIVE, ASL_MARGIN = 1.0, 4.0, 0.05
"""Ridnik et al., "Asymmetric Loss For Multi-Label Classification", 2021."""

CALIBRATION_WARNING = (
    "loss {name!r} makes rare categories count more, at a price: what the model then gives are no "
    "probabilities, and the score by log loss is worse for it; use 'bce', or calibrate on val"
)


def focal_loss(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """The mean binary cross-entropy, each weighed by how wrong it is, to the power of 2."""
    losses_BC = binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none")
    probabilities_BC = torch.sigmoid(logits_BC)
    errors_BC = targets_BC * (1 - probabilities_BC) + (1 - targets_BC) * probabilities_BC
    return (losses_BC * errors_BC**FOCAL_GAMMA).mean()


def asymmetric_loss(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """The mean asymmetric loss: easy absences count little, and below the margin nothing."""
    probabilities_BC = torch.sigmoid(logits_BC)
    shifted_BC = (probabilities_BC - ASL_MARGIN).clamp(min=0)
    positive_BC = -logsigmoid(logits_BC) * (1 - probabilities_BC) ** ASL_GAMMA_POSITIVE
    negative_BC = -torch.log1p(-shifted_BC) * shifted_BC**ASL_GAMMA_NEGATIVE
    return (targets_BC * positive_BC + (1 - targets_BC) * negative_BC).mean()


LOSSES: Mapping[str, Loss] = {
    "bce": binary_cross_entropy_with_logits,
    "focal": focal_loss,
    "asl": asymmetric_loss,
}
"""Each takes float32 logits and targets from 0 to 1, both (B, num_classes)."""
