"""The hoisted chain against its step-by-step specification, and the specification against hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cropgen.core.errors import DeviceError, UsageError
from cropgen.kernels.dispatch import CHOICES, resolve_kernel, select_kernel
from cropgen.kernels.recurrence import hoisted, reference
from cropgen.kernels.recurrence.reference import Cell, Chain, ChainInputs, ChainPath, Head
from tests.kernels.problems import CLASSES, KINDS, Kind, Shape, gradients, leaves, ragged_mask, random_problem

KERNELS = {"reference": reference.run_chain, "hoisted": hoisted.run_chain}
SMALL = (Shape(1, 1, 1, 1), Shape(4, 7, 8, 3, samples=2, units=5))
WIDE = (Shape(5, 1, 4, 3), Shape(1, 6, 5, 8), Shape(7, 12, 16, 4, samples=3), Shape(33, 3, 12, 2, units=20))


def assert_hoisted_is_reference(kind: Kind, shape: Shape) -> None:
    chain, inputs = random_problem(kind, shape)
    expected, found = reference.run_chain(chain, inputs), hoisted.run_chain(chain, inputs)
    for name, left, right in zip(ChainPath._fields, found, expected, strict=True):
        if right is None or left is None:
            assert left is right, name
            continue
        assert left.shape[:-1] == (shape.steps, shape.samples, shape.rows, CLASSES), name
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    wanted = gradients(expected, chain, inputs)
    for name, gradient in gradients(found, chain, inputs).items():
        scale = max(1.0, wanted[name].abs().max().item())
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-12 * scale, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_hoisted_equals_reference_forward_and_backward(kind: str, shape: Shape) -> None:
    assert_hoisted_is_reference(KINDS[kind], shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", WIDE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_hoisted_equals_reference_over_a_grid(kind: str, shape: Shape) -> None:
    assert_hoisted_is_reference(KINDS[kind], shape)


def test_every_weight_gets_a_gradient() -> None:
    chain, inputs = random_problem(KINDS["everything"], SMALL[1])
    found = gradients(hoisted.run_chain(chain, inputs), chain, inputs)
    assert len(found) == len(leaves(chain, inputs))
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_reference_by_hand() -> None:
    """One unit, one state, two dates, the second missing: every number worked out from the equations."""
    one = torch.ones(1, 1, dtype=torch.float64)
    row = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    head = Head((one,), one * 0.5, torch.zeros(1, dtype=torch.float64), row, torch.zeros(2, dtype=torch.float64))
    chain = Chain(head, head, torch.tensor([0.4], dtype=torch.float64), 0.9, -1.0)
    x = torch.tensor([0.7, -0.1], dtype=torch.float64)[:, None, None]
    mask = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None]
    noise = torch.tensor([0.25, -1.5], dtype=torch.float64)[:, None, None]
    path = reference.run_chain(chain, ChainInputs((x,), (x,), mask, noise))
    unit = math.tanh(0.7 + 0.5 * 0.4)
    change = 3 * math.tanh(-0.2 * unit / 3)
    first = 0.9 * 0.4 + 0.3 * unit + 0.3 * unit + math.exp((-1 + change + change) / 2) * 0.25
    unit = math.tanh(-0.1 + 0.5 * first)
    change = 3 * math.tanh(-0.2 * unit / 3)
    second = 0.9 * first + 0.3 * unit + math.exp((-1 + change) / 2) * -1.5
    assert path.z.flatten().tolist() == pytest.approx([first, second], abs=1e-14)
    assert path.shift[1].item() == 0
    assert path.log_ratio[1].item() == 0


def by_hand_inputs(x: float, mask: float, noise: float, **others: Tensor) -> ChainInputs:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return ChainInputs((x * one,), (x * one,), mask * one, noise * one, **others)  # pyright: ignore[reportArgumentType]


def test_gated_direct_combined_by_hand() -> None:
    """One unit, one state, one date twice as far from the one before: every number from the equations."""
    one = torch.ones(1, 1, dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)
    gated = Head(
        (one,), one * 0.5, nothing, torch.tensor([[0.3, -0.2, 0.6]], dtype=torch.float64), torch.zeros(3).double()
    )
    combining = Head(
        (one,), one * 0.5, nothing, torch.tensor([[0.4, 0.1]], dtype=torch.float64), torch.zeros(2).double(), True
    )
    chain = Chain(gated, combining, torch.tensor([0.4], dtype=torch.float64), 0.9, -1.0, linear=one * 0.8, direct=True)
    path = reference.run_chain(chain, by_hand_inputs(0.7, 1.0, 0.25, gap=torch.full((1, 1, 1), 2.0).double()))
    base = -1.0 + math.log((1 - 0.9**4) / (1 - 0.9**2))
    unit = math.tanh(0.7 + 0.5 * 0.4)
    gate = 1 / (1 + math.exp(-0.6 * unit))
    mean = (1 - gate) * 0.81 * 0.4 * 0.8 + gate * 0.3 * unit
    log_variance = base + 3 * math.tanh(-0.2 * unit / 3)
    combined = 0.7 + math.tanh(0.5 * 0.4)
    own = base + 3 * math.tanh(0.1 * combined / 3)
    assert path.transition_log_variance.item() == pytest.approx(log_variance, abs=1e-14)
    assert path.shift.item() == pytest.approx(0.4 * combined - mean, abs=1e-14)
    assert path.log_ratio.item() == pytest.approx(own - log_variance, abs=1e-14)
    assert path.z.item() == pytest.approx(0.4 * combined + math.exp(own / 2) * 0.25, abs=1e-14)


def test_two_steps_without_drift_are_one_step_over_a_gap_of_two() -> None:
    """The transition over a gap is the exact one: mean r² z and variance v (1 + r²)."""
    chain, inputs = random_problem(Kind(bare=True, retention=0.7), Shape(2, 1, 2, 2))
    chain = chain._replace(transition=chain.transition._replace(out_bias=torch.zeros(4).double()))
    unseen = inputs._replace(mask=torch.zeros_like(inputs.mask), gap=torch.full_like(inputs.mask, 2.0))
    twice = reference.run_chain(chain, unseen)
    variance = math.exp(chain.log_variance) * (1 + 0.7**2)
    expected = 0.49 * chain.initial + math.sqrt(variance) * inputs.noise[0]
    torch.testing.assert_close(twice.z[0], expected.expand_as(twice.z[0]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("kernel", [reference, hoisted], ids=["reference", "hoisted"])
def test_the_cell_alone_is_that_of_torch_and_steps_over_masked_dates(kernel, kind: str) -> None:
    torch.manual_seed(0)
    library = (nn.GRU if kind == "gru" else nn.LSTM)(3, 4).double()
    inputs, hidden = library.weight_ih_l0.T, library.weight_hh_l0.T
    bias, inner = library.bias_ih_l0, library.bias_hh_l0
    both = torch.cat([inner[:8], torch.zeros(4).double()]) if kind == "gru" else inner
    cell = Cell((inputs,), torch.zeros(0, 1), hidden, bias + both, inner[8:] if kind == "gru" else None,
                torch.zeros(4 if kind == "gru" else 8).double())  # fmt: skip
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(kernel.run_cell(cell, (x,))[..., :4], library(x)[0], rtol=0, atol=1e-14)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]).double().T[..., None]
    states = kernel.run_cell(cell, (x,), mask)
    seen = library(x[[0, 2, 3], :1])[0]
    torch.testing.assert_close(states[[0, 1, 2, 3, 5], 0, :4], seen[[0, 0, 1, 2, 2], 0], rtol=0, atol=1e-14)
    assert not states[:, 1].any()


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_gradients_of_the_cell_alone(kind: str) -> None:
    chain, inputs = random_problem(Kind(cell=kind), Shape(3, 5, 4, 2))
    assert chain.cell is not None
    learnt = [*chain.cell.inputs, chain.cell.hidden, chain.cell.bias, chain.cell.initial, inputs.cell[0]]
    mask = ragged_mask(5, 3, torch.Generator().manual_seed(1)).double()[:, None, :, None, None]
    found = []
    for kernel in (reference, hoisted):
        states = kernel.run_cell(chain.cell, inputs.cell, mask)
        weight = torch.cos(torch.arange(states.numel()).double()).view_as(states)
        found.append(torch.autograd.grad((states * weight).sum(), learnt))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_trailing_padding_changes_nothing(kernel: str) -> None:
    chain, inputs = random_problem(KINDS["everything"], Shape(4, 5, 8, 3))
    assert inputs.gap is not None

    def pad(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.cat([x, torch.full_like(x[:1], 9.0)]) if len(x) > 1 else x for x in part)

    longer = ChainInputs(
        pad(inputs.transition),
        pad(inputs.inference),
        torch.cat([inputs.mask, torch.zeros_like(inputs.mask[:1])]),
        torch.cat([inputs.noise, torch.full_like(inputs.noise[:1], 2.0)]),
        pad(inputs.cell),
        torch.cat([inputs.gap, torch.zeros_like(inputs.gap[:1])]),
    )
    short, long = KERNELS[kernel](chain, inputs), KERNELS[kernel](chain, longer)
    for left, right in zip(short, long, strict=True):
        assert left is not None
        assert right is not None
        torch.testing.assert_close(right[:5], left, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["srnn", "dmm", "vrnn", "everything"])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_missing_date_ignores_inference_input_and_is_the_transition(kernel: str, kind: str) -> None:
    chain, inputs = random_problem(KINDS[kind], Shape(4, 5, 8, 3))
    missing = (inputs.mask == 0).to(torch.float64)
    disturbed = inputs._replace(inference=tuple(x + 5 * missing if len(x) > 1 else x for x in inputs.inference))
    before, after = KERNELS[kernel](chain, inputs), KERNELS[kernel](chain, disturbed)
    torch.testing.assert_close(after.z, before.z, rtol=0, atol=0)
    assert missing.any()
    assert not (before.shift * missing).any()
    assert not (before.log_ratio * missing).any()


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_past_does_not_see_the_future(kernel: str) -> None:
    chain, inputs = random_problem(KINDS["everything"], Shape(4, 6, 8, 3))
    late = torch.zeros(6, 1, 1, 1, 1, dtype=torch.float64)
    late[3:] = 1

    def disturb(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x + 3 * late if len(x) > 1 else x for x in part)

    changed = inputs._replace(
        transition=disturb(inputs.transition),
        inference=disturb(inputs.inference),
        cell=disturb(inputs.cell),
        noise=inputs.noise + late,
    )
    before, after = KERNELS[kernel](chain, inputs), KERNELS[kernel](chain, changed)
    torch.testing.assert_close(after.z[:3], before.z[:3], rtol=0, atol=0)
    assert (after.z[3:] - before.z[3:]).abs().min() > 0


def test_noise_is_shared_by_classes_that_do_not_differ() -> None:
    chain, inputs = random_problem(KINDS["srnn"], Shape(3, 4, 6, 2))
    same = inputs._replace(
        transition=(inputs.transition[0],),
        inference=(inputs.inference[0], inputs.inference[1][..., :1, :].expand_as(inputs.inference[1])),
    )
    shorter = chain._replace(
        transition=chain.transition._replace(inputs=chain.transition.inputs[:1]),
        inference=chain.inference._replace(inputs=chain.inference.inputs[:2]),
    )
    z = hoisted.run_chain(shorter, same).z
    torch.testing.assert_close(z, z[..., :1, :].expand_as(z), rtol=0, atol=1e-14)


def test_select_kernel() -> None:
    assert select_kernel("reference") is reference.run_chain
    assert select_kernel("hoisted") is hoisted.run_chain
    assert CHOICES == ("auto", "reference", "hoisted", "triton")
    with pytest.raises(UsageError, match="unknown kernel 'fast'") as caught:
        select_kernel("fast")
    assert "auto, reference, hoisted, triton" in (caught.value.hint or "")


def test_automatic_choice_is_the_hoisted_kernel_without_a_gpu() -> None:
    chain, inputs = random_problem(KINDS["vrnn"], Shape(2, 3, 4, 2))
    assert resolve_kernel("auto", "cpu") == "hoisted"
    found, expected = select_kernel()(chain, inputs), hoisted.run_chain(chain, inputs)
    assert torch.equal(found.z, expected.z)


def test_the_fused_kernel_is_refused_without_a_gpu() -> None:
    with pytest.raises(DeviceError, match="needs a CUDA device, the model is on cpu") as caught:
        resolve_kernel("triton", "cpu")
    assert caught.value.exit_code == 5
    assert "--kernel auto" in (caught.value.hint or "")
