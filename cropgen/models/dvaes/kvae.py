"""Kalman variational auto-encoder on time-ordered innovations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers import kalman
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.chained import emission_on
from cropgen.models.layers.dynamical import DynamicalModel, DynamicalOptions, View, Walk
from cropgen.models.layers.kalman import Belief
from cropgen.models.layers.latent_dynamics import Reading, standard_path
from cropgen.series.batches import Batch

_FIRST_RETENTION = 0.9
_SPREAD_OF_DYNAMICS = 0.05
_LEAST_NOISE = 1e-3


class KVAEOptions(DynamicalOptions):
    """Options of `kvae`."""

    latent: int = Field(
        4, ge=1, description="size of the state z of the linear dynamics", json_schema_extra={"search": [4, 8]}
    )
    encoded: int = Field(2, ge=1, description="size of the encoding a of a date")
    dynamics: int = Field(3, ge=1, description="linear dynamics that are mixed, date by date")
    smoothing: int = Field(32, ge=1, description="units of the recurrent network that mixes the linear dynamics")


@dataclass(frozen=True)
class Step:
    """One date of the filter.

    Arguments:
        predicted, filtered: p(z_t | a_<t) and p(z_t | a_≤t).
        transition: (…, Z, Z) A_t.
        parts: δ_t and ρ_t, (…, A), in units of the factor of p(a_t | a_<t).
        a: (…, A) the encoding.
    """

    predicted: Belief
    filtered: Belief
    transition: Tensor
    parts: tuple[Tensor, Tensor]
    a: Tensor


class KVAE(DynamicalModel):
    """A Kalman variational auto-encoder around the tied Gaussian: linear dynamics of encodings, filtered exactly.

    With u_t = B [Δ_t, features of the day, site] + w_y the control, α_t = softmax of a recurrent network over a_<t that
    mixes M linear dynamics, and o_{y,t} the class mean's innovation,

        p(x, a, z | u) = Π p(e_t | a_t, y) p(a_t | z_t) p(z_t | z_{t−1}, u_t)
        q(a, z | x, u) = Π q(a_t | a_<t, x_t) · p(z | a, u)

        p(z_t | z_{t−1}, u_t) = N(A_t z_{t−1} + u_t, diag Q),   A_t = Σ_m α_t,m A^m
        p(a_t | z_t)          = N(C_t z_t, diag R),             C_t = Σ_m α_t,m C^m
        p(e_t | a_t, y)       = N(o_{y,t} + d_{y,t} + g(a_t, Δ_t, y), diag exp(v_t + s(a_t, Δ_t, y)))
        p(a_t | a_<t)         = N(â_t, L_t L_tᵀ) by Kalman's filter
        q(a_t | a_<t, x_t)    = N(â_t + L_t m_t δ, L_t diag(e^{m_t ρ}) L_tᵀ)

        ELBO_y = Σ_t m_t E_q [log p(e_t | a_t, y) − KL(q(a_t | a_<t, x_t) ‖ p(a_t | a_<t))]

    z is integrated out exactly: its posterior given a is Kalman's. The encoding departs from what the filter expects
    of it, δ and ρ read x_t alone and begin at zero, as g and s do, so the model begins exactly at the tied Gaussian. A
    missing date has no a: the filter predicts and goes on. Nothing looks ahead, so scores and states are causal; the
    smoother of Rauch, Tung and Striebel gives z from the whole season (`smoothed_states`). a is (G, S, B, K, A), z
    (G, S, B, K, Z).

    Reference:
        A Disentangled Recognition and Nonlinear Dynamics Model for Unsupervised Learning, Fraccaro, Kamronn, Paquet and
        Winther, 2017.
    """

    Settings = KVAEOptions
    causal = True

    def __init__(self, spec: InputSpec, options: KVAEOptions) -> None:
        super().__init__(spec, options)
        bands, k, hidden = len(spec.bands), spec.classes, options.hidden
        size, latent, count = options.encoded, options.latent, options.dynamics
        self.encoder = Reading(bands + 1 + self.control_width, bands, k, size, hidden)
        self.memory = nn.GRUCell(size + 1, options.smoothing)
        self.mix = nn.Linear(options.smoothing, count)
        spread = _SPREAD_OF_DYNAMICS * torch.randn(count, latent, latent)
        self.transition = nn.Parameter(_FIRST_RETENTION * torch.eye(latent) + spread)
        self.reading = nn.Parameter(torch.randn(count, size, latent) / latent**0.5)
        self.control = nn.Linear(self.control_width, latent)
        self.of_class = nn.Parameter(torch.zeros(k, latent))
        self.log_state_noise = nn.Parameter(torch.full((latent,), 1 - _FIRST_RETENTION**2).log())
        self.log_noise = nn.Parameter(torch.zeros(size))
        self.initial = self.initial_state()
        self.emission = emission_on(spec, options, 0, size)

    @property
    def noise_width(self) -> int:
        return cast(KVAEOptions, self.options).encoded

    def walk(self, view: View, noise: Tensor) -> Walk:
        steps = self.filter(view, noise)
        shift, log_ratio = (torch.stack([step.parts[i] for step in steps]) for i in (0, 1))
        a = torch.stack([step.a for step in steps])
        parts = self.emission(a, view.control[:, None, :, None], view.each)
        return self.emitted(view, standard_path(shift, log_ratio, noise), parts)

    def filter(self, view: View, noise: Tensor) -> list[Step]:
        """Kalman's filter over the encodings, drawn as it goes."""
        now = torch.cat([view.now, view.control], -1)[:, None, :, None]
        shift, log_ratio = self.encoder(view.each, now, view.surprise)
        drift = self.control(view.control)[:, None, :, None] + view.each @ self.of_class
        lead = torch.broadcast_shapes(noise.shape[1:-1], shift.shape[1:-1])
        belief, memory = self._begin(lead)
        steps = []
        for t in range(len(noise)):
            mask = view.mask[t].expand(lead)
            step = self._step(belief, memory, drift[t], mask, (shift[t], log_ratio[t], noise[t]))
            seen = torch.cat([step.a * mask[..., None], mask[..., None]], -1)
            memory = self.memory(seen.flatten(0, -2), memory)
            belief = step.filtered
            steps.append(step)
        return steps

    def latent_states(self, batch: Batch) -> Tensor:
        """(B, G, Z) E[z_t | x_≤t] over classes and samples, by the filter."""
        found = []
        for block in self._blocks(self._seasons(batch)):
            filtered = [step.filtered.mean for step in self.filter(self.view(block), self.noise)]
            found.append(self.averaged(torch.stack(filtered), self.log_weights(block).cumsum(0)))
        return torch.cat(found)

    def smoothed_states(self, batch: Batch) -> Tensor:
        """(B, G, Z) E[z_t | x] of the whole season over classes and samples, by the smoother."""
        return torch.cat([self._smoothed(block) for block in self._blocks(self._seasons(batch))])

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        control, centre, which = self.season_to_draw(y)
        scale = temperature * self.settings.state_temperature
        drift = self.control(control) + which @ self.of_class
        belief, memory = self._begin(torch.Size((len(y),)))
        season, ones = [], centre.new_ones(len(y))
        for t in range(len(control)):
            noise = scale * torch.randn((len(y), self.noise_width), generator=generator, dtype=centre.dtype)
            nothing = torch.zeros_like(noise)
            step = self._step(belief, memory, drift[t], ones, (nothing, nothing, noise))
            belief, memory = step.filtered, self.memory(torch.cat([step.a, ones[:, None]], -1), memory)
            mean, change = self.emission(step.a, control[t], which[0])
            season.append(self.draw_date(t, centre[t], mean, change, temperature, generator))
        return torch.stack(season, 1).flatten(1)

    def _begin(self, lead: torch.Size) -> tuple[Belief, Tensor]:
        initial = self.initial.to(self.shift)
        cov = torch.eye(len(initial), dtype=initial.dtype, device=initial.device)
        memory = initial.new_zeros(lead.numel(), self.memory.hidden_size)
        return Belief(initial.expand(*lead, -1), cov.expand(*lead, -1, -1)), memory

    def _step(
        self, belief: Belief, memory: Tensor, drift: Tensor, mask: Tensor, drawn: tuple[Tensor, Tensor, Tensor]
    ) -> Step:
        """Predict, draw the encoding about what is expected of it, and learn from it where the date was observed.

        Arguments:
            belief: p(z_{t−1} | a_<t).
            memory: (rows, ·) of the network that mixes the dynamics.
            drift: (…, Z) u_t.
            mask: (…) m_t.
            drawn: δ, ρ and ε, (…, A).
        """
        share = torch.softmax(self.mix(memory), -1).view(*mask.shape, -1)
        transition = torch.einsum("...m,mij->...ij", share, self.transition)
        reading = torch.einsum("...m,mij->...ij", share, self.reading)
        state_noise, own_noise = (x.exp() + _LEAST_NOISE for x in (self.log_state_noise, self.log_noise))
        predicted = kalman.predict(belief, transition, drift, state_noise)
        expected = kalman.expect(predicted, reading, own_noise)
        shift, log_ratio = (mask[..., None] * part for part in drawn[:2])
        unit = shift + torch.exp(log_ratio / 2) * drawn[2]
        a = expected.mean + kalman.apply(torch.linalg.cholesky(expected.cov), unit)
        learnt = kalman.update(predicted, reading, own_noise, a)
        return Step(predicted, kalman.choose(mask, learnt, predicted), transition, (shift, log_ratio), a)

    def _smoothed(self, seasons: Seasons) -> Tensor:
        view = self.view(seasons)
        steps = self.filter(view, self.noise)
        found = kalman.smooth(
            [step.filtered for step in steps], [step.predicted for step in steps], [step.transition for step in steps]
        )
        return self.averaged(
            torch.stack([belief.mean for belief in found]), self.log_weights(seasons).sum(0, keepdim=True)
        )
