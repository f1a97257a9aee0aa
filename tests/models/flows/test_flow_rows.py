"""Every flow of the catalogue: it begins at the tied Gaussian, is a proper density, and samples invert scoring."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cropgen.core.recipe import validate
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.catalog import CATALOG, load
from cropgen.models.flows.flow import FlowModel
from cropgen.models.flows.flowgmm import FlowGMM, begun
from cropgen.models.layers.bank import see
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model
from tests.models.flows.gaussian_start import correlate, seasons

SPEC = InputSpec(("NDVI",), Calendar("month", 4, 2), Legend.from_codes("two", ["a", "b"]))
LONGER = InputSpec(("B04", "B08"), Calendar("month", 3, 5), Legend.from_codes("two", ["a", "b"]))
SMALL = {"hidden": 8, "defence": 0.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{e.name: (e.name, {}) for e in CATALOG if e.family == "flow" and e.name != "realnvp"},
    "naf ddsf": ("naf", {"transformer": "ddsf"}),
    "maf causal-conv": ("maf", {"conditioner": "causal-conv"}),
    "maf recurrent": ("maf", {"conditioner": "recurrent"}),
    "nsf autoregressive": ("nsf", {"conditioner": "autoregressive"}),
    "nsf linear": ("nsf", {"spline": "linear"}),
    "nsf quadratic": ("nsf", {"spline": "quadratic"}),
    "nsf cubic": ("nsf", {"spline": "cubic"}),
    "sylvester householder": ("sylvester", {"basis": "householder"}),
    "sylvester triangular": ("sylvester", {"basis": "triangular"}),
    "flowpp even-odd": ("flowpp", {"split": "even-odd"}),
    "glow permutation": ("glow", {"linear": "permutation", "norm": "none"}),
    "maf act": ("maf", {"norm": "act"}),
    "nice batch permutation": ("nice", {"norm": "batch", "linear": "permutation"}),
    "maf plu": ("maf", {"linear": "plu"}),
    "maf expm": ("maf", {"linear": "expm"}),
}
CLASS_IN = ("base", "couplings", "both")
PLAIN = [name for name, (row, _) in VARIANTS.items() if name == row]
EACH = [(name, place) for name in VARIANTS for place in (CLASS_IN if name in PLAIN else ("both",))]
WIDE = [pytest.param(name, "both", marks=pytest.mark.slow) for name in VARIANTS if name not in PLAIN]
INTEGRATED = [(name, "both") for name in PLAIN] + [(name, "couplings") for name in ("maf", "glow", "semiflow")] + WIDE


def built(name: str, place: str, spec: InputSpec = SPEC, **further: Any) -> FlowModel:
    """A model of a variant around a correlated Gaussian, in double precision, as it begins."""
    model_name, options = VARIANTS[name]
    kind = load(next(e for e in CATALOG if e.name == model_name))
    torch.manual_seed(2)
    settings = {**SMALL, **options, "class_in": place, **further}
    model = kind(spec, validate(kind.Settings, settings, where="test")).double()
    assert isinstance(model, FlowModel)
    correlate(model)
    return model.eval()


def moved(model: FlowModel, size: float = 0.25) -> FlowModel:
    """The model with weights far from where they begin."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def with_gaps(spec: InputSpec, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (count, spec.calendar.count, len(spec.bands))
    mask = torch.rand(shape[:2], generator=generator) > 0.35
    mask[0] = True
    return seasons(torch.randn(shape, generator=generator, dtype=torch.float64), mask)


@pytest.mark.parametrize(("name", "place"), EACH)
def test_begins_exactly_at_the_tied_gaussian(name: str, place: str) -> None:
    model, batch = built(name, place, LONGER), with_gaps(LONGER)
    with torch.no_grad():
        expected = model.tied.log_joint(*model.tied.grid(batch))
        assert torch.allclose(model.log_joint(batch), expected, atol=1e-9)


def test_the_monotonic_network_begins_near_the_tied_gaussian() -> None:
    model, batch = built("naf", "base", LONGER, transformer="mnn"), with_gaps(LONGER)
    with torch.no_grad():
        expected = model.tied.log_joint(*model.tied.grid(batch))
        assert torch.allclose(model.log_joint(batch), expected, atol=0.1)


@pytest.mark.parametrize("start", ["tgem", "none"])
def test_the_monotonic_network_scores_in_inference_mode_as_outside(start: str) -> None:
    model, batch = moved(built("naf", "both", LONGER, transformer="mnn", start=start), 0.1), with_gaps(LONGER)
    with torch.no_grad():
        expected = model.log_joint(batch), model.log_posterior(batch)
    with torch.inference_mode():
        found = model.log_joint(batch), model.log_posterior(batch)
        drawn = model.sample(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize(("name", "place"), INTEGRATED)
def test_densities_integrate_to_one(name: str, place: str) -> None:
    model, step = moved(built(name, place), 0.15), 0.125
    axis = torch.arange(-4, 4, step, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)[..., None]
    first = torch.tensor([True, False]).expand(len(axis), 2)
    with torch.no_grad():
        both = model.log_joint(seasons(points)).exp().sum(0) * step**2
        one = model.log_joint(seasons(axis[:, None, None].expand(-1, 2, 1), first)).exp().sum(0) * step
    prior = model.tied.log_prior.exp()
    assert torch.allclose(both, prior, atol=4e-3)
    assert torch.allclose(one, prior, atol=4e-3)


@pytest.mark.parametrize("name", ["maf", "nsf autoregressive", "maf causal-conv", "maf recurrent", "naf ddsf"])
def test_the_density_of_a_beginning_is_the_marginal_of_the_season(name: str) -> None:
    model, step = moved(built(name, "both"), 0.15), 0.03
    axis = torch.arange(-6, 6, step, dtype=torch.float64)
    for start in (-0.7, 0.4):
        line = torch.stack([torch.full_like(axis, start), axis], 1)[..., None]
        with torch.no_grad():
            whole = model.log_joint(seasons(line)).exp().sum(0) * step
            first = model.log_joint(seasons(line[:1], torch.tensor([[True, False]]))).exp()[0]
        assert torch.allclose(whole, first, rtol=2e-3)


@pytest.mark.parametrize(("name", "place"), EACH)
def test_samples_are_the_inverse_of_scoring(name: str, place: str) -> None:
    model = moved(built(name, place, LONGER), 0.1)
    y = torch.tensor([0, 1, 1])
    drawn = model.sample(y, torch.Generator().manual_seed(4), 0.5)
    with torch.no_grad():
        rest, _ = model.towards_base(see(model.tied, seasons(drawn), model.start_days), None)
    noise = 0.5 * torch.randn((3, model.size), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    log_var = model.log_var + (model.class_log_var[y] if isinstance(model, FlowGMM) else 0)
    assert torch.allclose(rest[torch.arange(3), y], (0.5 * log_var).exp() * noise, atol=1e-6)


@pytest.mark.parametrize(("name", "place"), [("maf", "base"), ("glow", "both"), ("semiflow", "couplings")])
def test_the_line_between_two_parcels_ends_at_them(name: str, place: str) -> None:
    model, batch = moved(built(name, place, LONGER), 0.1), with_gaps(LONGER, 4)
    one, other, y = batch.take(torch.tensor([0, 1])), batch.take(torch.tensor([2, 3])), torch.tensor([0, 1])
    line = model.interpolate(one, other, y, torch.tensor([0.0, 0.5, 1.0]))
    assert line.shape == (3, 2, 5, 2)
    for drawn, end in ((line[0], one), (line[2], other)):
        there = end.mask[..., None].expand_as(drawn)
        assert torch.allclose(drawn[there], end.values[there], atol=1e-6)
    middle = 0.5 * (line[0] + line[2])
    assert not torch.allclose(line[1], middle, atol=1e-3)


def test_the_beginning_of_a_season_has_its_first_innovations() -> None:
    model, batch = built("flowgmm", "base", LONGER), with_gaps(LONGER)
    whole = see(model.tied, batch, model.start_days)
    cut = begun(whole, torch.Generator().manual_seed(1))
    again = see(model.tied, Batch(batch.values, cut.mask, batch.day, batch.slot, batch.y), model.start_days)
    assert bool((cut.mask.sum(1) < whole.mask.sum(1)).any())
    for name in ("x", "mask", "e", "offset", "date_log_det"):
        assert torch.allclose(getattr(cut, name).double(), getattr(again, name).double(), atol=1e-9)


def bent(count: int, seed: int) -> Batch:
    """Two classes on parallel parabolas, which no tied Gaussian follows."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    t = torch.randn(count, generator=generator)
    height = 0.5 * t**2 + 1.2 * y + 0.1 * torch.randn(count, generator=generator)
    batch = seasons(torch.stack([t, height], 1)[..., None])
    return Batch(batch.values, batch.mask, batch.day, batch.slot, y)


BENT = {"steps": 150, "copies": 400, "augmentation": "none", "unlabelled_batch": 0, "learning_rate": 1e-2,
        "tied": {"augment": "none"}}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maf", "nsf", "naf", "flowpp", "glow", "resflow", "flowgmm"])
def test_learns_what_the_gaussian_leaves_over(name: str) -> None:
    model_name, options = VARIANTS[name]
    model = fit_model(model_name, {**BENT, **options}, SPEC, TrainingData(bent(400, 1)), seed=0).model
    assert isinstance(model, FlowModel)
    fresh = bent(500, 2)
    with torch.no_grad():
        flow = model.log_likelihood(fresh).mean()
        gaussian = torch.logsumexp(model.tied.log_joint(*model.tied.grid(fresh)), -1).mean()
    assert flow > gaussian + 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"),
    [("maf", "none"), ("nsf", "act"), ("nice", "batch"), ("semiflow", "act")],
)
def test_the_textbook_form_learns_without_the_common_start(name: str, norm: str) -> None:
    settings = {**BENT, "start": "none", "norm": norm, "class_in": "both"}
    model = fit_model(name, settings, SPEC, TrainingData(bent(400, 1)), seed=0).model
    fresh = bent(400, 2)
    with torch.no_grad():
        wrong = (model.log_posterior(fresh).argmax(-1) != fresh.y).double().mean()
    assert wrong < 0.2
