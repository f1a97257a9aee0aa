"""Variational recurrent network on time-ordered innovations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cropgen.kernels.recurrence.reference import Cell, ChainPath
from cropgen.models.base import InputSpec
from cropgen.models.layers.chained import ChainModel, ChainOptions, Observer, emission_on
from cropgen.models.layers.dynamical import View
from cropgen.models.layers.latent_dynamics import LatentCell, LatentHead


class VRNNOptions(ChainOptions):
    """Options of `vrnn`."""

    retention: float = Field(0.0, ge=0, lt=1, description="share of the latent state kept from slot to slot at first")
    inference: Literal["filter", "smooth"] = Field(
        "filter", description="filter: q sees dates up to its own, scores are causal; smooth: q sees the whole season"
    )


class VRNN(ChainModel):
    """A variational recurrent network around the tied Gaussian: one recurrent state carries what was seen and drawn.

    With h_t = GRU(h_{t−1}; e_{t−1}, m_{t−1}, z_{t−1}, Δ_t, y), so that h_t holds e_<t and z_<t, o_t a recurrent network
    over e_≤t (filter) or e (smooth), and o_{y,t} the class mean's innovation,

        p(x, z | y) = Π p(e_t | z_t, h_t, y) p(z_t | h_t, y),   q(z | x, y) = Π q(z_t | h_t, x_≤t, y)

        p(z_t | h_t, y)       = N(r z_{t−1} + f(h_t, Δ_t, y), diag e^λ),   r = 0 in the textbook
        p(e_t | z_t, h_t, y)  = N(o_{y,t} + d_{y,t} + g(z_t, h_t, Δ_t, y), diag exp(v_t + s(z_t, h_t, Δ_t, y)))
        q(z_t | h_t, x, y)    = N(p's mean + m_t δ, p's log-variance + m_t ρ) of (h_t, o_t, e_t − o_{y,t}, y)

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t, h_t, y) − KL(q(z_t | h_t, x, y) ‖ p(z_t | h_t, y))]

    f, g, s, δ and ρ begin at zero, so the model begins exactly at the tied Gaussian. z passes through the recurrent
    state, so the whole step is sequential. z is (G, S, B, K, Z), h (G, S, B, K, H).

    Reference:
        A Recurrent Latent Variable Model for Sequential Data, Chung, Kastner, Dinh, Goel, Courville and Bengio, 2015.
    """

    Settings = VRNNOptions
    feeds_back = True

    def __init__(self, spec: InputSpec, options: VRNNOptions) -> None:
        super().__init__(spec, options)
        self.causal = options.inference == "filter"
        bands, k, hidden, latent = len(spec.bands), spec.classes, options.hidden, options.latent
        seen = bands + 1 + self.control_width
        self.observer = Observer(seen, options.smoothing, "forward" if self.causal else "both")
        self.recurrence = LatentCell(seen, k, latent, hidden)
        self.transition = LatentHead(self.control_width, 0, k, latent, hidden, state=hidden)
        self.inference = LatentHead(self.observer.width, bands, k, latent, hidden, state=hidden)
        self.initial = self.initial_state()
        self.emission = emission_on(spec, options, 0, latent + hidden)

    def observe(self, view: View) -> Tensor:
        return self.observer.observe(torch.cat([view.now, view.control], -1))

    def cell(self) -> Cell:
        return self.recurrence.weights()

    def cell_inputs(self, before: Tensor, control: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([before, control], -1), which)

    def decoded(self, path: ChainPath) -> Tensor:
        return torch.cat([path.z, path.state], -1) if path.state is not None else path.z
