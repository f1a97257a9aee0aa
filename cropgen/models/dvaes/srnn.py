"""Stochastic recurrent network on time-ordered innovations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.chained import ChainModel, ChainOptions, emission_on
from cropgen.models.layers.dynamical import View
from cropgen.models.layers.latent_dynamics import LatentHead


class SRNNOptions(ChainOptions):
    """Options of `srnn`."""

    inference: Literal["smooth", "filter"] = Field(
        "smooth", description="smooth: q sees the whole season; filter: q sees dates up to its own, scores are causal"
    )


class SRNN(ChainModel):
    """A stochastic recurrent network around the tied Gaussian, on the innovations e_t of each date.

    With h_t a recurrent network over e_<t, o_t one over the season (or over e_≤t), o_{y,t} the class mean's innovation,
    Δ_t the days since the last observation and m_t whether the date was observed,

        p(x, z | y) = Π p(e_t | z_t, h_t, y) p(z_t | z_{t−1}, h_t, y),   q(z | x, y) = Π q(z_t | z_{t−1}, x, y)

        p(z_t | z_{t−1}, y) = N(r z_{t−1} + f(z_{t−1}, h_t, Δ_t, y), diag e^λ)
        p(e_t | z_t, y)     = N(o_{y,t} + d_{y,t} + g(z_t, h_t, Δ_t, y), diag exp(v_t + s(z_t, h_t, Δ_t, y)))
        q(z_t | z_{t−1}, y) = N(p's mean + m_t δ, p's log-variance + m_t ρ) of (z_{t−1}, o_t, e_t − o_{y,t}, y)

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t, y) − KL(q(z_t | z_{t−1}, y) ‖ p(z_t | z_{t−1}, y))]

    f, g, s, d, v, δ and ρ begin at zero: z is unused, the bound is tight, and the model begins exactly at the tied
    Gaussian. A missing date is stepped over by the transition: it has no likelihood, no KL and no influence. One draw
    of noise serves all classes. While learning the ELBO takes one sample; a parcel is scored by the importance-weighted
    bound over `samples` fixed draws, so equal rows score equally.

    References:
        Sequential Neural Models with Stochastic Layers, Fraccaro, Sønderby, Paquet and Winther, 2016;
        Dynamical Variational Autoencoders: A Comprehensive Review, Girin, Leglaive, Bie, Diard, Hueber and
        Alameda-Pineda, 2021; Importance Weighted Autoencoders, Burda, Grosse and Salakhutdinov, 2016.
    """

    Settings = SRNNOptions
    feeds_back = True

    def __init__(self, spec: InputSpec, options: SRNNOptions) -> None:
        super().__init__(spec, options)
        bands, k, hidden = len(spec.bands), spec.classes, options.hidden
        self.causal = options.inference == "filter"
        seen = bands + 1 + self.control_width
        self.memory = nn.GRU(seen, hidden)
        self.observer = nn.GRU(seen, options.smoothing, bidirectional=not self.causal)
        observed = options.smoothing * (1 if self.causal else 2)
        self.transition = LatentHead(hidden + self.control_width, 0, k, options.latent, hidden)
        self.inference = LatentHead(observed, bands, k, options.latent, hidden)
        self.initial = self.initial_state()
        self.emission = emission_on(spec, options, hidden, options.latent)

    def context(self, before: Tensor, control: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        latest, memory = self.memory(torch.cat([before, control], -1), memory)
        return torch.cat([latest, control], -1), memory

    def observe(self, view: View) -> Tensor:
        return self.observer(torch.cat([view.now, view.control], -1))[0]
