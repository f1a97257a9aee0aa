"""Remedies of posterior collapse, and the measures that tell whether a latent is used.

Annealing and free bits help against local optima of the first steps; they do not help a decoder that needs no latent.

References:
    Generating Sentences from a Continuous Space, Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, 2016 (linear);
    Cyclical Annealing Schedule, Fu, Li, Liu, Gao, Celikyilmaz and Carin, 2019;
    Improved Variational Inference with Inverse Autoregressive Flow, Kingma, Salimans, Jozefowicz, Chen, Sutskever and
    Welling, 2016 (free bits);
    Lagging Inference Networks and Posterior Collapse, He, Spokoyny, Neubig and Berg-Kirkpatrick, 2019 (aggressive).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob

Annealing = Literal["none", "linear", "cyclical"]
_ACTIVE_VARIANCE = 0.01
_COLLAPSED_NATS = 0.1


@dataclass(frozen=True)
class KLSchedule:
    """Weight of the divergence along the steps of training.

    linear rises from 0 to `weight` over the first `ramp` of the steps; cyclical does so again in every cycle.

    Arguments:
        kind: of the schedule.
        steps: of the whole training.
        weight: β, reached after the ramp; other than 1 the objective is that of a β-VAE and no bound.
        cycles: number of equal cycles of `cyclical`.
        ramp: share of a cycle in which the weight rises, in (0, 1].

    Raises:
        UsageError: a number out of its range.
    """

    kind: Annealing
    steps: int
    weight: float = 1.0
    cycles: int = 4
    ramp: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or self.cycles < 1 or not 0 < self.ramp <= 1 or self.weight < 0:
            raise UsageError(
                "annealing: expected steps and cycles of at least 1, a ramp in (0, 1] and a weight of at least 0, got "
                f"{self.steps}, {self.cycles}, {self.ramp} and {self.weight}",
                hint="correct the options of the annealing",
            )

    def at(self, step: int) -> float:
        """Weight of a step, counted from 0; after the last step the full weight."""
        if self.kind == "none" or step >= self.steps:
            return self.weight
        cycles = self.cycles if self.kind == "cyclical" else 1
        through_cycle = math.modf(step * cycles / self.steps)[0]
        return self.weight * min(through_cycle / self.ramp, 1.0)


def free_bits(kl: Tensor, least: float) -> Tensor:
    """() Σ_g max(λ, mean over rows of KL_g) for (B, G) divergences of groups of latents, in nats.

    A group pays nothing for its first λ nats and gets no gradient from the divergence while it has fewer.
    """
    return kl.mean(0).clamp(min=least).sum()


def collapse_advice(kl: float) -> str | None:
    """What to do about latents that together hold less than 0.1 nat of a row; None where they hold more.

    Arguments:
        kl: mean divergence of all latents of a row, nats.
    """
    if kl >= _COLLAPSED_NATS:
        return None
    return (
        f"the latent is not used ({kl:.3f} nats a row): "
        "anneal the divergence, give it free bits, or weaken a decoder that sees the season itself"
    )


@dataclass(frozen=True)
class LatentUse:
    """What a mini-batch says of the use of the latents.

    Arguments:
        kl: (Z,) mean divergence of every latent from N(0, 1), nats.
        active: (Z,) bool, true where the posterior mean varies between rows by more than 0.01.
        information: mutual information of row and latent, nats; at most the logarithm of the rows of the mini-batch.
    """

    kl: Tensor
    active: Tensor
    information: float

    @property
    def collapsed(self) -> bool:
        """The latents together hold less than 0.1 nat of a row."""
        return self.advice is not None

    @property
    def advice(self) -> str | None:
        """What to do about a collapse; None where there is none."""
        return collapse_advice(float(self.kl.sum()))


@torch.no_grad()
def latent_use(mean: Tensor, log_std: Tensor, noise: Tensor) -> LatentUse:
    """Measures of the diagonal Gaussian posteriors of B rows against N(0, I).

    The information is E_x E_q [log q(z | x) − log 1/B Σ_b q(z | x_b)].

    Arguments:
        mean: (B, Z).
        log_std: (B, Z).
        noise: (B, Z) standard normal, one draw a row.
    """
    z = mean + log_std.exp() * noise
    between = gaussian_log_prob(z[:, None], mean, log_std)
    information = between.diagonal() - (torch.logsumexp(between, 1) - math.log(len(mean)))
    return LatentUse(
        gaussian_kl(mean, log_std).mean(0),
        mean.var(0, unbiased=False) > _ACTIVE_VARIANCE,
        float(information.mean()),
    )


class AggressivePhase(nn.Module):
    """Tells how long the encoder is trained many steps for one of the decoder: until its information stops rising.

    Arguments:
        patience: measurements without a new best after which the phase is over.
    """

    best: Tensor
    since: Tensor

    def __init__(self, patience: int = 1) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("best", torch.tensor(-1e30))
        self.register_buffer("since", torch.zeros((), dtype=torch.int64))

    @property
    def over(self) -> bool:
        return int(self.since) >= self.patience

    def observe(self, information: float) -> None:
        """Take a measurement of rows that came by; once over, the phase does not begin again."""
        if self.over:
            return
        if information > float(self.best):
            self.best.fill_(information)
            self.since.zero_()
        else:
            self.since += 1
