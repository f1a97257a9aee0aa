"""Classes told from the features of a season and a latent drawn from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_NOISE_SEED = 19


class LatentHead(nn.Module):
    """log q(y | x) = log 1/S Σ_s q(y | z_s, x),   q(y | z, x) = softmax(A f + B z),   z_s ~ q(z | x).

    B begins at zero. Scores use the same draws of noise for all parcels; learning draws noise of its own, from the
    same source as dropout.

    Arguments:
        features: F.
        size: Z.
        classes: K.
        samples: S.
        draw: features (B, F) and noise (S, B or 1, 1, Z) → z (S, B, 1, Z). A method of the owner: its parameters stay
            the owner's.
    """

    noise: Tensor

    def __init__(
        self, features: int, size: int, classes: int, samples: int, draw: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.of_features = nn.Linear(features, classes)
        self.of_latent = nn.Linear(size, classes, bias=False)
        nn.init.zeros_(self.of_latent.weight)
        self._draw = (draw,)
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer("noise", torch.randn((samples, 1, 1, size), generator=generator))

    def at(self, features: Tensor, z: Tensor) -> Tensor:
        """(S, B, K) log q(y | z, x) of draws z (S, B, 1, Z)."""
        return torch.log_softmax(self.of_features(features) + self.of_latent(z)[:, :, 0], -1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K) log q(y | x) of features (B, F)."""
        noise = self.noise
        if self.training:
            noise = torch.randn((len(noise), len(features), *noise.shape[2:]), dtype=noise.dtype, device=noise.device)
        found = self.at(features, self._draw[0](features, noise))
        return torch.logsumexp(found, 0) - math.log(len(found))
