"""Hierarchies of Gaussian latents: exact start, bounds that are known, divergences, missing dates, L^{>k}."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae import hierarchy
from cropgen.models.layers.vae.bounds import log_mean_exp
from cropgen.models.layers.vae.hierarchy import (
    Descent,
    HierarchicalModel,
    HierarchicalOptions,
    Level,
    Seen,
    bounded,
    residual_posterior,
)
from cropgen.models.layers.vae.ladder import half_lengths
from cropgen.models.layers.vae.residual_cells import SpectralPenalty
from cropgen.models.vaes.biva import BIVA
from cropgen.models.vaes.lvae import LVAE, merged
from cropgen.models.vaes.nvae import NVAE
from tests.models.dvaes.crops import BANDS, CLASSES, SLOTS, SPEC, TEST, tied
from tests.models.vaes.six_steps import learnt_by

ROWS: list[type[HierarchicalModel]] = [LVAE, BIVA, NVAE]
TINY: dict[str, Any] = {"hidden": 8, "latent": 2, "samples": 3, "copies": 64}
every_row = pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)


def built(kind: type[HierarchicalModel], **settings: Any) -> HierarchicalModel:
    """A small model in double precision before its first step."""
    torch.manual_seed(0)
    model = kind(SPEC, kind.Settings.model_validate({**TINY, **settings})).double().eval()
    model.tied.load_state_dict(tied().state_dict())
    return model


def disturbed(kind: type[HierarchicalModel], by: float = 0.15, **settings: Any) -> HierarchicalModel:
    """A model whose every weight is away from its start."""
    model = built(kind, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * by)
    return model


@every_row
def test_it_begins_exactly_at_the_tied_gaussian(kind: type[HierarchicalModel]) -> None:
    model = built(kind)
    x, mask = model.tied.grid(TEST)
    with torch.no_grad():
        exact = model.tied.log_joint(x, mask)
        assert torch.allclose(model.log_joint(TEST), exact, atol=1e-9, rtol=0)
        for level in (1, 3):
            assert torch.allclose(model.log_joint_above(TEST, level), exact, atol=1e-9, rtol=0)
        use = model.use_of_latents(TEST)
    assert use["kl"] == pytest.approx([0.0] * len(use["kl"]), abs=1e-9)  # type: ignore[arg-type]


@pytest.mark.slow
@every_row
@pytest.mark.parametrize("settings", [{"levels": 1}, {"start": "none", "estimator": "iwae", "draws": 2}])
def test_a_single_level_and_the_textbook_form_learn(kind: type[HierarchicalModel], settings: dict[str, Any]) -> None:
    model = built(kind, **settings)
    textbook = {"log_var"} if "start" in settings else set()  # the decoder gives the scale
    assert learnt_by(model) == {name for name, _ in model.named_parameters()} - textbook
    with torch.no_grad():
        assert torch.isfinite(model.log_joint(TEST)).all()


class Linear(HierarchicalModel):
    """Two linear levels whose posterior is a diagonal Gaussian and known: z_1 = A z_2 + s ε, e − o_y = W z_1 + ν.

    A and W have one entry in every row, so that the columns of neither share an entry.
    """

    Settings = HierarchicalOptions

    def __init__(self, spec: Any, options: HierarchicalOptions) -> None:
        super().__init__(spec, options)
        generator = torch.Generator().manual_seed(2)
        upper, lower, size = self.lengths[2], self.lengths[1], self.size
        self.a, self.w = torch.zeros(lower, upper), torch.zeros(size, lower)
        self.a[torch.arange(lower), torch.arange(lower) % upper] = torch.randn(lower, generator=generator)
        self.w[torch.arange(size), torch.arange(size) % lower] = torch.randn(size, generator=generator)
        self.a, self.w, self.s = self.a.double(), self.w.double(), 0.7

    def ascend(self, seasons: Seasons, noise: list[Tensor]) -> Seen:
        offset = (seasons.offset + self.shift) * seasons.present[:, None]
        return Seen((seasons.e[:, None], offset, seasons.present[:, None]))

    def descend(self, seen: Seen | None, y: Tensor, noise: list[Tensor], above: int) -> Descent:
        assert seen is not None
        e, offset, present = seen.features
        r, w = e[:, 0] - offset[torch.arange(len(y)), y], self.w * present[:, 0, :, None]
        evidence, told = w.square().sum(1), torch.einsum("nd,ndl->nl", r, w)
        spread = self.s**2 + 1 / evidence.clamp(min=1e-12)
        precision = 1 + (self.a.square() / spread[..., None]).sum(1)
        mean = (self.a * (told / evidence.clamp(min=1e-12) / spread)[..., None]).sum(1) / precision
        zero = torch.zeros_like(mean)
        p = q = zero, zero
        if above < 2:
            q = mean, -0.5 * precision.log()
        z_2 = q[0] + q[1].exp() * noise[1][:, 0]
        top = Level(z_2[:, None], *(part[:, None] for part in (*p, *q)))
        from_above = z_2 @ self.a.T
        p = q = from_above, torch.full_like(from_above, math.log(self.s))
        if above < 1:
            total = 1 / self.s**2 + evidence
            q = (from_above / self.s**2 + told) / total, -0.5 * total.log()
        z_1 = q[0] + q[1].exp() * noise[0][:, 0]
        low = Level(z_1[:, None], *(part[:, None] for part in (*p, *q)))
        return Descent((top, low), (z_1 @ self.w.T).unflatten(1, (SLOTS, BANDS)))


def linear(samples: int) -> tuple[Linear, Tensor]:
    """The linear model and the exact (B, K) log p(e | y) of the test rows."""
    model = built(Linear, levels=2, latent=1, samples=samples)
    assert isinstance(model, Linear)
    with torch.no_grad():
        model.shift.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    seen = model.seen_rows(TEST)
    cov = (
        torch.eye(model.size)
        + model.w @ (model.a @ model.a.T + model.s**2 * torch.eye(len(model.a)).double()) @ model.w.T
    )
    exact = torch.zeros(len(TEST), CLASSES, dtype=torch.float64)
    for row, there in enumerate(seen.seasons.present.bool()):
        normal = torch.distributions.MultivariateNormal(cov.new_zeros(int(there.sum())), cov[there][:, there])
        exact[row] = normal.log_prob(seen.surprise[row][:, there].detach())
    return model, exact


def test_with_the_exact_posterior_every_draw_gives_the_exact_density() -> None:
    model, exact = linear(3)
    with torch.no_grad():
        weight = model.explain(model.seen_rows(TEST), model.noise).log_weight
        assert torch.allclose(weight, exact.expand(3, -1, -1), atol=1e-9, rtol=0)
        scores = model.log_joint(TEST) - model.tied.log_prior + model._seasons(TEST).log_det[:, None]
    assert torch.allclose(scores, exact, atol=1e-9, rtol=0)


def test_what_the_upper_level_says_has_a_closed_form() -> None:
    """L^{>1} = E log p(e | z_1) − KL(q(z_2) ‖ p(z_2)) with z_1 ~ N(A m, A V Aᵀ + s² I)."""
    model, exact = linear(4000)
    rows = model.seen_rows(TEST)
    with torch.no_grad():
        weight = model.explain_above(rows, model.noise, 1).log_weight
        q = model.walk(rows, torch.zeros_like(model.noise[:1]), 1).levels[0]
    mean, spread = (part[:, 0].unflatten(0, (len(TEST), CLASSES)) for part in (q.q_mean, q.q_log_std))
    cov = model.a @ torch.diag_embed((2 * spread).exp()) @ model.a.T + model.s**2 * torch.eye(len(model.a)).double()
    present = rows.seasons.present[:, None]
    away = (rows.surprise - mean @ model.a.T @ model.w.T) * present
    uncertain = torch.einsum("dl,bklm,dm->bkd", model.w, cov, model.w) * present
    expected = -0.5 * (away.square() + uncertain + math.log(2 * math.pi) * present).sum(-1)
    closed = expected - 0.5 * (mean.square() + (2 * spread).exp() - 1 - 2 * spread).sum(-1)
    error = weight.std(0) / math.sqrt(len(weight))
    assert ((weight.mean(0) - closed).abs() < 4.5 * error).all()
    assert (closed < exact).all()


@every_row
def test_every_level_pays_its_divergence(kind: type[HierarchicalModel]) -> None:
    """The divergences of the levels, closed where they can be, are on average what log q − log p is."""
    model = disturbed(kind)
    rows = model.rows(model.seen_rows(TEST).seasons.take(slice(2)), model.seen_rows(TEST).features[:2])
    noise = torch.randn((1500, 2, 1, model.noise_size), generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        path = model.walk(rows, noise, 0)
        explained = model.explain(rows, noise)
        for number, level in enumerate(path.levels):
            log_p, log_q = level.log_densities()
            gap = (log_q - log_p - level.divergence()).view(len(noise), -1)
            assert (gap.mean(0).abs() <= 4.5 * gap.std(0) / math.sqrt(len(noise)) + 1e-12).all()
            assert torch.equal(explained.divergence[..., number].flatten(), level.divergence())
            if level.closed:
                assert (level.divergence() > -1e-12).all()
                assert level.divergence().mean() > 0
    assert explained.divergence.shape[-1] == len(path.levels) >= 3
    by_draws = [log_mean_exp(explained.log_weight.unflatten(0, (n, -1))).mean(0) for n in (1, 5, 50)]
    assert (by_draws[0] <= by_draws[1]).all()
    assert (by_draws[1] <= by_draws[2]).all()


@pytest.mark.slow
@every_row
def test_levels_drawn_from_the_model_estimate_the_same_density(kind: type[HierarchicalModel]) -> None:
    """E w = p(e | y) whichever levels the posterior draws, also where latents of the way up only steer it."""
    model = disturbed(kind, by=0.08, levels=2)
    with torch.no_grad():
        rows = model.rows(model.seen_rows(TEST).seasons.take(slice(2)), model.seen_rows(TEST).features[:2])
        noise = torch.randn((3000, 2, 1, model.noise_size), generator=torch.Generator().manual_seed(0)).double()
        found = []
        for level in (0, 1, 2):
            weight = model.explain_above(rows, noise, level).log_weight
            scale = weight.max(0).values
            share = (weight - scale).exp()
            error = share.std(0) / share.mean(0) / math.sqrt(len(noise))
            assert (error < 0.1).all()
            found.append((scale + share.mean(0).log(), error))
    for estimate, error in found[1:]:
        assert ((estimate - found[0][0]).abs() < 4.5 * (error + found[0][1])).all()


@every_row
def test_an_unknown_level_is_refused_and_an_unseen_season_is_no_anomaly(kind: type[HierarchicalModel]) -> None:
    model = disturbed(kind)
    with pytest.raises(UsageError, match="expected 0 to 3, got 4"):
        model.log_joint_above(TEST, 4)
    unseen = replace(TEST, mask=torch.zeros_like(TEST.mask), values=torch.zeros_like(TEST.values))
    with torch.no_grad():
        assert torch.allclose(model.anomaly_score(unseen, 1), torch.zeros(len(TEST)).double(), atol=1e-6)
        assert torch.allclose(model.log_joint_above(TEST, 0), model.log_joint(TEST), atol=1e-9)
        assert not torch.allclose(model.anomaly_score(TEST, 1), model.anomaly_score(TEST, 0))


@every_row
def test_what_a_missing_date_holds_changes_nothing(kind: type[HierarchicalModel]) -> None:
    model = disturbed(kind)
    dirty = replace(TEST, values=torch.where(TEST.mask[..., None], TEST.values, 7.0))
    with torch.no_grad():
        for level in (0, 2):
            assert torch.equal(model.log_joint_above(dirty, level), model.log_joint_above(TEST, level))


def test_an_unusual_season_scores_high_at_every_level() -> None:
    model = disturbed(LVAE)
    odd = replace(TEST, values=TEST.values + 0.5 * TEST.mask[..., None])
    with torch.no_grad():
        for level in range(4):
            assert (model.anomaly_score(odd, level) > model.anomaly_score(TEST, level)).all()


def test_evidence_and_expectation_are_weighted_by_precision() -> None:
    """The product of two Gaussians, normalised on a grid."""
    mean, log_std = torch.tensor(0.7).double(), torch.tensor(-0.4).double()
    told, precision = torch.tensor(-1.1).double(), torch.tensor(2.5).double()
    z = torch.linspace(-8, 8, 40001).double()
    log_product = -0.5 * ((z - mean) / log_std.exp()) ** 2 - 0.5 * precision * (z - told) ** 2
    share = torch.softmax(log_product, 0)
    centre = (share * z).sum()
    found, spread = merged(mean, log_std, told, precision)
    assert float(found) == pytest.approx(float(centre), abs=1e-7)
    assert float(spread.exp()) == pytest.approx(float((share * (z - centre) ** 2).sum().sqrt()), abs=1e-6)
    unchanged = merged(mean, log_std, told, torch.tensor(0.0).double())
    assert torch.allclose(torch.stack(unchanged), torch.stack([mean, log_std]))


def test_the_divergence_of_a_residual_posterior() -> None:
    """½ (δ²/s² + e^{2ρ} − 1 − 2ρ), whatever the mean of the prior."""
    mean, log_std = torch.tensor([3.0, -2.0]).double(), torch.tensor([0.5, -0.3]).double()
    shift, change = torch.tensor([0.4, -0.1]).double(), torch.tensor([-0.6, 0.2]).double()
    q_mean, q_log_std = residual_posterior(mean, log_std, shift, change)
    rho = bounded(change)
    closed = 0.5 * (shift**2 / (2 * log_std).exp() + (2 * rho).exp() - 1 - 2 * rho)
    level = Level(mean[None, None], *(part[None, None] for part in (mean, log_std, q_mean, q_log_std)))
    assert float(level.divergence()) == pytest.approx(float(closed.sum()))


def test_the_spectral_penalty_finds_the_largest_singular_values() -> None:
    generator = torch.Generator().manual_seed(4)
    weights = [torch.randn(5, 3, 2, generator=generator), torch.randn(4, 4, 1, generator=generator)]
    penalty = SpectralPenalty(weights).train()
    for _ in range(200):
        found = penalty(weights)
    exact = sum(float(torch.linalg.matrix_norm(weight.flatten(1), 2)) for weight in weights)
    assert float(found) == pytest.approx(exact, rel=1e-4)
    held = penalty.eval()
    before = held.get_buffer("left_0").clone()
    held(weights)
    assert torch.equal(held.get_buffer("left_0"), before)


def test_levels_halve_the_dates() -> None:
    assert half_lengths(36, 3) == [36, 18, 9, 5]
    assert half_lengths(1, 2) == [1, 1, 1]
    with torch.no_grad():
        path = built(LVAE).walk(built(LVAE).seen_rows(TEST), built(LVAE).noise, 0)
    assert [level.z.shape[-1] for level in path.levels] == [1, 2, 3]


def test_rows_are_scored_alike_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = disturbed(BIVA)
    with torch.no_grad():
        whole, use = model.log_joint(TEST), model.use_of_latents(TEST)
        monkeypatch.setattr(hierarchy, "_LARGEST_BLOCK", 2 * 3 * CLASSES * SLOTS * 8)
        assert torch.allclose(model.log_joint(TEST), whole, atol=1e-9)
        assert model.use_of_latents(TEST)["elbo"] == pytest.approx(use["elbo"])
