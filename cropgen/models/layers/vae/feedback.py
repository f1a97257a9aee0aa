"""What a recurrent decoder is fed of the season it describes, and how much of it is withheld while it learns.

A decoder that is shown x_<t needs no latent to say what x_t is. With m_t the mask and D_t the decision to withhold,

    none          δ_t = x_t                              the side channel wide open
    input         δ_t = (1 − D_t) x_t                    D_t ~ Bern(ρ), one for a date
    activation    δ_t = (1 − D_t) ⊙ x_t                  D_tc ~ Bern(ρ), one for every number
    scheduled     δ_t = (1 − D_t) x_t + D_t x̂_t          the decoder's own expectation in place of the truth

The dynamic versions decide for every date anew: Y_t = σ(a_t), a_t = net(x_t, h_t, z), is the probability to withhold.
With logistic noise l, the difference of two Gumbel draws, D_t = 1[a_t + l > 0] with the gradient of σ((a_t + l) / τ).

    Σ_{t<T} m_t KL(Bern(Y_t) ‖ Bern(ρ))

stands in the loss; without it Y_t → 0 and nothing would ever be withheld. Scoring draws nothing: the plain versions
show everything, the dynamic ones withhold where Y_t > ½. As D_t sees dates up to t alone and steers what comes after
them, p(x | z) stays a density either way.

References:
    Generating Sentences from a Continuous Space, Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, 2016 (input);
    Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks, Bengio, Vinyals, Jaitly and Shazeer,
    2015;
    On Training Deep Generative Models with Latent Variables, Miladinović, 2021 (the dynamic versions).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Dropout = Literal[
    "none", "input", "activation", "scheduled", "dynamic-input", "dynamic-activation", "dynamic-scheduled"
]
Sight = Literal["all", "latent"]
_EDGE = 1e-6


def logistic_noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard logistic draws in the type and on the device of a tensor."""
    u = torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype)
    return torch.logit(u.clamp(_EDGE, 1 - _EDGE)).to(like.device)


def bernoulli_kl(logit: Tensor, rate: float) -> Tensor:
    """(…) KL(Bern(σ(logit)) ‖ Bern(rate)) in nats; 0 where σ(logit) = rate, else above it.

    Arguments:
        logit: (…) log-odds of the first.
        rate: of the second, in (0, 1).
    """
    log_drop, log_keep = nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)
    return log_drop.exp() * (log_drop - math.log(rate)) + log_keep.exp() * (log_keep - math.log1p(-rate))


class Feedback(nn.Module):
    """Decides date by date what a decoder is shown.

    Arguments:
        kind: of the dropout.
        rate: ρ, share withheld; of the dynamic versions the share that costs nothing.
        bands: C.
        hidden: H, size of the decoder's state.
        latent: Z.
        sight: what the dynamic decision sees: the date, the state and the latent, or the latent alone.
        width: hidden units of its network.
        temperature: τ.
    """

    def __init__(
        self,
        kind: Dropout,
        rate: float,
        *,
        bands: int,
        hidden: int,
        latent: int,
        sight: Sight = "all",
        width: int = 16,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.kind, self.rate, self.sight, self.temperature = kind, rate, sight, temperature
        self.choices = 0 if kind == "none" else bands if kind.endswith("activation") else 1
        self.decide: nn.Module | None = None
        if kind.startswith("dynamic"):
            seen = latent if sight == "latent" else bands + hidden + latent
            self.decide = nn.Sequential(nn.Linear(seen, width), nn.Tanh(), nn.Linear(width, self.choices))

    @property
    def scheduled(self) -> bool:
        """Whether the decoder's own expectation stands in for what is withheld."""
        return self.kind.endswith("scheduled")

    def forward(self, x: Tensor, state: Tensor, z: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The share kept 1 − D_t (…, C) or (…, 1), and what the decision costs (…).

        Arguments:
            x: (…, C) the date, 0 where missing.
            state: (…, H) of the decoder after the dates before it.
            z: (…, Z).
            noise: (…, choices) logistic; None decides without a draw.
        """
        if self.decide is None:
            kept = x.new_ones(1) if noise is None or not self.choices else (noise < -self._log_odds()).to(x.dtype)
            return kept, x.new_zeros(())
        logit = self.decide(z if self.sight == "latent" else torch.cat([x, state, z], -1))
        cost = bernoulli_kl(logit, self.rate).sum(-1)
        if noise is None:
            return (logit <= 0).to(x.dtype), cost
        soft = torch.sigmoid(-(logit + noise) / self.temperature)
        hard = (logit + noise <= 0).to(x.dtype)
        return hard + (soft - soft.detach()), cost

    def _log_odds(self) -> float:
        return math.log(self.rate) - math.log1p(-self.rate)
