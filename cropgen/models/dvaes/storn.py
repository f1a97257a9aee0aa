"""Stochastic recurrent network of independent states on time-ordered innovations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.chained import Observer, emission_on
from cropgen.models.layers.dynamical import DynamicalModel, DynamicalOptions, View, Walk
from cropgen.models.layers.latent_dynamics import Reading, standard_path


class STORNOptions(DynamicalOptions):
    """Options of `storn`."""

    learn_initial: bool = Field(True, description="no effect: the states are independent, none comes before the first")
    inference: Literal["filter", "smooth"] = Field(
        "filter", description="filter: q sees dates up to its own, scores are causal; smooth: q sees the whole season"
    )


class STORN(DynamicalModel):
    """STORN around the tied Gaussian: independent latent states stir a deterministic recurrent network.

    With h_t = GRU(h_{t−1}; e_{t−1}, m_{t−1}, z_t, Δ_t), so that h_t holds e_<t and z_≤t, o_t a recurrent network over
    e_≤t (filter) or e (smooth), and o_{y,t} the class mean's innovation,

        p(x, z | y) = Π p(e_t | h_t(e_<t, z_≤t), y) p(z_t),   q(z | x, y) = Π q(z_t | x_≤t, y)

        p(z_t)             = N(0, I)
        p(e_t | h_t, y)    = N(o_{y,t} + d_{y,t} + g(h_t, Δ_t, y), diag exp(v_t + s(h_t, Δ_t, y)))
        q(z_t | x_≤t, y)   = N(m_t δ, diag e^{m_t ρ}) of (o_t, e_t − o_{y,t}, y)

        ELBO_y = Σ_t m_t E_q [log p(e_t | h_t, y) − KL(q(z_t | x_≤t, y) ‖ N(0, I))]

    g, s, δ and ρ begin at zero, so the model begins exactly at the tied Gaussian. q leaves out z_<t, on which the true
    posterior depends; in return all states are drawn at once and a library recurrence runs over them: no kernel is
    needed. z is (G, S, B, K, Z).

    Reference:
        Learning Stochastic Recurrent Networks, Bayer and Osendorfer, 2014.
    """

    Settings = STORNOptions
    feeds_back = True

    def __init__(self, spec: InputSpec, options: STORNOptions) -> None:
        super().__init__(spec, options)
        self.causal = options.inference == "filter"
        bands, hidden, latent = len(spec.bands), options.hidden, options.latent
        seen = bands + 1 + self.control_width
        self.observer = Observer(seen, options.smoothing, "forward" if self.causal else "both")
        self.inference = Reading(self.observer.width, bands, spec.classes, latent, hidden)
        self.memory = nn.GRU(seen + latent, hidden)
        self.emission = emission_on(spec, options, 0, hidden)

    def walk(self, view: View, noise: Tensor) -> Walk:
        observed = self.observer.observe(torch.cat([view.now, view.control], -1))[:, None, :, None]
        shift, log_ratio = self.inference(view.each, observed, view.surprise)
        mask = view.mask[..., None]
        path = standard_path(mask * shift, mask * log_ratio, noise)
        lead = path.z.shape[1:-1]
        past = torch.cat([view.before, view.control], -1)[:, None, :, None].expand(-1, *lead, -1)
        h = self.memory(torch.cat([past, path.z], -1).flatten(1, -2))[0].unflatten(1, lead)
        return self.emitted(view, path, self.emission(h, view.control[:, None, :, None], view.each))

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        control, centre, which = self.season_to_draw(y)
        past, memory, season = torch.zeros(len(y), centre.shape[-1] + 1, dtype=centre.dtype), None, []
        for t in range(len(control)):
            noise = torch.randn((len(y), self.settings.latent), generator=generator, dtype=centre.dtype)
            z = temperature * self.settings.state_temperature * noise
            past = self.shown(past, control[t])
            h, memory = self.memory(torch.cat([past, control[t], z], -1)[None], memory)
            mean, change = self.emission(h[0], control[t], which[0])
            e = self.draw_date(t, centre[t], mean, change, temperature, generator)
            past = torch.cat([e, torch.ones_like(e[:, :1])], -1)
            season.append(e)
        return torch.stack(season, 1).flatten(1)
