"""A map of log-probabilities: log q = log softmax(W log p + b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = -30.0


class AffineCalibrator(nn.Module):
    """W and b as buffers, begun at the identity; log p below −30 counts as −30.

    Arguments:
        classes: K.
        kind: how W and b are fitted: temperature or dirichlet.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("weight", torch.eye(classes))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, log_posterior: Tensor) -> Tensor:
        """(B, K) calibrated log-probabilities."""
        weight, bias = self.weight.to(log_posterior.dtype), self.bias.to(log_posterior.dtype)
        return torch.log_softmax(log_posterior.clamp(min=FLOOR) @ weight.T + bias, -1)
