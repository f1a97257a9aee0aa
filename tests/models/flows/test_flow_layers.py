"""Every flow layer: the identity at the start, an exact inverse and log-determinant, missing entries left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cropgen.models.layers.flows.autoregressive import Autoregressive, Memory, conditioner_of
from cropgen.models.layers.flows.continuous import Continuous
from cropgen.models.layers.flows.contractive import Contractive, spectral_norm
from cropgen.models.layers.flows.coupling import Coupling, even_odd, halves
from cropgen.models.layers.flows.determinant_lemma import Planar, Radial, Sylvester, orthonormal_rows
from cropgen.models.layers.flows.layer import FlowLayer, Inverted, Seen, Stack
from cropgen.models.layers.flows.linear import Permutation, band_mix, undoing
from cropgen.models.layers.flows.multiscale import MultiScale, squeeze, unsqueeze
from cropgen.models.layers.flows.norm import ActNorm, BatchNorm
from cropgen.models.layers.flows.splines import Spline
from cropgen.models.layers.flows.univariate import (
    Additive,
    Affine,
    DenseSigmoidal,
    MixtureCDF,
    MonotonicNetwork,
    Sigmoidal,
    Univariate,
    invert_increasing,
)

SLOTS, BANDS, CLASSES = 4, 2, 3
SIZE, TOLD = SLOTS * BANDS, SLOTS + CLASSES
SPLINES = ("linear", "quadratic", "cubic", "rational-quadratic")

MAPS: dict[str, Callable[[], Univariate]] = {
    "additive": Additive,
    "affine": Affine,
    "dsf": lambda: Sigmoidal(4),
    "ddsf": lambda: DenseSigmoidal(3),
    "mixture": lambda: MixtureCDF(3),
    "spline-linear": lambda: Spline("linear", 4, 5.0),
    "spline-quadratic": lambda: Spline("quadratic", 4, 5.0),
    "spline-cubic": lambda: Spline("cubic", 4, 5.0),
    "spline-rational-quadratic": lambda: Spline("rational-quadratic", 4, 5.0),
}
NETWORKS = {
    "mnn": lambda: MonotonicNetwork(4, 8, near_identity=False),
    "mnn near identity": lambda: MonotonicNetwork(4, 8, near_identity=True),
}


def autoregressive(memory: Memory, univariate: Univariate, *, at_identity: bool, layer: int = 1) -> Autoregressive:
    conditioner = conditioner_of(
        memory, univariate, slots=SLOTS, bands=BANDS, context=CLASSES, hidden=16, layer=layer, order="time",
        at_identity=at_identity,
    )  # fmt: skip
    return Autoregressive(conditioner, univariate, "fixed-point")


def build(name: str, at_identity: bool) -> FlowLayer:
    kind, _, detail = name.partition(" ")
    here = {"at_identity": at_identity}
    made: dict[str, Callable[[], FlowLayer]] = {
        "coupling": lambda: Coupling(
            torch.tensor([0, 3, 5]), SIZE, TOLD, 16, ({**MAPS, **NETWORKS})[detail](), **here),
        "autoregressive": lambda: autoregressive("autoregressive", ({**MAPS, **NETWORKS})[detail](), **here),
        "causal-conv": lambda: autoregressive("causal-conv", Affine(), **here),
        "recurrent": lambda: autoregressive("recurrent", Affine(), **here),
        "iaf": lambda: Inverted(autoregressive("autoregressive", Affine(), **here)),
        "planar": lambda: Planar(SIZE, CLASSES, **here),
        "radial": lambda: Radial(SIZE, CLASSES, **here),
        "sylvester": lambda: Sylvester(SIZE, 3, CLASSES, detail, 1, **here),
        "contractive": lambda: Contractive(SIZE, TOLD, 16, kappa=0.9, log_det="exact", **here),
        "continuous": lambda: Continuous(SIZE, TOLD, 16, frequencies=3, steps=24, trace="exact", **here),
        "multiscale": lambda: MultiScale(
            SLOTS, BANDS, CLASSES, 8, levels=2, steps=2, norm=detail, mixed=True, seed=1, **here),
        "linear": lambda: band_mix(detail, BANDS, 1, **here),
        "actnorm": lambda: ActNorm(SIZE, **here),
        "batchnorm": lambda: BatchNorm(SIZE, **here),
    }  # fmt: skip
    return made[kind]()


IDENTITIES = (
    *(f"{kind} {name}" for kind in ("coupling", "autoregressive") for name in MAPS),
    "causal-conv", "recurrent", "iaf", "planar", "radial",
    *(f"sylvester {kind}" for kind in ("orthogonal", "householder", "triangular")),
    "contractive", "continuous",
    *(f"multiscale {norm}" for norm in ("none", "act", "batch")),
    *(f"linear {kind}" for kind in ("plu", "householder", "expm", "cayley")),
    "actnorm", "batchnorm",
)  # fmt: skip
EVERY = (*IDENTITIES, "linear permutation", *(f"autoregressive {name}" for name in NETWORKS), "coupling mnn")
LOG_DET_TOLERANCE = {"continuous": 1e-4}


def trained_like(name: str, seed: int = 3) -> FlowLayer:
    """A layer whose weights are far from where it begins, in double precision."""
    torch.manual_seed(seed)
    layer = build(name, False).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer


def rows(seed: int = 0, count: int = 6) -> tuple[Tensor, Seen]:
    """Vectors with missing dates: the first complete, the last without any."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((count, SLOTS), generator=generator) > 0.35
    mask[0], mask[-1] = True, False
    seen = Seen.of_dates(mask, BANDS, torch.float64)
    context = torch.eye(CLASSES, dtype=torch.float64)[torch.arange(count) % CLASSES]
    v = 2 * torch.randn((count, SIZE), generator=generator, dtype=torch.float64) * seen.present
    return v, replace(seen, context=context)


def row(seen: Seen, number: int) -> Seen:
    assert seen.context is not None
    here = slice(number, number + 1)
    return Seen(seen.mask[here], seen.present[here], seen.context[here])


@pytest.mark.parametrize("name", IDENTITIES)
def test_begins_at_the_identity(name: str) -> None:
    torch.manual_seed(1)
    layer = build(name, True).double().eval()
    v, seen = rows()
    moved, log_det = layer(v, seen)
    assert torch.allclose(moved, v, atol=1e-11)
    assert torch.allclose(log_det, torch.zeros_like(log_det), atol=1e-11)


@pytest.mark.parametrize("name", EVERY)
def test_inverse_undoes_the_layer_and_missing_entries_stay(name: str) -> None:
    layer, (v, seen) = trained_like(name), rows()
    moved, log_det = layer(v, seen)
    assert not torch.allclose(moved, v, atol=1e-3)
    assert bool((moved[seen.present == 0] == 0).all())
    assert float(log_det.detach()[-1].abs()) < 1e-12
    assert torch.allclose(layer.inverse(moved.detach(), seen), v, atol=1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_log_determinant_is_that_of_the_observed_entries(name: str) -> None:
    layer, (v, seen) = trained_like(name), rows()
    log_det = layer(v, seen)[1].detach()
    for number in range(3):
        one = row(seen, number)
        jacobian = torch.autograd.functional.jacobian(lambda x, one=one: layer(x[None], one)[0][0], v[number])
        there = one.present[0] > 0
        expected = torch.linalg.slogdet(jacobian[there][:, there]).logabsdet
        assert abs(float(log_det[number] - expected)) < LOG_DET_TOLERANCE.get(name, 1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_rows_do_not_see_each_other(name: str) -> None:
    layer, (v, seen) = trained_like(name), rows()
    moved, log_det = layer(v, seen)
    for number in (1, 4):
        alone, change = layer(v[number : number + 1], row(seen, number))
        assert torch.allclose(alone[0], moved[number], atol=1e-9)
        assert torch.allclose(change[0], log_det[number], atol=1e-9)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "linear permutation"])
def test_gradients_reach_every_parameter(name: str) -> None:
    layer, (v, seen) = trained_like(name), rows()
    moved, log_det = layer(v, seen)
    (moved.square().sum() - log_det.sum()).backward()
    silent = [key for key, p in layer.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []


@pytest.mark.parametrize("memory", ["autoregressive", "causal-conv", "recurrent"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_date_is_steered_by_earlier_dates_alone(memory: Memory, layer: int) -> None:
    torch.manual_seed(5)
    one = autoregressive(memory, Affine(), at_identity=False, layer=layer).double()
    v, seen = rows()
    seen = replace(seen, mask=torch.ones_like(seen.mask), present=torch.ones_like(seen.present))
    moved, slope = one.stretched(v, seen)
    later = v.clone()
    later[:, 2 * BANDS :] += 1
    assert torch.allclose(one.stretched(later, seen)[0][:, : 2 * BANDS], moved[:, : 2 * BANDS])
    cut = replace(seen, mask=seen.mask * torch.tensor([1, 1, 0, 0]), present=seen.present * (torch.arange(SIZE) < 4))
    beginning, short = one.stretched(v * cut.present, cut)
    assert torch.allclose(beginning[:, : 2 * BANDS], moved[:, : 2 * BANDS])
    assert torch.allclose(short[:, : 2 * BANDS], slope[:, : 2 * BANDS])


def test_a_missing_date_is_no_step_of_the_recurrence() -> None:
    torch.manual_seed(6)
    layer = autoregressive("recurrent", Affine(), at_identity=False).double()
    v, seen = rows()
    mask = torch.tensor([[1.0, 0, 1, 1]], dtype=torch.float64)
    one = Seen(mask, mask.repeat_interleave(BANDS, 1), seen.context[:1] if seen.context is not None else None)
    calls: list[Tensor] = []
    memory = layer.conditioner.memory
    memory.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].detach()))
    layer(v[:1] * one.present, one)
    values, times = calls[0][0, :, :BANDS], calls[0][0, :, BANDS]
    assert torch.equal(values[:3], v[0].unflatten(0, (SLOTS, BANDS))[[0, 2, 3]])
    assert torch.allclose(times[:3], torch.tensor([1.0, 3.0, 4.0], dtype=torch.float64) / SLOTS)


def test_implicit_gradient_is_that_of_the_unrolled_inverse() -> None:
    torch.manual_seed(7)
    inner = autoregressive("autoregressive", Affine(), at_identity=False).double()
    layer, (v, seen) = Inverted(inner, 1e-14), rows()
    v = v.requires_grad_()
    found, log_det = layer(v, seen)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = [v, *layer.parameters()]
    implicit = torch.autograd.grad((found * weights).sum() + log_det.sum(), parameters)
    unrolled = v
    for _ in range(SIZE):
        transform = inner.univariate(inner.conditioner(unrolled, seen))
        unrolled = transform.inv(v) * seen.present
    loss = (unrolled * weights).sum() - inner(unrolled, seen)[1].sum()
    explicit = torch.autograd.grad(loss, parameters)
    for one, other in zip(implicit, explicit, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("name", [*MAPS, *NETWORKS])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.1, 4))
def test_maps_increase_and_their_slope_is_their_derivative(name: str, seed: int, size: float) -> None:
    torch.manual_seed(seed)
    made = ({**MAPS, **NETWORKS})[name]().double()
    parameters = size * torch.randn(made.total, dtype=torch.float64)
    x = torch.linspace(-7, 7, 57, dtype=torch.float64).requires_grad_()
    transform = made(parameters.expand(57, -1))
    y, log_slope = transform.call_and_ladj(x)
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert bool((y.diff() > 0).all())
    assert torch.allclose(log_slope, slope.log(), atol=1e-7)


@pytest.mark.parametrize("kind", SPLINES)
def test_splines_are_continuous_and_the_identity_outside(kind: str) -> None:
    torch.manual_seed(2)
    made = Spline(kind, 5, 3.0)
    x = torch.linspace(-4, 4, 16_001, dtype=torch.float64)
    transform = made((2 * torch.randn(made.total, dtype=torch.float64)).expand(len(x), -1))
    y = transform(x)
    outside = x.abs() >= 3
    assert torch.allclose(y[outside], x[outside], atol=1e-12)
    assert float(y.diff().max()) < 0.2


def test_one_sigmoidal_unit_is_affine() -> None:
    made, x = Sigmoidal(1), torch.linspace(-30, 30, 13, dtype=torch.float64)
    parameters = torch.tensor([0.7, -1.3, 5.0], dtype=torch.float64)
    y, log_slope = made(parameters.expand(13, -1)).call_and_ladj(x)
    log_scale = 0.7 / (1 + 0.7 / torch.tensor(1000.0, dtype=torch.float64).log())
    assert torch.allclose(y, x * log_scale.exp() - 1.3, atol=1e-10)
    assert torch.allclose(log_slope, log_scale.expand(13), atol=1e-10)


def test_bisection_finds_the_root_far_away() -> None:
    y = torch.tensor([-1e6, 0.0, 3.0, 8e4], dtype=torch.float64)
    assert torch.allclose(invert_increasing(lambda x: x**3 + x, y) ** 3, y, rtol=1e-2, atol=1.5)
    x = invert_increasing(lambda x: x**3 + x, y)
    assert torch.allclose(x**3 + x, y, rtol=1e-12, atol=1e-12)


def test_spectral_norms_and_contraction_hold() -> None:
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(spectral_norm(weight), torch.linalg.matrix_norm(weight, 2))
    layer, (v, seen) = trained_like("contractive"), rows()
    assert isinstance(layer, Contractive)
    with torch.no_grad():
        layer.enter.weight *= 10
        layer.leave.weight *= 10
    added = lambda x: layer(x, seen)[0] - x  # noqa: E731
    for scale in (0.01, 1.0):
        other = v + scale * torch.randn_like(v) * seen.present
        growth = (added(v) - added(other)).norm(dim=-1)[:-1] / (v - other).norm(dim=-1)[:-1]
        assert float(growth.detach().max()) <= 0.9


def test_the_series_is_an_unbiased_estimate_of_the_log_determinant() -> None:
    layer, (v, seen) = trained_like("contractive"), rows()
    assert isinstance(layer, Contractive)
    exact = layer(v, seen)[1].detach()
    layer.log_det = "series"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([layer(v, replace(seen, generator=generator))[1] for _ in range(1200)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all())
    assert float(error[0]) < 0.15


def test_hutchinson_is_an_unbiased_estimate_of_the_trace() -> None:
    layer, (v, seen) = trained_like("continuous"), rows()
    assert isinstance(layer, Continuous)
    layer.steps = 2
    exact = layer(v, seen)[1].detach()
    layer.trace = "hutchinson"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([layer(v, replace(seen, generator=generator))[1] for _ in range(150)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all())


def test_columns_that_the_observed_entries_do_not_tell_apart_are_left_out() -> None:
    many = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [1.0, 1, 0]], dtype=torch.float64)[None]
    expected = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=torch.float64)[None]
    assert torch.allclose(orthonormal_rows(many), expected)


def test_norms_take_the_moments_of_the_rows_that_observed_an_entry() -> None:
    v, seen = rows(4, 40)
    layer = ActNorm(SIZE, at_identity=False).double()
    layer.initialise(v, seen)
    moved, _ = layer(v, seen)
    for entry in range(SIZE):
        values = moved[seen.present[:, entry] > 0, entry]
        assert abs(float(values.detach().mean())) < 1e-9
        assert float(values.detach().var(correction=0)) == pytest.approx(1, abs=1e-4)


def test_batch_norm_learns_by_the_mini_batch_and_scores_by_running_moments() -> None:
    v, seen = rows(5, 40)
    layer = BatchNorm(SIZE, at_identity=True).double()
    layer.initialise(v, seen)
    moved, log_det = layer(v, seen)
    assert torch.allclose(moved, v, atol=1e-9)
    assert torch.allclose(log_det, torch.zeros_like(log_det), atol=1e-9)
    before = layer.mean.clone()
    layer(v + seen.present, seen)
    assert torch.allclose(layer.mean, before + 0.1, atol=1e-9)


def test_permutations_are_undone_together() -> None:
    orders = [torch.tensor(order) for order in ([2, 0, 1, 3], [1, 0, 3, 2], [3, 2, 1, 0])]
    layers = [Permutation(order) for order in orders]
    v = torch.randn(2, 12, dtype=torch.float64)
    seen = Seen.of_dates(torch.ones(2, 3, dtype=torch.bool), 4, torch.float64)
    moved, _ = Stack([*layers, undoing(layers)])(v, seen)
    assert torch.equal(moved, v)
    assert not torch.equal(layers[0](v, seen)[0], v)


@pytest.mark.parametrize("dates", [1, 2, 5, 6])
def test_squeeze_is_undone(dates: int) -> None:
    x = torch.randn(3, dates, 2)
    assert squeeze(x).shape == (3, (dates + 1) // 2, 4)
    assert torch.equal(unsqueeze(squeeze(x), dates), x)


def test_halves_and_dates_alternate() -> None:
    first, second, third = halves(9, 3, 1)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(9))
    assert third.tolist() != first.tolist()
    assert [part.tolist() for part in even_odd(3, 2, 2)] == [[0, 1, 4, 5], [2, 3]]


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_affine_map_in_one_function_is_the_one_of_its_parts(interleaved: bool) -> None:
    generator = torch.Generator().manual_seed(8)
    univariate, there = Affine(), torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    x = (torch.randn(2, 3, generator=generator, dtype=torch.float64) * there).requires_grad_()
    flat = 3 * torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    parameters = (flat if interleaved else flat.transpose(1, 2).contiguous().transpose(1, 2)).requires_grad_()
    parted_image, parted_slope = Univariate.moved(univariate, parameters, x, there)
    image, slope = univariate.moved(parameters, x, there)
    assert torch.allclose(image, parted_image, atol=1e-13)
    assert torch.allclose(slope, parted_slope, atol=1e-13)
    assert torch.autograd.gradcheck(lambda p, v: univariate.moved(p, v, there), (parameters, x))
    back = univariate.moved_back(parameters, image.detach(), there)
    assert torch.allclose(back, x, atol=1e-12)
    assert torch.allclose(back, Univariate.moved_back(univariate, parameters, image.detach(), there), atol=1e-12)


@pytest.mark.parametrize("name", ["coupling affine", "coupling additive"])
def test_couplings_have_the_gradient_of_their_values(name: str) -> None:
    layer = trained_like(name)
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    seen = Seen(mask, mask.repeat_interleave(BANDS, 1), torch.eye(CLASSES, dtype=torch.float64)[:2])
    v = (torch.randn(2, SIZE, generator=generator, dtype=torch.float64) * seen.present).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: layer(u * seen.present, seen), (v,))
