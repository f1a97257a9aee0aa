"""What a decoder says of a season: densities against scipy, masses that sum to one, moments against draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from cropgen.models.layers.vae.emissions import Emission, ResidualEmission, TextbookEmission, held_within
from cropgen.models.layers.vae.model import VariationalModel
from cropgen.training.fit import fit_model
from tests.models.dvaes.crops import DATA, SPEC

BANDS, SLOTS = 2, 3
SIZE = BANDS * SLOTS
DTYPE = torch.float64


def residual(**settings: object) -> ResidualEmission:
    options: dict[str, object] = {"heavy_tails": False, "decoded_variance": False, "floor": 0.0} | settings
    return ResidualEmission(BANDS, SIZE, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("inverse_degrees", [0.0, 0.005, 0.019, 0.021, 0.25, 0.44])
def test_student_innovations_follow_scipy(inverse_degrees: float) -> None:
    emission = residual(heavy_tails=True)
    assert emission.inverse_degrees is not None
    with torch.no_grad():
        emission.inverse_degrees.fill_(inverse_degrees)
    generator = torch.Generator().manual_seed(0)
    r, raw = (torch.randn(shape, generator=generator, dtype=DTYPE) for shape in ((4, SIZE), (4, SLOTS, BANDS)))
    log_var = torch.linspace(-1, 1, SIZE, dtype=DTYPE)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    found = emission.log_prob(r, raw, mask, log_var)
    standard = (r - raw.flatten(1)) * (-0.5 * log_var).exp()
    at = standard.numpy()
    told = stats.t.logpdf(at, 1 / inverse_degrees) if inverse_degrees else stats.norm.logpdf(at)
    each = torch.as_tensor(told) - 0.5 * log_var
    assert torch.allclose(found, (each * mask.repeat_interleave(BANDS, 1)).sum(-1), atol=1e-9)


def test_tails_can_grow_from_the_gaussian_and_shrink_back() -> None:
    emission = residual(heavy_tails=True)
    assert emission.inverse_degrees is not None
    far = torch.full((1, SIZE), 6.0, dtype=DTYPE)
    nothing, mask = torch.zeros(1, SLOTS, BANDS, dtype=DTYPE), torch.ones(1, SLOTS, dtype=torch.bool)
    emission.log_prob(far, nothing, mask, torch.zeros(SIZE, dtype=DTYPE)).sum().backward()
    assert emission.inverse_degrees.grad is not None
    assert (emission.inverse_degrees.grad > 0).all()
    outside = torch.tensor(-1.0, requires_grad=True)
    held = held_within(outside, 0.0, 1.0)
    held.backward()
    assert float(held.detach()) == 0
    assert outside.grad == 1


@pytest.mark.parametrize("inverse_degrees", [-0.3, 0.0, 1e-6, 1e-3, 0.03])
def test_tails_near_the_gaussian_are_the_same_in_single_precision(inverse_degrees: float) -> None:
    generator = torch.Generator().manual_seed(0)
    r, raw = torch.randn((20, SIZE), generator=generator, dtype=DTYPE), torch.zeros(20, SLOTS, BANDS, dtype=DTYPE)
    mask = torch.ones(20, SLOTS, dtype=torch.bool)
    found = []
    for dtype in (torch.float32, DTYPE):
        emission = residual(heavy_tails=True).to(dtype)
        assert emission.inverse_degrees is not None
        torch.nn.init.constant_(emission.inverse_degrees, inverse_degrees)
        log_var = torch.zeros(SIZE, dtype=dtype)
        density = emission.log_prob(r.to(dtype), raw.to(dtype), mask, log_var)
        density.sum().backward()
        drawn = emission.sample(raw.to(dtype), log_var, torch.Generator().manual_seed(1), 1.0)
        moments = emission.moments(raw.to(dtype), log_var)
        assert {part.dtype for part in (density, drawn, *moments)} == {dtype}
        assert torch.isfinite(drawn).all()
        found.append([density.detach().double(), emission.inverse_degrees.grad, moments[1].detach().double()])
    for single, double in zip(*found, strict=True):
        assert torch.allclose(single.double(), double, rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize("name", ["vae", "tampered-vae"])
def test_rows_learn_with_tails_that_begin_at_the_gaussian(name: str, tmp_path: Path) -> None:
    settings = {"steps": 20, "likelihood": "student", "hidden": 6, "latent": 2, "samples": 2, "copies": 64}
    metrics = tmp_path / "metrics.jsonl"
    model = fit_model(name, settings, SPEC, DATA, metrics=metrics).model
    assert isinstance(model, VariationalModel)
    gradient = [json.loads(line)["gradient"] for line in metrics.read_text().splitlines()]
    assert max(gradient) < 100
    assert isinstance(model.emission, ResidualEmission)
    assert model.emission.inverse_degrees is not None
    assert 0 < float(model.emission.inverse_degrees.detach().abs().max()) < 0.1


def test_the_floor_and_the_decoded_variance() -> None:
    emission = residual(decoded_variance=True, floor=0.5)
    assert emission.outputs == 2 * BANDS
    raw = torch.zeros(1, SLOTS, 2 * BANDS, dtype=DTYPE)
    raw[..., BANDS:] = torch.tensor([-4.0, 0.7])
    _, log_var = emission.moments(raw, torch.zeros(SIZE, dtype=DTYPE))
    assert log_var.exp().flatten().tolist() == pytest.approx([0.5, 2.0137527] * SLOTS)


@pytest.mark.parametrize("kind", ["gaussian", "student", "logistics", "residual", "residual student"])
def test_moments_are_those_of_draws(kind: str) -> None:
    if kind.startswith("residual"):
        emission: Emission = residual(heavy_tails=kind.endswith("student"), decoded_variance=True)
        if emission.inverse_degrees is not None:  # type: ignore[union-attr]
            torch.nn.init.constant_(emission.inverse_degrees, 0.15)  # type: ignore[arg-type]
    else:
        emission = TextbookEmission(kind, BANDS, 2)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    one = 0.5 * torch.randn((1, SLOTS, emission.outputs), generator=generator, dtype=DTYPE)
    if kind == "student":
        one[..., 2 * BANDS :] = 4.0
    if kind == "logistics":
        one = one - 0.5
    log_var = torch.full((SIZE,), -0.4, dtype=DTYPE)
    with torch.no_grad():
        drawn = emission.sample(one.expand(30_000, -1, -1), log_var, generator, 1.0)
        mean, spread = emission.moments(one, log_var)
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.05)
    assert torch.allclose(drawn.var(0).log(), spread[0], atol=0.15)


def test_masses_of_logistics_are_densities_of_standardised_values() -> None:
    emission = TextbookEmission("logistics", 1, 2)
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn((1, 1, emission.outputs), generator=generator, dtype=DTYPE)
    axis = torch.arange(-8, 8, 0.01, dtype=DTYPE)[:, None]
    mask = torch.ones((len(axis), 1), dtype=torch.bool)
    density = emission.log_prob(axis, raw.expand(len(axis), -1, -1), mask, torch.zeros(1, dtype=DTYPE)).exp()
    assert float(density.sum() * 0.01) == pytest.approx(1, abs=0.01)
