"""The recurrent layer of the hoisted kernel: block by block, forward and back in time, against the specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cropgen.kernels.recurrence import hoisted, hoisted_walk, reference
from cropgen.kernels.recurrence.reference import Cell
from tests.kernels.problems import ragged_mask, random_cell

SIZE, FEATURES = 5, 3


def layer(kind: str, widths: tuple[int, ...] = (FEATURES,)) -> tuple[Cell, list[Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return (0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()

    cell = random_cell(kind, widths, SIZE, 0, draw)
    bias = [] if cell.hidden_bias is None else [cell.hidden_bias]
    return cell, [*cell.inputs, cell.hidden, cell.bias, cell.initial, *bias]


def seen(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def assert_same(
    cell: Cell, learnt: list[Tensor], inputs: tuple[Tensor, ...], mask: Tensor | None, *, reverse: bool = False
) -> None:
    found = []
    for kernel in (reference, hoisted):
        h = kernel.run_cell(cell, inputs, mask, reverse=reverse)
        weight = torch.cos(torch.arange(h.numel()).double()).view_as(h)
        found.append((h, *torch.autograd.grad((h * weight).sum(), learnt)))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True], ids=["seen", "masked"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "back"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_in_blocks_of_dates(kind: str, reverse: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven dates of four rows, three dates at once: two whole blocks and a rest."""
    monkeypatch.setattr(hoisted_walk, "_ROWS_AT_ONCE", 12)
    cell, learnt = layer(kind)
    x = seen(7, 4, FEATURES)
    mask = ragged_mask(7, 4, torch.Generator().manual_seed(1)).double()[..., None] if masked else None
    assert_same(cell, [*learnt, x], (x,), mask, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "back"])
def test_inputs_shared_by_rows_or_by_dates(reverse: bool) -> None:
    cell, learnt = layer("lstm", (FEATURES, 2, 4))
    inputs = seen(6, 3, 2, FEATURES), seen(6, 3, 1, 2, seed=1), seen(1, 1, 2, 4, seed=2)
    assert_same(cell, [*learnt, *inputs], inputs, None, reverse=reverse)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_one_date_of_one_row(kind: str) -> None:
    cell, learnt = layer(kind)
    x = seen(1, 1, FEATURES)
    assert_same(cell, [*learnt, x], (x,), None, reverse=True)


def test_both_directions_of_torch() -> None:
    library = nn.LSTM(FEATURES, SIZE, bidirectional=True).double()
    x, found = seen(9, 4, FEATURES), []
    for end in ("", "_reverse"):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        outer, inner, bias, other = (getattr(library, f"{name}{end}") for name in names)
        cell = Cell((outer.T,), inner.new_zeros(0, 4 * SIZE), inner.T, bias + other, None, x.new_zeros(2 * SIZE))
        found.append(hoisted.run_cell(cell, (x,), reverse=bool(end)))
    torch.testing.assert_close(torch.cat(found, -1), library(x)[0], rtol=0, atol=1e-13)


def test_an_input_that_learns_nothing_and_no_second_derivative() -> None:
    cell, _ = layer("gru")
    h = hoisted.run_cell(cell, (seen(4, 2, FEATURES).detach(),))
    (first,) = torch.autograd.grad(h.square().sum(), [cell.hidden], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
