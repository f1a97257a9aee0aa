"""Deep Kalman filter on time-ordered innovations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.layers.chained import ChainModel, ChainOptions, Direction, Observer, emission_on
from cropgen.models.layers.dynamical import View
from cropgen.models.layers.latent_dynamics import LatentHead

Inference = Literal["st-lr", "st-r", "st-l"]
DIRECTION: dict[Inference, Direction] = {"st-lr": "both", "st-r": "backward", "st-l": "forward"}


class DKFOptions(ChainOptions):
    """Options of `dkf`."""

    inference: Inference = Field(
        "st-r",
        description="besides z(t-1), q sees the dates from its own on (st-r), all of them (st-lr), or those up to its "
        "own (st-l: a filter, scores are causal)",
    )


class DKF(ChainModel):
    """A deep Kalman filter around the tied Gaussian: a Markov chain of latent states, and nothing else, makes a season.

    With the control u_t of the class, the date (features of the day and of the gap Δ_t) and the site, o_t a recurrent
    network over e_≥t (st-r), e_≤t (st-l) or both (st-lr), and o_{y,t} the class mean's innovation,

        p(x, z | u) = Π p(e_t | z_t) p(z_t | z_{t−1}, u_t),   q(z | x, u) = Π q(z_t | z_{t−1}, o_t, u_t)

        p(z_t | z_{t−1}, u_t) = N(r z_{t−1} + f(z_{t−1}, u_t), diag e^λ)
        p(e_t | z_t)          = N(o_{y,t} + d_{y,t} + g(z_t, u_t), diag exp(v_t + s(z_t, u_t)))
        q(z_t | z_{t−1}, x)   = N(p's mean + m_t δ, p's log-variance + m_t ρ) of (z_{t−1}, o_t, e_t − o_{y,t}, y)

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t) − KL(q(z_t | z_{t−1}, x) ‖ p(z_t | z_{t−1}, u_t))]

    f, g, s, δ and ρ begin at zero, so the model begins exactly at the tied Gaussian. The decoder is told nothing of
    earlier observations, so nothing tempts it to do without z. z is (G, S, B, K, Z).

    References:
        Deep Kalman Filters, Krishnan, Shalit and Sontag, 2015; Structured Inference Networks for Nonlinear State Space
        Models, Krishnan, Shalit and Sontag, 2017.
    """

    Settings = DKFOptions
    filter_hint = "train with --set inference=st-l"

    def __init__(self, spec: InputSpec, options: DKFOptions) -> None:
        super().__init__(spec, options)
        self.causal = options.inference == "st-l"
        self.observer = Observer(
            len(spec.bands) + 1 + self.control_width, options.smoothing, DIRECTION[options.inference]
        )
        self.transition, self.inference = self.heads(options)
        self.initial = self.initial_state()
        self.emission = emission_on(spec, options, 0, options.latent)

    def heads(self, options: DKFOptions) -> tuple[LatentHead, LatentHead]:
        """The perceptrons of p and q."""
        k, hidden, bands = self.spec.classes, options.hidden, len(self.spec.bands)
        transition = LatentHead(self.control_width, 0, k, options.latent, hidden)
        return transition, LatentHead(self.observer.width, bands, k, options.latent, hidden)

    def observe(self, view: View) -> Tensor:
        return self.observer.observe(torch.cat([view.now, view.control], -1))
