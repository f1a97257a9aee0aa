"""The hoisted chain against its step-by-step specification, and the specification against hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cropgen.core.errors import DeviceError, UsageError
from cropgen.kernels.dispatch import CHOICES, KERNELS, select_kernel
from cropgen.kernels.recurrence import hoisted, reference
from cropgen.kernels.recurrence.reference import Chain, ChainInputs, ChainPath, Head

SHARED, OWN, CLASSES = 3, 2, 4


def random_head(widths: tuple[int, ...], latent: int, hidden: int, generator: torch.Generator) -> Head:
    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.4).requires_grad_()

    inputs = tuple(draw(width, hidden) for width in widths)
    return Head(inputs, draw(latent, hidden), draw(hidden), draw(hidden, 2 * latent), draw(2 * latent))


def random_problem(
    rows: int, steps: int, hidden: int, latent: int, *, samples: int = 1, seed: int = 0
) -> tuple[Chain, ChainInputs]:
    """A chain over samples × rows × classes: one input shared by the classes, one of its own, one constant in time."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    transition = random_head((SHARED, CLASSES), latent, hidden, generator)
    inference = random_head((SHARED, OWN, CLASSES), latent, hidden, generator)
    chain = Chain(transition, inference, draw(latent).requires_grad_(), 0.9, -1.5)
    own_class = torch.eye(CLASSES, dtype=torch.float64)[None, None, None]
    lengths = torch.randint(0, steps + 1, (rows,), generator=generator)
    mask = (torch.arange(steps)[:, None] < lengths) & (torch.rand(steps, rows, generator=generator) > 0.3)
    inputs = ChainInputs(
        transition=(draw(steps, 1, rows, 1, SHARED).requires_grad_(), own_class),
        inference=(
            draw(steps, 1, rows, 1, SHARED).requires_grad_(),
            draw(steps, 1, rows, CLASSES, OWN).requires_grad_(),
            own_class,
        ),
        mask=mask.double()[:, None, :, None, None],
        noise=draw(steps, samples, rows, 1, latent),
    )
    return chain, inputs


def leaves(chain: Chain, inputs: ChainInputs) -> list[Tensor]:
    tensors = [chain.initial, *inputs.transition[:1], *inputs.inference[:2]]
    for head in (chain.transition, chain.inference):
        tensors += [*head.inputs, head.state, head.bias, head.out, head.out_bias]
    return tensors


def weighted_sum(path: ChainPath) -> Tensor:
    """A scalar in which every entry of the path has its own weight."""
    total = torch.zeros((), dtype=torch.float64)
    for i, part in enumerate(path):
        weight = torch.cos(torch.arange(part.numel(), dtype=torch.float64) * (0.37 + i))
        total = total + (part.flatten() * weight).sum()
    return total


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (5, 1), (1, 6), (5, 7)])
@pytest.mark.parametrize(("hidden", "latent"), [(1, 1), (8, 3), (5, 8)])
def test_hoisted_equals_reference_forward_and_backward(
    rows: int, steps: int, hidden: int, latent: int, samples: int
) -> None:
    chain, inputs = random_problem(rows, steps, hidden, latent, samples=samples)
    expected = reference.run_chain(chain, inputs)
    found = hoisted.run_chain(chain, inputs)
    for name, left, right in zip(ChainPath._fields, found, expected, strict=True):
        assert left.shape == (steps, samples, rows, CLASSES, latent), name
        torch.testing.assert_close(left, right, rtol=0, atol=1e-10)
    wanted = torch.autograd.grad(weighted_sum(expected), leaves(chain, inputs))
    got = torch.autograd.grad(weighted_sum(found), leaves(chain, inputs))
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


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


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_trailing_padding_changes_nothing(kernel: str) -> None:
    chain, inputs = random_problem(4, 5, 8, 3)
    longer = ChainInputs(
        *(tuple(torch.cat([x, torch.full_like(x[:1], 9.0)]) if len(x) > 1 else x for x in part) for part in inputs[:2]),
        torch.cat([inputs.mask, torch.zeros_like(inputs.mask[:1])]),
        torch.cat([inputs.noise, torch.full_like(inputs.noise[:1], 2.0)]),
    )
    short, long = KERNELS[kernel](chain, inputs), KERNELS[kernel](chain, longer)
    for left, right in zip(short, long, strict=True):
        torch.testing.assert_close(right[:5], left, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_missing_date_ignores_inference_input_and_is_the_transition(kernel: str) -> None:
    chain, inputs = random_problem(4, 5, 8, 3)
    missing = (inputs.mask == 0).to(torch.float64)
    disturbed = inputs._replace(inference=tuple(x + 5 * missing if len(x) > 1 else x for x in inputs.inference))
    before, after = KERNELS[kernel](chain, inputs), KERNELS[kernel](chain, disturbed)
    torch.testing.assert_close(after.z, before.z, rtol=0, atol=0)
    assert missing.any()
    assert not (before.shift * missing).any()
    assert not (before.log_ratio * missing).any()


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_past_does_not_see_the_future(kernel: str) -> None:
    chain, inputs = random_problem(4, 6, 8, 3)
    late = torch.zeros(6, 1, 1, 1, 1, dtype=torch.float64)
    late[3:] = 1
    changed = ChainInputs(
        *(tuple(x + 3 * late if len(x) > 1 else x for x in part) for part in inputs[:2]),
        inputs.mask,
        inputs.noise + late,
    )
    before, after = KERNELS[kernel](chain, inputs), KERNELS[kernel](chain, changed)
    torch.testing.assert_close(after.z[:3], before.z[:3], rtol=0, atol=0)
    assert (after.z[3:] - before.z[3:]).abs().min() > 0


def test_noise_is_shared_by_classes_that_do_not_differ() -> None:
    chain, inputs = random_problem(3, 4, 6, 2)
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
    assert select_kernel() is hoisted.run_chain
    assert CHOICES == ("auto", "reference", "hoisted")
    with pytest.raises(DeviceError, match="not part of this release"):
        select_kernel("triton")
    with pytest.raises(UsageError, match="unknown kernel 'fast'") as caught:
        select_kernel("fast")
    assert "auto, reference, hoisted" in (caught.value.hint or "")
