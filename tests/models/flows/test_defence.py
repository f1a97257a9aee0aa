"""A flow that keeps a share of the tied Gaussian: a proper density, never far below either of its parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cropgen.core.recipe import validate
from cropgen.models.base import InputSpec
from cropgen.models.catalog import CATALOG, load
from cropgen.models.layers.bank import see
from cropgen.models.layers.flows.defence import DefendedModel, start_scores
from cropgen.models.layers.residual import cast_seasons
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from tests.models.flows.gaussian_start import correlate, seasons

PLANE = InputSpec(("NDVI",), Calendar("month", 4, 2), Legend.from_codes("two", ["a", "b"]))
LONGER = InputSpec(("B04", "B08"), Calendar("month", 3, 5), PLANE.legend)
ROWS = ("realnvp", "maf", "flowgmm", "semiflow")


def far_from_its_start(name: str, share: float, spec: InputSpec = LONGER, **further: object) -> DefendedModel:
    """A flow around a correlated Gaussian with weights far from where they begin, in double precision."""
    kind = load(next(entry for entry in CATALOG if entry.name == name))
    torch.manual_seed(2)
    options = validate(kind.Settings, {"hidden": 8, "layers": 2, "defence": share, **further}, where="test")
    model = kind(spec, options).double().eval()
    assert isinstance(model, DefendedModel)
    correlate(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def with_gaps(spec: InputSpec, spread: float, seed: int, count: int = 12) -> Batch:
    """Seasons with missing dates, the last row without any."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, spec.calendar.count, len(spec.bands))
    mask = torch.rand(shape[:2], generator=generator) > 0.35
    mask[-1] = False
    return seasons(spread * torch.randn(shape, generator=generator, dtype=torch.float64), mask)


def parts(model: DefendedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, K) log p(x, y) of the flow alone and of the Gaussian alone."""
    seen = cast_seasons(see(model.tied, batch, model.start_days), None, torch.float64)
    rest = torch.where((seen.observed > 0)[:, None], -seen.log_det[:, None], 0) + model.tied.log_prior
    flow = model.class_scores(seen, torch.zeros(len(batch), 1), None)
    return torch.where((seen.observed > 0)[:, None], flow, 0) + rest, model.tied.log_joint(*model.tied.grid(batch))


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=6, deadline=None)
@given(share=st.floats(0.001, 0.999), spread=st.floats(0.2, 6.0), seed=st.integers(0, 99))
def test_no_season_loses_more_than_its_share_says(name: str, share: float, spread: float, seed: int) -> None:
    model, batch = far_from_its_start(name, share), with_gaps(LONGER, spread, seed)
    with torch.no_grad():
        said, (flow, start) = model.log_joint(batch), parts(model, batch)
        assert bool((said >= start + math.log(share) - 1e-9).all())
        assert bool((said >= flow + math.log1p(-share) - 1e-9).all())
        assert bool((said <= torch.maximum(flow, start) + 1e-9).all())
        assert torch.allclose(said.exp(), (1 - share) * flow.exp() + share * start.exp(), atol=0, rtol=1e-7)
        loss = model.tied.log_joint(*model.tied.grid(batch)).logsumexp(1) - model.log_likelihood(batch)
        assert float(loss.max()) <= -math.log(share) + 1e-9


@pytest.mark.parametrize("name", ROWS)
def test_no_share_is_the_flow_alone(name: str) -> None:
    model, batch = far_from_its_start(name, 0.0), with_gaps(LONGER, 1.0, 3)
    with torch.no_grad():
        flow, start = parts(model, batch)
        assert torch.allclose(model.log_joint(batch), flow, atol=1e-12)
        assert not torch.allclose(flow, start, atol=0.1)


@pytest.mark.parametrize("name", ROWS)
def test_the_mixture_integrates_to_one(name: str) -> None:
    model, step = far_from_its_start(name, 0.5, PLANE), 0.1
    axis = torch.arange(-5, 5, step, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)[..., None]
    first = torch.tensor([True, False]).expand(len(axis), 2)
    with torch.no_grad():
        both = model.log_joint(seasons(points)).exp().sum(0) * step**2
        one = model.log_joint(seasons(axis[:, None, None].expand(-1, 2, 1), first)).exp().sum(0) * step
    assert torch.allclose(both, model.tied.log_prior.exp(), atol=4e-3)
    assert torch.allclose(one, model.tied.log_prior.exp(), atol=4e-3)


def test_the_mixture_of_a_beginning_is_its_marginal() -> None:
    model, step = far_from_its_start("maf", 0.5, PLANE), 0.03
    axis = torch.arange(-7, 7, step, dtype=torch.float64)
    line = torch.stack([torch.full_like(axis, 0.4), axis], 1)[..., None]
    with torch.no_grad():
        whole = model.log_joint(seasons(line)).exp().sum(0) * step
        first = model.log_joint(seasons(line[:1], torch.tensor([[True, False]]))).exp()[0]
    assert torch.allclose(whole, first, rtol=2e-3)


def test_scores_of_the_start_are_those_of_the_tied_gaussian() -> None:
    model, batch = far_from_its_start("realnvp", 0.5), with_gaps(LONGER, 1.0, 1)
    seen = cast_seasons(see(model.tied, batch, model.start_days), None, torch.float64)
    told = start_scores(seen) - seen.log_det[:, None] + model.tied.log_prior
    assert torch.allclose(told, model.tied.log_joint(*model.tied.grid(batch)), atol=1e-9)


def test_classes_are_compared_by_the_flow_alone() -> None:
    batch = with_gaps(LONGER, 3.0, 4)
    for rule in ("bayes", "learnt", "auto"):
        with torch.no_grad():
            alone, defended = (far_from_its_start("maf", s, decide=rule).log_posterior(batch) for s in (0.0, 0.9))
        assert torch.equal(alone, defended)


def test_samples_come_from_both_parts_in_their_shares() -> None:
    share, y = 0.3, torch.ones(2000, dtype=torch.int64)
    model = far_from_its_start("realnvp", share)
    drawn = model.sample(y, torch.Generator().manual_seed(1))
    alone = far_from_its_start("realnvp", 0.0).sample(y, torch.Generator().manual_seed(1))
    of_flow = (drawn == alone).flatten(1).all(1)
    assert abs(float(of_flow.double().mean()) - (1 - share)) < 0.04
    rest = model.tied.standardise(drawn[~of_flow]).flatten(1)
    assert torch.allclose(rest.mean(0), model.tied.means[1].to(rest.dtype), atol=0.2)
    assert torch.allclose(rest.T.cov(), model.tied.cov.to(rest.dtype), atol=0.3)


def test_the_textbook_form_has_nothing_to_keep() -> None:
    assert far_from_its_start("maf", 0.5, start="none").defence == 0
    assert far_from_its_start("maf", 0.5).defence == 0.5
