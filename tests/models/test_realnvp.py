"""The residual flow: a proper density, invertible, and better than a Gaussian where seasons are not Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cropgen.core.recipe import validate
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.flows.realnvp import RealNVP
from cropgen.models.layers.bank import see
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model

SPEC = InputSpec(("NDVI",), Calendar("month", 4, 2), Legend.from_codes("two", ["a", "b"]))


def plane(values: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> Batch:
    """Seasons of two dates of one band, values (B, 2)."""
    count = len(values)
    mask = torch.ones(count, 2, dtype=torch.bool) if mask is None else mask
    day = torch.tensor([130.0, 160.0]).expand(count, 2).contiguous()
    y = torch.full((count,), -1) if y is None else y
    return Batch(values[..., None] * mask[..., None], mask, day, torch.arange(2).expand(count, 2).contiguous(), y)


def trained_like(layers: int = 3) -> RealNVP:
    """A flow with a correlated start and weights far from the identity, in double precision."""
    torch.manual_seed(2)
    options = validate(RealNVP.Settings, {"layers": layers, "hidden": 16, "defence": 0.0}, where="test")
    model = RealNVP(SPEC, options).double()
    with torch.no_grad():
        cov = torch.tensor([[1.0, 0.7], [0.7, 1.2]], dtype=torch.float64)
        model.tied.cov.copy_(cov)
        model.tied.chol.copy_(torch.linalg.cholesky(cov))
        model.tied.means.copy_(torch.tensor([[0.5, -0.3], [-0.8, 0.4]]))
        model.tied.scale.fill_(0.5)
        model.tied.log_prior.copy_(torch.tensor([0.3, 0.7]).log())
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def test_densities_integrate_to_one() -> None:
    model, step = trained_like(), 0.06
    axis = torch.arange(-6, 6, step, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        both = model.log_joint(plane(points)).exp().sum(0) * step**2
        first = torch.tensor([True, False]).expand(len(axis), 2)
        one = model.log_joint(plane(axis[:, None].expand(-1, 2), first)).exp().sum(0) * step
    prior = model.tied.log_prior.exp()
    assert torch.allclose(both, prior, atol=2e-3)
    assert torch.allclose(one, prior, atol=2e-3)


def test_log_determinant_is_that_of_the_whole_stack() -> None:
    model = trained_like(4)
    seasons = see(model.tied, plane(torch.tensor([[0.2, -0.9]], dtype=torch.float64)), model.start_days)

    def through(e: Tensor) -> Tensor:
        v = e[None]
        for coupling in model.couplings:
            v, _ = coupling(v, seasons.present, seasons.mask)
        return v[0]

    jacobian = torch.autograd.functional.jacobian(through, seasons.e[0])
    assert isinstance(jacobian, Tensor)
    assert torch.allclose(model.transform(seasons)[1][0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-12)


def test_samples_are_the_inverse_of_scoring() -> None:
    model = trained_like()
    y = torch.tensor([0, 1, 1, 0])
    drawn = model.sample(y, torch.Generator().manual_seed(4))
    seasons = see(model.tied, plane(drawn[..., 0]), model.start_days)
    noise = torch.randn((4, 2), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = model.full_offset()[y] + model.shift[y] + (0.5 * model.log_var).exp() * noise
    assert torch.allclose(model.transform(seasons)[0], expected, atol=1e-8)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_halves_alternate_and_cover_every_entry(layers: int) -> None:
    spec = InputSpec(("B04", "B08", "B11"), Calendar("month", 0, 5), SPEC.legend)
    model = RealNVP(spec, validate(RealNVP.Settings, {"layers": layers}, where="test"))
    assert len(model.couplings) == layers
    for first, second in zip(model.couplings[::2], model.couplings[1::2], strict=False):
        assert torch.equal(first.changed, second.given)
    again = RealNVP(spec, validate(RealNVP.Settings, {"layers": layers}, where="test"))
    assert torch.equal(model.couplings[-1].given, again.couplings[-1].given)


def bent(count: int, seed: int) -> Batch:
    """Two classes on parallel parabolas, which no tied Gaussian follows."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    t = torch.randn(count, generator=generator)
    height = 0.5 * t**2 + 1.2 * y + 0.1 * torch.randn(count, generator=generator)
    return plane(torch.stack([t, height], 1), y=y)


def test_learns_what_the_gaussian_leaves_over() -> None:
    settings = {
        "steps": 150, "copies": 400, "augmentation": "none", "unlabelled_batch": 0, "learning_rate": 5e-3,
        "tied": {"augment": "none"},
    }  # fmt: skip
    data = TrainingData(bent(400, 1))
    model = fit_model("realnvp", settings, SPEC, data, seed=0).model
    assert isinstance(model, RealNVP)
    fresh = bent(500, 2)
    with torch.no_grad():
        flow = model.log_likelihood(fresh).mean()
        gaussian = torch.logsumexp(model.tied.log_joint(*model.tied.grid(fresh)), -1).mean()
        wrong = (model.log_joint(fresh).argmax(-1) != fresh.y).double().mean()
        wrong_before = (model.tied.log_joint(*model.tied.grid(fresh)).argmax(-1) != fresh.y).double().mean()
    assert flow > gaussian + 0.3
    assert wrong < 0.5 * wrong_before
