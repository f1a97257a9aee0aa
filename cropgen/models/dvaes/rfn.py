"""Recurrent flow network on time-ordered innovations."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec, Mixture
from cropgen.models.dvaes.srnn import SRNN, SRNNOptions
from cropgen.models.layers.conditional_coupling import ConditionalCoupling
from cropgen.models.layers.dynamical import View, Walk
from cropgen.series.batches import Batch

_HALVES_SEED = 17


class RFNOptions(SRNNOptions):
    """Options of `rfn`."""

    variance_floor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="least variance of the flow's base, in units of the tied Gaussian's; the couplings may shrink it",
    )
    couplings: int = Field(4, ge=1, description="affine couplings of the bands of a date")
    flow_temperature: float = Field(1.0, ge=0, description="scale of the flow's noise in samples, besides theirs")


class RFN(SRNN):
    """A recurrent flow network around the tied Gaussian: the dynamics of `srnn`, and a flow for the bands of a date.

    With h_t, o_t, o_{y,t} as in `srnn` and the condition c_t = tanh(W_z z_t + W_h [h_t, Δ_t] + U_y),

        p(x, z | y) = Π p(e_t | z_t, h_t, y) p(z_t | z_{t−1}, h_t, y),   q(z | x, y) = Π q(z_t | z_{t−1}, x, y)

        b_t = T(e_t − o_{y,t} − d_{y,t}; c_t),   T affine couplings over the bands, their halves drawn at random
        log p(e_t | z_t, h_t, y) = log N(b_t; g(z_t, h_t, Δ_t, y), diag exp(v_t + s(z_t, h_t, Δ_t, y))) + log |det T'|

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t, h_t, y) − KL(q(z_t | z_{t−1}, y) ‖ p(z_t | z_{t−1}, y))]

    T begins at the identity and the rest as in `srnn`, so the model begins exactly at the tied Gaussian. The condition
    holds e_<t and z_t, never e_t. b is (G, S, B, K, C). What of a date's spread is of time sits in z, what is of its
    bands in the flow: `state_temperature` and `flow_temperature` tell them apart in samples.

    References:
        Recurrent Flow Networks: A Recurrent Latent Variable Model for Density Modelling of Urban Mobility, Gammelli
        and Rodrigues, 2020; Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018.
    """

    Settings = RFNOptions
    feeds_back = True

    def __init__(self, spec: InputSpec, options: RFNOptions) -> None:
        super().__init__(spec, options)
        bands, hidden = len(spec.bands), options.hidden
        self.of_state = nn.Linear(options.latent, hidden)
        self.of_context = nn.Linear(hidden + self.control_width, hidden, bias=False)
        self.of_class = nn.Parameter(torch.zeros(spec.classes, hidden))
        generator = torch.Generator().manual_seed(_HALVES_SEED)
        halves = [torch.randperm(bands, generator=generator)[: bands // 2] for _ in range(options.couplings)]
        self.flow = nn.ModuleList(ConditionalCoupling(half, bands, hidden, hidden) for half in halves)
        self.flow_temperature = options.flow_temperature

    def couplings(self) -> list[ConditionalCoupling]:
        """In the order towards the base."""
        return [cast(ConditionalCoupling, coupling) for coupling in self.flow]

    def condition(self, z: Tensor, context: Tensor, which: Tensor) -> Tensor:
        """(..., H) c_t of z (..., Z), context (..., ·) and indicators (..., K)."""
        return torch.tanh(self.of_state(z) + (self.of_context(context) + which @ self.of_class))

    def walk(self, view: View, noise: Tensor) -> Walk:
        context = self.context(view.before, view.control)[0][:, None, :, None]
        path = self.run_chain(self.chain(), self.inputs(view, context, noise))
        condition = self.condition(path.z, context, view.each)
        b, log_det = view.surprise, torch.zeros_like(condition[..., 0])
        for coupling in self.couplings():
            b, more = coupling(b, condition)
            log_det = log_det + more
        plain = self.emitted(replace(view, surprise=b), path, self.emission(path.z, context, view.each))
        return replace(plain, log_density=plain.log_density + view.mask * log_det)

    def predictive(self, batch: Batch, slots: Tensor) -> Mixture | None:
        """None: the flow leaves no closed form."""
        return None

    def draw_emission(
        self,
        t: int,
        centre: Tensor,
        decoded: Tensor,
        context: Tensor,
        which: Tensor,
        temperature: float,
        generator: torch.Generator,
    ) -> Tensor:
        mean, change = self.emission(decoded, context, which)
        scale = temperature * self.flow_temperature
        b = self.draw_date(t, torch.zeros_like(centre), mean, change, scale, generator)
        condition = self.condition(decoded, context, which)
        for coupling in reversed(self.couplings()):
            b = coupling.inverse(b, condition)
        return centre + b
