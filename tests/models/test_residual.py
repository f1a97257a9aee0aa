"""What every density around the tied Gaussian owes: it begins exactly there, and masked dates change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.core.recipe import validate
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.flows.realnvp import RealNVP
from cropgen.models.layers.bank import see
from cropgen.models.layers.residual import ResidualModel, WhitenedBatch
from cropgen.models.vaes.ssvae import SemiSupervisedVAE
from cropgen.series.batches import Batch, concatenate_batches
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

MODELS: list[type[ResidualModel]] = [RealNVP, SemiSupervisedVAE]
SLOTS, BANDS, CLASSES = 5, 2, 3
SPEC = InputSpec(("B04", "B08"), Calendar("month", 2, SLOTS), Legend.from_codes("three", ["a", "b", "c"]))
SMALL = {"steps": 5, "copies": 64, "labelled_batch": 16, "unlabelled_batch": 16, "augmentation": "lite"}


def batch(count: int, seed: int, *, gaps: float = 0.3) -> Batch:
    """Seasons whose class moves the level of a season with correlated noise; every row has a clear date."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    noise = torch.randn((count, SLOTS, BANDS), generator=generator).cumsum(1) * 0.03
    season = 0.2 + 0.08 * y[:, None, None] * torch.linspace(0, 1, SLOTS)[:, None] + noise
    mask = torch.rand((count, SLOTS), generator=generator) >= gaps
    mask[:, 1] = True
    day = torch.as_tensor(SPEC.calendar.start_days() + 9, dtype=torch.float32).expand(count, -1).contiguous()
    return Batch(season * mask[..., None], mask, day, torch.arange(SLOTS).expand(count, -1).contiguous(), y)


def data() -> TrainingData:
    return TrainingData(batch(24, 1), batch(40, 2).without_labels())


def make(kind: type[ResidualModel], **settings: object) -> ResidualModel:
    torch.manual_seed(0)
    model = kind(SPEC, validate(kind.Settings, SMALL | settings, where="test"))
    model.prepare(data(), Context(seed=3))
    return model.eval()


def shaken(kind: type[ResidualModel], **settings: object) -> ResidualModel:
    """A model away from its start, as after training."""
    model = make(kind, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_begins_exactly_at_the_tied_gaussian(kind: type[ResidualModel], dtype: torch.dtype, tolerance: float) -> None:
    model = make(kind).to(dtype)
    seen = batch(30, 7).to(dtype=dtype)
    assert not seen.mask.all()
    x, mask = model.tied.grid(seen)
    assert torch.allclose(model.log_joint(seen), model.tied.log_joint(x, mask), atol=tolerance, rtol=tolerance / 10)


@pytest.mark.parametrize("kind", MODELS)
def test_the_product_listens_to_the_start(kind: type[ResidualModel]) -> None:
    model = shaken(kind)
    seen = batch(9, 4)
    tied = torch.log_softmax(model.tied.beta * model.tied.log_joint(*model.tied.grid(seen)), -1)
    seasons = model._seasons(seen)
    assert torch.allclose(model._start_posterior(seasons), tied, atol=1e-5)
    answer = model.log_posterior(seen)
    model.tied.beta.fill_(0.0)
    assert not torch.allclose(model.log_posterior(seen), answer, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_learns_within_a_few_steps(kind: type[ResidualModel]) -> None:
    model = make(kind).train()
    assert all(not name.startswith("tied.") for name, _ in model.named_parameters())
    moved = {name: torch.zeros(()) for name, _ in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        view = model.augmented(concatenate_batches([batch(16, 1), batch(16, 2).without_labels()]), generator)
        objective = model.objective(view, generator)
        optimiser.zero_grad()
        objective.total.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                moved[name] = moved[name] + parameter.grad.abs().sum()
        optimiser.step()
    assert [name for name, size in moved.items() if not size > 0] == []


@pytest.mark.parametrize("kind", MODELS)
def test_mini_batches_come_from_the_bank(kind: type[ResidualModel]) -> None:
    model = make(kind)
    mixed = concatenate_batches([batch(6, 1), batch(9, 2).without_labels()])
    view = model.augmented(mixed, torch.Generator().manual_seed(1))
    assert isinstance(view, WhitenedBatch)
    assert int(view.y_mask.sum()) == 6
    assert len(view) == 15
    again = model.augmented(mixed, torch.Generator().manual_seed(1))
    assert torch.equal(again.values, view.values)
    x, mask = view.seasons.x, view.seasons.mask
    assert torch.allclose(model.tied.whiten(x, mask).e, view.seasons.e, atol=1e-6)
    model.finish(data(), Context())
    assert model.augmented(mixed, torch.Generator()) is mixed


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rule", ["bayes", "q", "learnt", "product"])
def test_masked_dates_order_and_neighbours_change_nothing(kind: type[ResidualModel], rule: str) -> None:
    model = shaken(kind, decide=rule).double()
    seen = batch(12, 8).to(dtype=torch.float64)
    dirty = replace(seen, values=torch.where(seen.mask[..., None], seen.values, 1e3)).padded(SLOTS + 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for score in (model.log_joint, model.log_posterior):
        answer = score(seen)
        assert torch.allclose(score(dirty), answer, atol=1e-9)
        assert torch.allclose(score(seen.take(order)), answer[order], atol=1e-9)
        assert torch.allclose(score(seen.take(torch.tensor([4]))), answer[4:5], atol=1e-9)
        assert torch.equal(score(seen), answer)


@pytest.mark.parametrize("kind", MODELS)
def test_validation_rows_choose_the_rule(kind: type[ResidualModel]) -> None:
    model = shaken(kind, decide="auto")
    seen, context = batch(30, 8), Context()
    assert torch.equal(model.log_posterior(seen), _by(model, "product", seen))
    with torch.no_grad():
        model.recognition.classify.weight.zero_()
        model.recognition.classify.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    alike = seen.take(seen.y == 0)
    model.finish(replace(data(), validation=alike), context)
    assert context.facts["decide"] == {"rule": "q", "rows": 10}
    assert torch.equal(model.log_posterior(seen), _by(model, "q", seen))
    again = make(kind, decide="auto")
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.log_posterior(seen), model.log_posterior(seen))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("count", "rule"), [(24, "product"), (30, "learnt")])
def test_the_start_joins_where_labels_are_few(kind: type[ResidualModel], count: int, rule: str) -> None:
    rows, context = replace(data(), labelled=batch(count, 1)), Context(seed=3)
    model = kind(SPEC, validate(kind.Settings, SMALL | {"decide": "auto"}, where="test"))  # pyright: ignore[reportArgumentType]
    model.prepare(rows, context)
    model.eval().finish(rows, context)
    assert context.facts["decide"] == {"rule": rule, "rows": 0}
    seen = batch(9, 4)
    assert torch.equal(model.log_posterior(seen), model.posteriors(seen)[rule])  # pyright: ignore[reportArgumentType]
    white = WhitenedBatch(**vars(seen), seasons=see(model.tied, seen, model.start_days))
    few = white.take(torch.tensor([2, 5]))
    assert torch.allclose(model.log_posterior(few), model.log_posterior(seen)[[2, 5]], atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_the_densities_alone_judge_the_beginning_of_a_season(kind: type[ResidualModel]) -> None:
    model, seen = shaken(kind), batch(9, 8, gaps=0.0)
    model.reach.last.fill_(SLOTS - 1)
    early = torch.arange(9) % 3 > 0
    mask = seen.mask & (torch.arange(SLOTS) < torch.where(early, 3, 4)[:, None])
    begun = replace(seen, mask=mask, values=seen.values * mask[..., None])
    answers = model.posteriors(begun)
    assert torch.equal(model.log_posterior(begun)[early], answers["densities"][early])
    assert torch.equal(model.log_posterior(begun)[~early], answers["product"][~early])
    pooled = torch.log_softmax((answers["start"] + answers["bayes"]) / 2, -1)
    assert torch.equal(answers["densities"].argmax(-1), pooled.argmax(-1))


def _by(model: ResidualModel, rule: str, seen: Batch) -> Tensor:
    """The answer of a model of the same weights that decides by one rule."""
    one = make(type(model), decide=rule)
    one.load_state_dict({name: value for name, value in model.state_dict().items() if name != "rule"})
    return one.log_posterior(seen)


@pytest.mark.parametrize("kind", MODELS)
def test_a_cloudy_parcel_gets_the_class_prior(kind: type[ResidualModel]) -> None:
    model = shaken(kind)
    seen = batch(3, 9)
    cloudy = replace(seen, mask=torch.zeros_like(seen.mask))
    assert torch.allclose(model.log_joint(cloudy), model.tied.log_prior.expand(3, -1))
    assert torch.allclose(model.log_posterior(cloudy), model.tied.log_prior.expand(3, -1))
    assert torch.allclose(model.log_likelihood(cloudy), torch.zeros(3), atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_samples_follow_the_start(kind: type[ResidualModel]) -> None:
    model = make(kind)
    y = torch.full((4000,), 2)
    drawn = model.sample(y, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, SLOTS, BANDS)
    x = model.tied.standardise(drawn).flatten(1)
    assert torch.allclose(x.mean(0), model.tied.means[2], atol=0.08)
    assert torch.allclose(torch.cov(x.T), model.tied.cov, atol=0.12)
    still = model.sample(torch.tensor([0, 1]), torch.Generator(), temperature=0.0)
    assert torch.allclose(model.tied.standardise(still).flatten(1), model.tied.means[:2], atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_textbook_form_starts_elsewhere(kind: type[ResidualModel]) -> None:
    model = make(kind, start="none")
    assert torch.equal(model.tied.cov, torch.eye(SLOTS * BANDS))
    assert not model.tied.means.any()
    seen = batch(6, 3)
    gaussian = model.tied.log_joint(*model.tied.grid(seen))
    assert not torch.allclose(model.log_joint(seen), gaussian, atol=1e-2)


@pytest.mark.parametrize("kind", MODELS)
def test_a_guard_that_rejects_unlabelled_parcels_silences_them(
    kind: type[ResidualModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cropgen.models.layers import residual

    fit = residual.fit_tied

    def rejecting(*arguments: object) -> torch.nn.Module:
        gaussian = fit(*arguments)  # pyright: ignore[reportArgumentType]
        arguments[-1].facts["tgem"]["guard_fell_back"] = True  # pyright: ignore[reportAttributeAccessIssue]
        return gaussian

    def loss(unlabelled_mark: float) -> tuple[float, Tensor]:
        model = make(kind, distillation=0.0)
        mixed = concatenate_batches([batch(6, 1), batch(9, 2).without_labels()])
        mixed = replace(mixed, values=mixed.values * torch.where(mixed.y_mask, 1.0, unlabelled_mark)[:, None, None])
        model.finish(data(), Context())
        objective = model.objective(mixed, torch.Generator().manual_seed(0))
        return objective.total.item(), objective.terms["marginal"].detach()

    assert loss(1.0)[0] != pytest.approx(loss(1.3)[0])
    monkeypatch.setattr(residual, "fit_tied", rejecting)
    assert loss(1.0)[0] == pytest.approx(loss(1.3)[0])


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="layer"):
        validate(RealNVP.Settings, {"layer": 3}, where="test")


def test_scores_agree_with_an_independent_gaussian() -> None:
    from scipy.stats import multivariate_normal

    model = make(RealNVP).double()
    seen = batch(4, 11).to(dtype=torch.float64)
    scale = model.tied.scale.repeat(SLOTS).numpy()
    cov = model.tied.cov.numpy() * np.outer(scale, scale)
    means = model.tied.means.numpy() * scale + model.tied.centre.repeat(SLOTS).numpy()
    joint = model.log_joint(seen).detach().numpy()
    for row in range(4):
        there = seen.mask[row].repeat_interleave(BANDS).numpy()
        x = seen.values[row].flatten().numpy()[there]
        for k in range(CLASSES):
            density = multivariate_normal.logpdf(x, means[k][there], cov[np.ix_(there, there)])
            assert joint[row, k] == pytest.approx(density + float(model.tied.log_prior[k]), abs=1e-7)
