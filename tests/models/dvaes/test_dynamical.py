"""What every dynamical model promises: exact start, missing dates, causality, bounds, options, gaps filled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.kernels.recurrence.reference import ChainPath
from cropgen.models.base import Context
from cropgen.models.catalog import CATALOG, find, load
from cropgen.models.dvaes.rfn import RFN, RFNOptions
from cropgen.models.layers.chained import ChainModel
from cropgen.models.layers.dynamical import DynamicalModel, View
from cropgen.models.layers.latent_dynamics import kl_per_date
from cropgen.models.layers.vae.feedback import Feedback
from cropgen.series.batches import Batch, concatenate_batches
from tests.models.dvaes.crops import (
    BANDS,
    CLASSES,
    DATA,
    SLOTS,
    SPEC,
    TEST,
    TINY,
    disturbed,
    prepared,
    seasons,
    taught,
)

FILTERS: list[tuple[str, dict[str, Any]]] = [
    ("dkf", {"inference": "st-l"}),
    ("dmm", {"inference": "st-l"}),
    ("kvae", {}),
    ("storn", {}),
    ("vrnn", {}),
    ("srnn", {"inference": "filter"}),
    ("rvae", {"inference": "filter"}),
    ("rfn", {"inference": "filter"}),
]
SMOOTHERS: list[tuple[str, dict[str, Any]]] = [
    ("dkf", {}),
    ("dkf", {"inference": "st-lr"}),
    ("dkf", {"residual": False, "retention": 0}),
    ("dmm", {}),
    ("storn", {"inference": "smooth"}),
    ("vrnn", {"inference": "smooth", "residual": False}),
    ("srnn", {}),
    ("rvae", {}),
    ("rvae", {"decoder": "noncausal"}),
    ("dsae", {}),
    ("dsae", {"inference": "original"}),
    ("rfn", {}),
]


def over(variants: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    """A test for each variant; all but the first of each row are slow."""
    cases, met = [], set()
    for name, settings in variants:
        which = " ".join([name, *map(str, settings.values())])
        cases.append(pytest.param(name, settings, id=which, marks=[pytest.mark.slow] if name in met else []))
        met.add(name)
    return pytest.mark.parametrize(("name", "settings"), cases)


EVERY = over(FILTERS + SMOOTHERS)
FILTER = over(FILTERS)
ROWS = [entry.name for entry in CATALOG if entry.family == "dvae"]


def learnt_bound(model: DynamicalModel, batch: Batch, seed: int = 0) -> Tensor:
    """(B, K) what is learnt from, without log-determinant and prior."""
    rows = model._seasons(batch)
    return model.class_scores(rows, model._features(rows, None), torch.Generator().manual_seed(seed))


def test_every_row_is_tried() -> None:
    assert {name for name, _ in FILTERS + SMOOTHERS} == set(ROWS)


@EVERY
def test_begins_exactly_at_the_tied_gaussian(name: str, settings: dict[str, Any]) -> None:
    model = prepared(name, **settings)
    assert not TEST.mask.all()
    expected = model.tied.log_joint(*model.tied.grid(TEST))
    torch.testing.assert_close(model.log_joint(TEST), expected, rtol=0, atol=1e-9)
    log_det = model._seasons(TEST).log_det[:, None]
    torch.testing.assert_close(learnt_bound(model, TEST) - log_det + model.tied.log_prior, expected, rtol=0, atol=1e-9)
    assert (disturbed(name, **settings).log_joint(TEST) - expected).abs().max() > 0.1


@EVERY
def test_a_missing_date_has_no_kl_no_likelihood_and_no_influence(name: str, settings: dict[str, Any]) -> None:
    model = disturbed(name, **settings)
    rows = model._seasons(TEST)
    walk = model.walk(model.view(rows), model.noise)
    missing = ~rows.mask.T[:, None, :, None].expand_as(walk.log_density)
    divergence = kl_per_date(walk.path).expand_as(walk.log_density)
    assert missing.any()
    assert not walk.log_density[missing].any()
    assert not divergence[missing].any()
    assert (divergence[~missing] > 0).all()
    hidden = (~TEST.mask)[..., None]
    garbage = replace(TEST, values=torch.where(hidden, 7.0, TEST.values), day=torch.where(TEST.mask, TEST.day, -50.0))
    torch.testing.assert_close(model.log_joint(garbage), model.log_joint(TEST), rtol=0, atol=0)


@EVERY
def test_rows_are_scored_alone_and_an_empty_one_gets_the_prior(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = disturbed(name, **settings)
    scores = model.log_joint(TEST)
    torch.testing.assert_close(model.log_joint(TEST.padded(SLOTS + 3)), scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.log_joint(TEST.take(torch.tensor([4, 1]))), scores[[4, 1]], rtol=0, atol=1e-10)
    empty = TEST.until(-400.0)
    torch.testing.assert_close(model.log_joint(empty), model.tied.log_prior.expand(len(empty), -1))
    states = model.latent_states(TEST)
    monkeypatch.setattr("cropgen.models.layers.dynamical._LARGEST_BLOCK", 1)
    torch.testing.assert_close(model.log_joint(TEST), scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.latent_states(TEST), states, rtol=0, atol=1e-10)
    assert model.kl_by_date(TEST).shape == (len(TEST), SLOTS, CLASSES)


@FILTER
def test_a_filter_does_not_see_the_future(name: str, settings: dict[str, Any]) -> None:
    model = disturbed(name, **settings)
    scores = model.prefix_log_joint(TEST)
    torch.testing.assert_close(scores[:, -1], model.log_joint(TEST), rtol=0, atol=1e-9)
    states = model.latent_states(TEST)
    for slot in (0, 2, SLOTS - 2):
        end = float(TEST.day[0, slot])
        torch.testing.assert_close(scores[:, slot], model.log_joint(TEST.until(end)), rtol=0, atol=1e-9)
        late = torch.where(TEST.day > end, 0.31, 0.0)[..., None] * TEST.mask[..., None]
        changed = model.prefix_log_joint(replace(TEST, values=TEST.values + late))
        torch.testing.assert_close(changed[:, slot], scores[:, slot], rtol=0, atol=1e-9)
        filtered = model.latent_states(replace(TEST, values=TEST.values + late))
        torch.testing.assert_close(filtered[:, : slot + 1], states[:, : slot + 1], rtol=0, atol=1e-9)
    assert (changed[:, -1] - scores[:, -1]).abs().max() > 0.1
    assert (filtered[:, -1] - states[:, -1]).abs().max() > 1e-3


@over(SMOOTHERS)
def test_a_smoother_sees_the_future_and_gives_no_prefix_scores(name: str, settings: dict[str, Any]) -> None:
    model = disturbed(name, **settings)
    full = seasons(6, 3, gaps=0.0).to(dtype=torch.float64)
    rows, shorter = model._seasons(full), model._seasons(full.until(float(full.day[0, -2])))
    assert (model.log_weights(rows)[:-1] - model.log_weights(shorter)[:-1]).abs().max() > 1e-4
    walk = model.walk(model.view(rows), model.noise)
    share = (model.log_weights(rows).sum(0) + model.tied.log_prior).transpose(0, 1).flatten(1).softmax(1)
    smoothed = torch.einsum(
        "gbnz,bn->bgz", walk.path.z.expand(-1, -1, -1, CLASSES, -1).transpose(1, 2).flatten(2, 3), share
    )
    torch.testing.assert_close(model.latent_states(full), smoothed)
    with pytest.raises(UsageError, match="filter"):
        model.prefix_log_joint(TEST)


@EVERY
def test_more_samples_tighten_the_bound(name: str, settings: dict[str, Any]) -> None:
    """ELBO ≤ IWAE₅ ≤ IWAE₅₀ on average over noise, for a model whose posterior is not its prior."""
    model = disturbed(name, **settings)
    rows = model._seasons(TEST)
    shape = (model.noise.shape[0], 500, *model.noise.shape[2:])
    model.noise = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        weights = model.log_weights(rows).sum(0)
        walk = model.walk(model.view(rows), model.noise)
        elbo = (walk.log_density - kl_per_date(walk.path)).sum(0).mean(0)
        if walk.whole is not None:
            elbo = elbo - kl_per_date(walk.whole[0])[0].mean(0)

    def bound(size: int) -> Tensor:
        return torch.logsumexp(weights.unflatten(0, (-1, size)), 1).mean(0) - math.log(size)

    assert (elbo - bound(1)).abs().max() < 0.15 * (bound(50) - bound(1)).max() + 0.02
    assert bound(1).mean() < bound(5).mean() < bound(50).mean()


@over([("srnn", {}), ("dmm", {}), ("vrnn", {}), ("dsae", {}), ("rvae", {}), ("storn", {}), ("kvae", {})])
def test_overshooting(name: str, settings: dict[str, Any]) -> None:
    plain, deep = disturbed(name, **settings), disturbed(name, overshooting=3, **settings)
    assert torch.equal(learnt_bound(disturbed(name, overshooting=1, **settings), TEST), learnt_bound(plain, TEST))
    lower = learnt_bound(deep, TEST)
    depends = name not in ("rvae", "storn", "kvae")
    assert torch.isfinite(lower).all()
    assert torch.equal(lower, learnt_bound(plain, TEST)) != depends
    if isinstance(deep, ChainModel) and depends:
        for head in (deep.transition.out, deep.transition.out_bias):
            torch.nn.init.zeros_(head)
        plain.load_state_dict(deep.state_dict())
        if deep.retention == 0:  # the prior no longer depends on what it is rolled from
            torch.testing.assert_close(learnt_bound(deep, TEST), learnt_bound(plain, TEST), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_options_of_learning(name: str) -> None:
    plain = disturbed(name)
    bound = learnt_bound(plain, TEST)
    warming = disturbed(name, warm_up=4)
    without_kl = learnt_bound(warming, TEST)
    assert (without_kl > bound).all()
    warming.objective(TEST, torch.Generator().manual_seed(0))
    torch.testing.assert_close(learnt_bound(warming, TEST), without_kl + (bound - without_kl) / 4)
    torch.testing.assert_close(warming.log_joint(TEST), plain.log_joint(TEST))
    generous = disturbed(name, free_bits=100.0)
    saved = 100.0 * model_dates(generous)[:, None] + kl_of_the_season(generous)
    torch.testing.assert_close(learnt_bound(generous, TEST), without_kl - saved)
    torch.testing.assert_close(generous.log_joint(TEST), plain.log_joint(TEST))
    if not plain.feeds_back:
        with pytest.raises(UsageError, match="from its latent states alone"):
            disturbed(name, input_dropout=0.5)
        return
    hiding = learnt_bound(disturbed(name, input_dropout=0.5), TEST)
    assert (hiding - bound).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["srnn", "rfn", "vrnn", "storn"])
def test_the_model_itself_decides_what_is_hidden_of_the_past(name: str) -> None:
    """At the ends of the decision a date is always or never shown; what it costs is a KL of Bernoulli draws."""
    plain, gated = disturbed(name), disturbed(name, input_dropout=0.3, dynamic_dropout=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    gate = cast(nn.Sequential, cast(Feedback, gated.gate).decide)
    last, y = cast(nn.Linear, gate[2]), torch.arange(CLASSES).repeat(2)
    with torch.no_grad():
        last.weight.zero_()
    blind = disturbed(name)
    blind.view = lambda seasons: _without_past(DynamicalModel.view(blind, seasons))  # type: ignore[method-assign]
    for log_odds, same in ((-40.0, plain), (40.0, blind)):
        with torch.no_grad():
            last.bias.fill_(log_odds)
            torch.testing.assert_close(gated.log_joint(TEST), same.log_joint(TEST))
    with torch.no_grad():
        hidden = gated.sample(y, torch.Generator().manual_seed(1))
        last.bias.fill_(-40.0)
        torch.testing.assert_close(
            gated.sample(y, torch.Generator().manual_seed(1)), plain.sample(y, torch.Generator().manual_seed(1))
        )
        assert (hidden - plain.sample(y, torch.Generator().manual_seed(1))).abs().max() > 1e-6
    with torch.no_grad():
        last.bias.fill_(-40.0)
    kept = learnt_bound(plain, TEST) - learnt_bound(gated, TEST)
    earlier = gated._seasons(TEST).mask[:, :-1].sum(1).double()
    torch.testing.assert_close(kept, (-math.log1p(-0.3) * earlier)[:, None].expand(-1, CLASSES))
    torch.nn.init.normal_(last.weight, std=0.3)
    torch.nn.init.zeros_(last.bias)
    learnt_bound(gated, TEST).sum().backward()
    assert all(cast(Tensor, part.grad).abs().sum() > 0 for part in gate.parameters())


def _without_past(view: View) -> View:
    return replace(view, before=torch.zeros_like(view.before))


def model_dates(model: DynamicalModel) -> Tensor:
    """(B,) number of observed slots."""
    return model._seasons(TEST).mask.sum(1).double()


def kl_of_the_season(model: DynamicalModel) -> Tensor:
    """(B, K) KL of the latent state of the whole season, 0 where a model has none."""
    whole = model.walk(model.view(model._seasons(TEST)), model.noise[:, :1]).whole
    return torch.zeros(len(TEST), CLASSES) if whole is None else kl_per_date(whole[0])[0, 0]


@pytest.mark.parametrize(("options", "dates"), [
    ({}, 0.2 + 3.0 + 0.4), ({"free_bits": 0.5}, 0.5 + 3.0 + 0.5), ({"free_bits": 4.0}, 12.0),
])  # fmt: skip
@pytest.mark.parametrize("seen", [(0, 2, 5), (1, 2, 5)])
def test_the_kl_of_a_whole_season_counts_whatever_its_first_slot_shows(
    options: dict[str, float], dates: float, seen: tuple[int, ...]
) -> None:
    """By hand: KL(v) = (1² + 2²) / 2 under the class at hand, and 0.2, 3 and 0.4 nats of three observed dates."""
    model = prepared("dsae", **options, warm_up=2)
    mask, kl = torch.zeros(SLOTS, 1, 1, 1), torch.zeros(SLOTS, 1, 1, CLASSES)
    mask[list(seen)], kl[list(seen)] = 1.0, torch.tensor([0.2, 3.0, 0.4])[:, None, None, None]
    rows = model._seasons(TEST.take(torch.tensor([0])))
    view = replace(model.view(rows), mask=mask)
    walk = model.walk(view, model.noise[:, :1])
    shift = torch.tensor([1.0, 2.0, 0.0]).expand(1, 1, 1, CLASSES, -1)
    v = ChainPath(shift, torch.zeros_like(shift), shift, torch.zeros_like(shift))
    walk = replace(walk, log_density=torch.zeros(SLOTS, 1, 1, CLASSES), whole=(v, torch.zeros(1)))
    for updates, weight in ((1, 0.5), (2, 1.0)):
        model.updates.fill_(updates)
        expected = torch.full((1, CLASSES), -weight * (dates + 2.5))
        torch.testing.assert_close(model._bound(view, walk, kl), expected)


@pytest.mark.parametrize("name", ROWS)
def test_options_of_the_density(name: str) -> None:
    floored = disturbed(name, variance_floor=0.9)
    spread = floored.log_variance_of(torch.tensor(-5.0), torch.tensor(0.0))
    assert float(spread) == pytest.approx(math.log(0.9))
    assert (floored.log_joint(TEST) - disturbed(name).log_joint(TEST)).abs().max() > 1e-3
    fixed = prepared(name, learn_initial=False)
    assert "initial" not in dict(fixed.named_parameters())
    torch.testing.assert_close(fixed.log_joint(TEST), prepared(name).log_joint(TEST), rtol=0, atol=1e-9)
    described = type(fixed.settings).model_fields["learn_initial"].description or ""
    assert described.startswith("no effect") == ("initial" not in dict(prepared(name).named_parameters()))


def test_the_floor_of_a_flow_is_that_of_its_base() -> None:
    """Couplings that shrink e by exp(1/2) towards the data leave less variance than the floor."""
    model = prepared("rfn", variance_floor=0.9)
    for coupling in cast(RFN, model).couplings():
        torch.nn.init.constant_(coupling.out.bias[: len(coupling.changed)], 9.0)
    y = torch.zeros(500, dtype=torch.int64)
    assert model.draw_innovations(y, torch.Generator().manual_seed(0), 1.0).var(0).max() < 0.9
    assert "flow's base" in (RFNOptions.model_fields["variance_floor"].description or "")
    assert (RFNOptions().variance_floor, list(RFNOptions.model_fields)[-2:]) == (0.0, ["couplings", "flow_temperature"])


@pytest.mark.parametrize("name", ROWS)
def test_samples_of_the_start_have_its_moments_and_temperatures_still_them(name: str) -> None:
    model = prepared(name)
    y = torch.arange(CLASSES).repeat_interleave(1500)
    drawn = model.sample(y, torch.Generator().manual_seed(0))
    for k in range(CLASSES):
        expected = model.tied.restore(model.tied.means[k].view(SLOTS, BANDS))
        spread = model.tied.cov.diagonal().sqrt().view(SLOTS, BANDS) * model.tied.scale
        assert ((drawn[y == k].mean(0) - expected) / spread).abs().max() < 0.12
        assert (drawn[y == k].std(0) / spread - 1).abs().max() < 0.08
    moved, few = disturbed(name), torch.arange(CLASSES)
    still = [moved.sample(few, torch.Generator().manual_seed(seed), temperature=0.0) for seed in (0, 1)]
    assert torch.equal(*still)
    calm = disturbed(name, state_temperature=0.0)
    drawn = [m.sample(few, torch.Generator().manual_seed(0)) for m in (moved, calm)]
    assert not torch.allclose(drawn[0], drawn[1])


@pytest.mark.parametrize("name", [name for name in ROWS if name != "rfn"])
def test_what_is_foreseen_at_the_start_is_what_the_tied_gaussian_foresees(name: str) -> None:
    model, slots = prepared(name), torch.tensor([4, 1])
    hidden = replace(TEST, mask=TEST.mask & (TEST.slot != 1))
    found, expected = model.predictive(hidden, slots), model.tied.predictive(*model.tied.grid(hidden), slots)
    assert found is not None
    torch.testing.assert_close(found.weight, expected.weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.variance, expected.variance, rtol=0, atol=1e-8)
    moved = disturbed(name).predictive(hidden, slots)
    assert moved is not None
    assert (moved.mean - expected.mean).abs().max() > 1e-3
    assert (moved.variance >= 0).all()


@pytest.mark.parametrize("name", ROWS)
def test_the_textbook_form_leaves_whitening_out(name: str) -> None:
    model = prepared(name, start="none")
    model.prepare(DATA, Context(seed=0))
    assert torch.equal(model.tied.cov, torch.eye(SLOTS * BANDS).to(model.tied.cov))
    assert torch.isfinite(model.log_joint(TEST)).all()
    assert (model.log_joint(TEST) - prepared(name).log_joint(TEST)).abs().max() > 1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("srnn", {"residual": False}, "retention"),
        ("dkf", {"residual": False}, "retention"),
        ("dsae", {"inference": "original", "retention": 0.5}, "retention"),
        ("rvae", {"inference": "filter", "decoder": "noncausal"}, "sees the future"),
        ("srnn", {"kernel": "fast"}, "unknown kernel"),
    ],
)
def test_options_that_do_not_go_together(name: str, settings: dict[str, Any], message: str) -> None:
    kind = load(find(name))
    with pytest.raises(UsageError, match=message) as error:
        kind(SPEC, kind.Settings.model_validate({**TINY, **settings}))
    assert error.value.hint


@pytest.mark.slow
@EVERY
def test_learning_reaches_every_parameter_and_improves_the_density(name: str, settings: dict[str, Any]) -> None:
    model = prepared(name, **settings).float().train()
    model.prepare(DATA, Context(seed=0))
    moved, losses = taught(model, concatenate_batches([DATA.labelled, DATA.unlabelled or TEST]))
    assert moved == {name for name, _ in model.named_parameters()}
    assert sum(losses[-5:]) < sum(losses[:5])
