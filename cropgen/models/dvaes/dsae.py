"""Disentangled sequential auto-encoder on time-ordered innovations."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.kernels.recurrence.reference import Cell, ChainInputs, ChainPath
from cropgen.models.base import InputSpec
from cropgen.models.layers.chained import ChainModel, ChainOptions, Observer
from cropgen.models.layers.dynamical import View, Walk
from cropgen.models.layers.latent_dynamics import (
    Emission,
    LatentCell,
    LatentHead,
    Reading,
    standard_path,
)


class DSAEOptions(ChainOptions):
    """Options of `dsae`."""

    retention: float = Field(0.0, ge=0, lt=1, description="share of the latent state kept from slot to slot at first")
    inference: Literal["corrected", "original"] = Field(
        "corrected",
        description="corrected: q(z(t)) sees v, the states before and the dates from its own on; original: v and the "
        "whole season, not the states before, which needs retention=0",
    )


class DSAE(ChainModel):
    """A disentangled sequential auto-encoder around the tied Gaussian: v says what the season is, z_t how it goes.

    With s_t = GRU(z_<t), o_t a recurrent network over e_≥t (corrected) or e (original), and o_{y,t} the class mean's
    innovation,

        p(x, z, v | y) = p(v | y) Π p(e_t | z_t, v) p(z_t | z_<t)
        corrected   q(z, v | x, y) = q(v | x, y) Π q(z_t | z_<t, v, x_≥t)
        original    q(z, v | x, y) = q(v | x, y) Π q(z_t | v, x)

        p(v | y)             = N(c_y, I)
        p(z_t | z_<t)        = N(r z_{t−1} + f(s_t, Δ_t), diag e^λ),   r = 0 in the textbook
        p(e_t | z_t, v)      = N(o_{y,t} + d_{y,t} + g(z_t, v, Δ_t), diag exp(v_t + s(z_t, v, Δ_t)))
        q(v | x, y)          = N(c_y + δ, diag e^ρ) of (o, y)
        q(z_t | z_<t, v, x)  = N(p's mean + m_t δ, p's log-variance + m_t ρ) of (s_t, o_t, v, e_t − o_{y,t})

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t, v) − KL(q(z_t | ·) ‖ p(z_t | z_<t))] − KL(q(v | x, y) ‖ p(v | y))

    v carries the class: besides the class means, y acts through the prior of v alone. c, f, g, s, δ and ρ begin at
    zero, so the model begins exactly at the tied Gaussian. The original inference does not build on the transition:
    it leaves out z_<t, on which the true posterior depends. v is (1, S, B, K, Z), z (G, S, B, K, Z).

    References:
        Disentangled Sequential Autoencoder, Li and Mandt, 2018; Dynamical Variational Autoencoders: A Comprehensive
        Review, Girin, Leglaive, Bie, Diard, Hueber and Alameda-Pineda, 2021 (the corrected inference).
    """

    Settings = DSAEOptions
    filter_hint = "v is of the whole season; take vrnn, storn or kvae"

    def __init__(self, spec: InputSpec, options: DSAEOptions) -> None:
        super().__init__(spec, options)
        bands, hidden, latent = len(spec.bands), options.hidden, options.latent
        direction = "both" if options.inference == "original" else "backward"
        self.observer = Observer(bands + 1 + self.control_width, options.smoothing, direction)
        self.season = Reading(self.observer.width, 0, spec.classes, latent, hidden)
        self.centre = nn.Parameter(torch.zeros(spec.classes, latent))
        self.recurrence = LatentCell(0, 0, latent, hidden)
        self.transition = LatentHead(self.control_width, 0, 1, latent, hidden, state=hidden)
        self.inference = LatentHead(self.observer.width, bands + latent, 1, latent, hidden, state=hidden)
        if options.inference == "original":
            del self.inference.state
            self.inference.register_buffer("state", torch.zeros(hidden, hidden))
        self.initial = self.initial_state()
        self.emission = Emission(self.control_width, 2 * latent, 1, hidden, bands)

    @property
    def noise_rows(self) -> int:
        """One draw for v, and one for each slot."""
        return 1 + self.spec.calendar.count

    @property
    def direct(self) -> bool:
        return super().direct or cast(DSAEOptions, self.options).inference == "original"

    def observe(self, view: View) -> Tensor:
        return self.observer.observe(torch.cat([view.now, view.control], -1))

    def cell(self) -> Cell:
        return self.recurrence.weights()

    def walk(self, view: View, noise: Tensor) -> Walk:
        observed = self.observe(view)
        whole = self._season_path(view, observed, noise[:1])
        one = view.each[..., :1, :1]
        context = view.control[:, None, :, None]
        surprise = view.surprise.expand(-1, len(noise[0]), -1, -1, -1)
        own = torch.cat([surprise, whole.z.expand(*surprise.shape[:-1], -1)], -1)
        inputs = ChainInputs(
            self.prior_inputs(one, context),
            self.inference.inputs(one, observed[:, None, :, None], own),
            view.mask[..., None],
            noise[1:],
        )
        path = self.run_chain(self.chain(), inputs)
        seen = torch.cat([path.z, whole.z.expand_as(path.z)], -1)
        return self.emitted(view, path, self.emission(seen, context, one), (whole, noise[:1]))

    def _season_path(self, view: View, observed: Tensor, noise: Tensor) -> ChainPath:
        """v (1, S, B, K, Z): the prior where a row shows nothing."""
        units = self.observer.hidden_size
        ends = [observed[-1, :, :units], observed[0, :, units:]] if self.observer.bidirectional else [observed[0]]
        shift, log_ratio = self.season(view.each, torch.cat(ends, -1)[None, None, :, None])
        seen = view.mask.amax(0, keepdim=True)[..., None]
        path = standard_path(seen * shift, seen * log_ratio, noise)
        return path._replace(z=path.z + self.centre)

    def inputs(self, view: View, context: Tensor, noise: Tensor) -> ChainInputs:
        """What the transition runs over; the inference is given no season."""
        one, nothing = view.each[..., :1, :1], view.surprise.new_zeros(1, 1, 1, 1, 1)
        unseen = [nothing.expand(-1, -1, -1, -1, len(weight)) for weight in self.inference.weights().inputs]
        return ChainInputs(self.prior_inputs(one, context), tuple(unseen), view.mask[..., None], noise)

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        control, centre, which = self.season_to_draw(y)
        scale, latent = temperature * self.settings.state_temperature, self.settings.latent
        noise = scale * torch.randn((len(control) + 1, len(y), latent), generator=generator, dtype=centre.dtype)
        v = self.centre[y] + noise[0]
        one, unseen = torch.ones_like(which[..., :1]), noise.new_zeros(1, 1, 1)
        nothing = [unseen.expand(-1, -1, len(weight)) for weight in self.inference.weights().inputs]
        mask = unseen.expand(len(control), -1, -1)
        inputs = ChainInputs(self.prior_inputs(one, control), tuple(nothing), mask, noise[1:])
        z = self.run_chain(self.chain(), inputs).z
        season = []
        for t in range(len(control)):
            mean, change = self.emission(torch.cat([z[t], v], -1), control[t], one[0])
            season.append(self.draw_date(t, centre[t], mean, change, temperature, generator))
        return torch.stack(season, 1).flatten(1)
