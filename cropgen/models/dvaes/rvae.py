"""Recurrent variational auto-encoder on time-ordered innovations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.kernels.recurrence.reference import Cell, ChainPath, Head
from cropgen.models.base import InputSpec
from cropgen.models.layers.chained import ChainModel, ChainOptions, Observer, emission_on
from cropgen.models.layers.dynamical import View
from cropgen.models.layers.latent_dynamics import LatentCell, LatentHead


class RVAEOptions(ChainOptions):
    """Options of `rvae`."""

    retention: float = Field(0.0, ge=0, le=0, description="0: the prior of z is the same at every date")
    decoder: Literal["causal", "noncausal"] = Field(
        "causal", description="what the emission of a date sees: z up to its own, or of the whole season"
    )
    inference: Literal["smooth", "filter"] = Field(
        "smooth",
        description="smooth: q sees the dates from its own on, or all with the non-causal decoder; filter: dates up to "
        "its own, scores are causal",
    )


class RVAE(ChainModel):
    """A recurrent variational auto-encoder around the tied Gaussian: independent states, a decoder that remembers them.

    With k_t a recurrent network over z_≤t (causal) or z (non-causal), s_t = GRU(z_<t), o_t one over e_≥t (causal) or e
    (non-causal), and o_{y,t} the class mean's innovation,

        causal       p(x, z | y) = Π p(e_t | z_≤t, y) p(z_t),   q(z | x, y) = Π q(z_t | z_<t, x_≥t, y)
        non-causal   p(x, z | y) = Π p(e_t | z, y) p(z_t),      q(z | x, y) = Π q(z_t | z_<t, x, y)

        p(z_t)                  = N(0, I)
        p(e_t | z, y)           = N(o_{y,t} + d_{y,t} + g(k_t, Δ_t, y), diag exp(v_t + s(k_t, Δ_t, y)))
        q(z_t | z_<t, x, y)     = N(m_t δ, diag e^{m_t ρ}) of (s_t, o_t, e_t − o_{y,t}, y)

        ELBO_y = Σ_t m_t E_q [log p(e_t | z, y) − KL(q(z_t | z_<t, x, y) ‖ N(0, I))]

    g, s, δ and ρ begin at zero, so the model begins exactly at the tied Gaussian. No observation feeds back, so nothing
    tempts the decoder to do without z. z is (G, S, B, K, Z).

    Reference:
        A Recurrent Variational Autoencoder for Speech Enhancement, Leglaive, Alameda-Pineda, Girin and Horaud, 2020.

    Raises:
        UsageError: a filter with a decoder that sees the future.
    """

    Settings = RVAEOptions
    remembers = False
    filter_hint = "train with --set inference=filter"

    def __init__(self, spec: InputSpec, options: RVAEOptions) -> None:
        super().__init__(spec, options)
        self.causal, whole = options.inference == "filter", options.decoder == "noncausal"
        if self.causal and whole:
            raise UsageError(
                "inference=filter with decoder=noncausal: the decoder sees the future", hint="use decoder=causal"
            )
        bands, k, hidden, latent = len(spec.bands), spec.classes, options.hidden, options.latent
        direction = "forward" if self.causal else "both" if whole else "backward"
        self.observer = Observer(bands + 1 + self.control_width, options.smoothing, direction)
        self.recurrence = LatentCell(0, 0, latent, hidden)
        self.inference = LatentHead(self.observer.width, bands, k, latent, hidden, state=hidden)
        self.initial = self.initial_state()
        self.decoder = nn.GRU(latent, hidden, bidirectional=whole)
        self.emission = emission_on(spec, options, 0, hidden * (2 if whole else 1))

    def observe(self, view: View) -> Tensor:
        return self.observer.observe(torch.cat([view.now, view.control], -1))

    def prior_head(self) -> Head:
        zeros, hidden, latent = self.shift.new_zeros, self.settings.hidden, self.settings.latent
        return Head((), zeros(hidden, 0), zeros(0), zeros(0, 2 * latent), zeros(2 * latent))

    def prior_inputs(self, which: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        return ()

    def cell(self) -> Cell:
        return self.recurrence.weights()

    def decoded(self, path: ChainPath) -> Tensor:
        """(G, S, B, K, ·) k_t."""
        seen = self.decoder(path.z.flatten(1, -2))[0]
        return seen.unflatten(1, path.z.shape[1:-1])

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        control, centre, which = self.season_to_draw(y)
        shape = (len(control), len(y), self.settings.latent)
        noise = torch.randn(shape, generator=generator, dtype=centre.dtype)
        k = self.decoder(temperature * self.settings.state_temperature * noise)[0]
        season = [
            self.draw_emission(t, centre[t], k[t], control[t], which[0], temperature, generator)
            for t in range(len(control))
        ]
        return torch.stack(season, 1).flatten(1)
