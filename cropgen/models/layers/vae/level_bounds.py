"""What the upper levels of a hierarchy of latents say of a season.

With the levels up to k, the finest ones, drawn from the generative model in place of the posterior,

    L^{>k} = E_{p(z_≤k | z_>k) q(z_>k | x)} [log p(e | z, y) + log p(z_>k | y) − log q(z_>k | x)],   L^{>0} the bound

Details of a season can neither raise nor lower it, so it tells unusual seasons from noisy ones.

Reference:
    BIVA: A Very Deep Hierarchy of Latent Variables for Generative Modeling, Maaløe, Fraccaro, Liévin and Winther, 2019.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.bounds import log_mean_exp
from cropgen.models.layers.vae.model import Explained, Rows, VariationalModel
from cropgen.series.batches import Batch


class LevelledModel(VariationalModel):
    """Base of the auto-encoders with levels of latents, each of which can be drawn from the generative model."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """Number of levels."""

    @abstractmethod
    def scored_above(self, rows: Rows, noise: Tensor, above: int) -> Explained:
        """As `scored`, the levels up to `above` drawn from the generative model."""

    def scored(self, rows: Rows, noise: Tensor) -> Explained:
        return self.scored_above(rows, noise, 0)

    def log_joint_above(self, batch: Batch, level: int) -> Tensor:
        """(B, K) L^{>k} + log π_y in nats of the observed values in reflectance units; k = 0 is `log_joint`.

        Importance-weighted over the fixed draws.

        Raises:
            UsageError: there is no such level.
        """
        return self._joint_above(self._seasons(batch), level)

    def anomaly_score(self, batch: Batch, level: int) -> Tensor:
        """(B,) −log Σ_y π_y exp L^{>k}_y by the number of observed values: high for unusual seasons; 0 for unseen ones.

        Raises:
            UsageError: there is no such level.
        """
        seasons = self._seasons(batch)
        return -torch.logsumexp(self._joint_above(seasons, level), -1) / seasons.observed.clamp(min=1)

    def _joint_above(self, seasons: Seasons, level: int) -> Tensor:
        if not 0 <= level <= self.levels:
            raise UsageError(
                f"level: expected 0 to {self.levels}, got {level}", hint="choose one of the model's levels"
            )
        blocks = self._blocks(seasons, self._features(seasons, None))
        scores = torch.cat([log_mean_exp(self.scored_above(rows, self.noise, level).log_weight) for rows in blocks])
        return torch.where((seasons.observed > 0)[:, None], scores - seasons.log_det[:, None], 0) + self.tied.log_prior
