"""With one date every dynamical model is a variational auto-encoder, here written with torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from cropgen.models.base import InputSpec
from cropgen.models.catalog import find, load
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from tests.models.dvaes.crops import BANDS, CLASSES, SPEC, seasons

SAMPLES, ROWS = 5, 4
Latents = tuple[Tensor, Tensor]
"""What the emission sees of the latent states (S, B, ·), and log p − log q of them (S, B)."""


class Case:
    """One date of a few rows, as one class sees them."""

    def __init__(self, model: Any, batch: Batch, k: int) -> None:
        rows = model._seasons(batch)
        self.model, self.k, self.e = model, k, rows.e
        angle = rows.day[:, 0] * 2 * math.pi / 365.25
        waves = [angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos(), 0 * angle]
        self.time = torch.stack(waves, -1)
        self.centre = rows.offset[:, k] + model.shift[k]
        self.surprise = self.e - self.centre
        self.now = torch.cat([self.e, torch.ones_like(self.e[:, :1]), self.time], -1)
        self.past = torch.cat([0 * self.e, 0 * self.e[:, :1], self.time], -1)
        self.noise = model.noise[-1, :, 0]

    def observed(self) -> Tensor:
        return self.model.observer(self.now[None])[0][0]

    def head(self, head: Any, shared: Tensor, state: Tensor, k: int, *, own: Tensor | None = None) -> Tensor:
        total = shared @ head.shared + head.of_class[k]
        if own is not None:
            total = total + own @ head.own
        inner = state @ head.state + head.bias
        hidden = torch.tanh(inner) + total if head.combine else torch.tanh(inner + total)
        return hidden @ head.out + head.out_bias

    def read(self, reading: Any, shared: Tensor, k: int, *, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden = reading.of_shared(shared) + reading.of_class[k]
        if own is not None:
            hidden = hidden + own @ reading.of_own
        shift, ratio = reading.out(torch.tanh(hidden)).chunk(2, -1)
        return shift, 3 * torch.tanh(ratio / 3)

    def cell(self, z: Tensor, inputs: list[Tensor]) -> Tensor:
        r = self.model.recurrence
        weights = [
            w for w in (r.inputs, None if r.of_class is None else r.of_class[self.k : self.k + 1]) if w is not None
        ]
        seen = torch.cat([*inputs, z.expand(ROWS, -1)], -1)
        hidden_bias = torch.cat([torch.zeros_like(r.bias[: 2 * len(r.state_bias)]), r.state_bias])
        before = r.initial.expand(ROWS, -1)
        return torch.gru_cell(seen, before, torch.cat([*weights, r.latent]).T, r.state.T, r.bias, hidden_bias)


def against(prior: Normal, shift: Tensor, ratio: Tensor, noise: Tensor, *, mean: Tensor | None = None) -> Latents:
    """A draw of q = N(p's mean or `mean` + shift, p's variance e^ratio), and its ratio."""
    q = Normal((prior.mean if mean is None else mean) + shift, prior.stddev * torch.exp(ratio / 2))
    z = q.mean + q.stddev * noise
    return z, (prior.log_prob(z) - q.log_prob(z)).sum(-1)


def spread(base: float, change: Tensor) -> Tensor:
    return torch.exp((base + 3 * torch.tanh(change / 3)) / 2)


def markov(case: Case) -> Latents:
    model, z0 = case.model, case.model.initial.expand(ROWS, -1)
    size = z0.shape[-1]
    out = case.head(model.transition, case.time, z0, case.k)
    drift, change, gate = out[:, :size], out[:, size : 2 * size], torch.sigmoid(out[:, 2 * size :])
    mean = 0.9 * z0 + drift
    if gate.numel():
        mean = (1 - gate) * (0.9 * z0 @ model.linear) + gate * drift
    prior = Normal(mean, spread(math.log(1 - 0.81), change))
    shift, ratio = case.head(model.inference, case.observed(), z0, case.k, own=case.surprise).chunk(2, -1)
    return against(prior, shift, 3 * torch.tanh(ratio / 3), case.noise)


def recurrent(case: Case) -> Latents:
    model = case.model
    h = case.cell(model.initial, [case.past, torch.ones(ROWS, 1).double()])
    drift, change = case.head(model.transition, case.time, h, case.k).chunk(2, -1)
    shift, ratio = case.head(model.inference, case.observed(), h, case.k, own=case.surprise).chunk(2, -1)
    z, weight = against(Normal(drift, spread(0.0, change)), shift, 3 * torch.tanh(ratio / 3), case.noise)
    return torch.cat([z, h.expand(SAMPLES, -1, -1)], -1), weight


def independent(case: Case) -> Latents:
    model = case.model
    h = case.cell(model.initial, [])
    shift, ratio = case.head(model.inference, case.observed(), h, case.k, own=case.surprise).chunk(2, -1)
    z, weight = against(Normal(torch.zeros_like(shift), 1.0), shift, 3 * torch.tanh(ratio / 3), case.noise)
    return model.decoder(z.flatten(0, 1)[None])[0][0].unflatten(0, (SAMPLES, ROWS)), weight


def stirred(case: Case) -> Latents:
    model = case.model
    shift, ratio = case.read(model.inference, case.observed(), case.k, own=case.surprise)
    z, weight = against(Normal(torch.zeros_like(shift), 1.0), shift, ratio, case.noise)
    seen = torch.cat([case.past.expand(SAMPLES, -1, -1), z], -1)
    return model.memory(seen.flatten(0, 1)[None])[0][0].unflatten(0, (SAMPLES, ROWS)), weight


def disentangled(case: Case) -> Latents:
    model, o = case.model, case.observed()
    shift, ratio = case.read(model.season, o, case.k)
    v, of_season = against(Normal(model.centre[case.k].expand_as(shift), 1.0), shift, ratio, model.noise[0, :, 0])
    h = case.cell(model.initial, [])
    drift, change = case.head(model.transition, case.time, h, 0).chunk(2, -1)
    own = torch.cat([case.surprise.expand(SAMPLES, -1, -1), v], -1)
    shift, ratio = case.head(model.inference, o, h, 0, own=own).chunk(2, -1)
    prior = Normal(drift, spread(0.0, change))
    mean = torch.zeros_like(shift) if model.direct else None
    relative = 3 * torch.tanh(ratio / 3) - (2 * prior.stddev.log() if model.direct else 0)
    z, of_date = against(prior, shift, relative, case.noise, mean=mean)
    return torch.cat([z, v], -1), of_season + of_date


def kalman(case: Case) -> Latents:
    model = case.model
    share = torch.softmax(model.mix.bias, -1)
    transition, reading = ((share[:, None, None] * part).sum(0) for part in (model.transition, model.reading))
    state_noise, own_noise = (part.exp() + 1e-3 for part in (model.log_state_noise, model.log_noise))
    mean = (model.initial @ transition.T + model.control(case.time) + model.of_class[case.k]) @ reading.T
    cov = reading @ (transition @ transition.T + state_noise.diag()) @ reading.T + own_noise.diag()
    factor = torch.linalg.cholesky(cov)
    shift, ratio = case.read(model.encoder, case.now, case.k, own=case.surprise)
    q = MultivariateNormal(mean + shift @ factor.T, scale_tril=factor @ torch.exp(ratio / 2).diag_embed())
    a = q.mean + (torch.exp(ratio / 2) * case.noise) @ factor.T
    return a, MultivariateNormal(mean, cov).log_prob(a) - q.log_prob(a)


CASES: list[tuple[str, dict[str, Any], Callable[[Case], Latents]]] = [
    ("dkf", {}, markov),
    ("dmm", {"inference": "st-lr"}, markov),
    ("vrnn", {}, recurrent),
    ("rvae", {}, independent),
    ("rvae", {"decoder": "noncausal"}, independent),
    ("storn", {}, stirred),
    ("dsae", {}, disentangled),
    ("dsae", {"inference": "original"}, disentangled),
    ("kvae", {}, kalman),
]


@pytest.mark.parametrize(
    ("name", "settings", "latents"), CASES, ids=[f"{n} {' '.join(s.values())}" for n, s, _ in CASES]
)
def test_one_date_is_a_variational_autoencoder(
    name: str, settings: dict[str, Any], latents: Callable[[Case], Latents]
) -> None:
    spec = InputSpec(SPEC.bands, Calendar("month", 4, 1), SPEC.legend)
    whole = seasons(ROWS, 6, gaps=0.0).to(dtype=torch.float64)
    batch = Batch(whole.values[:, :1], whole.mask[:, :1], whole.day[:, :1], whole.slot[:, :1], whole.y)
    torch.manual_seed(1)
    kind = load(find(name))
    tiny = {"hidden": 6, "latent": 3, "smoothing": 3, "samples": SAMPLES}
    model: Any = kind(spec, kind.Settings.model_validate({**tiny, **settings})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64) * 0.2)
        model.tied.means.copy_(torch.randn(CLASSES, BANDS, dtype=torch.float64))
        expected = []
        for k in range(CLASSES):
            case = Case(model, batch, k)
            seen, weight = latents(case)
            emission = model.emission
            hidden = (
                emission.of_state(seen)
                + emission.of_context(case.time)
                + emission.of_class[k if len(emission.of_class) > 1 else 0]
            )
            mean, change = emission.out(torch.tanh(hidden)).chunk(2, -1)
            density = Normal(case.centre + mean, torch.exp((model.log_var + 3 * torch.tanh(change / 3)) / 2))
            weight = weight + density.log_prob(case.e).sum(-1)
            expected.append(torch.logsumexp(weight, 0) - math.log(SAMPLES) + model.tied.log_prior[k])
        torch.testing.assert_close(model.log_joint(batch), torch.stack(expected, 1), rtol=0, atol=1e-9)
