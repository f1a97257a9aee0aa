"""Chains of every kind with random weights and seasons that are ragged, full of holes, or never observed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cropgen.kernels.recurrence.reference import Cell, Chain, ChainInputs, ChainPath, Head

SHARED, OWN, CLASSES = 3, 2, 3


@dataclass(frozen=True)
class Kind:
    """One chain of the family, named after the model that runs it."""

    cell: str = ""
    gated: bool = False
    direct: bool = False
    combine: bool = False
    gaps: bool = False
    bare: bool = False  # a transition without hidden units
    retention: float = 0.9


KINDS = {
    "srnn": Kind(),
    "dkf": Kind(gaps=True),
    "dkf-direct": Kind(direct=True, gaps=True),
    "dmm": Kind(gated=True, direct=True, combine=True),
    "dmm-gaps": Kind(gated=True, combine=True, gaps=True),
    "vrnn": Kind(cell="gru", direct=True, retention=0.0),
    "vrnn-residual": Kind(cell="gru", gaps=True),
    "vrnn-lstm": Kind(cell="lstm", direct=True, retention=0.0),
    "rvae": Kind(cell="gru", bare=True, retention=0.0),
    "rvae-lstm": Kind(cell="lstm", bare=True, gated=False, retention=0.0),
    "everything": Kind(cell="gru", gated=True, direct=True, combine=True, gaps=True),
}


@dataclass(frozen=True)
class Shape:
    rows: int
    steps: int
    hidden: int
    latent: int
    samples: int = 1
    units: int = 0  # of the cell; 0: as hidden


def random_head(
    widths: tuple[int, ...], state: int, hidden: int, latent: int, outputs: int, draw, *, combine: bool = False
) -> Head:
    inputs = tuple(draw(width, hidden) for width in widths)
    weights = draw(state, hidden), draw(hidden), draw(hidden, outputs * latent), draw(outputs * latent)
    return Head(inputs, *weights, combine)


def random_cell(kind: str, widths: tuple[int, ...], units: int, latent: int, draw) -> Cell:
    gates = units * (3 if kind == "gru" else 4)
    inputs = tuple(draw(width, gates) for width in widths)
    bias = draw(units) if kind == "gru" else None
    return Cell(inputs, draw(latent, gates), draw(units, gates), draw(gates), bias, draw(units * (gates // units - 2)))


def random_problem(kind: Kind, shape: Shape, *, seed: int = 0, dtype=torch.float64) -> tuple[Chain, ChainInputs]:
    """A chain over samples × rows × classes: inputs shared by the classes, of each class, and constant in time."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(dtype)

    def weight(*sizes: int) -> Tensor:
        spread = 0.4 if len(sizes) < 2 or not sizes[0] else 0.8 / max(2.0, sizes[0] ** 0.5)
        return (noise(*sizes) * spread).requires_grad_()

    steps, rows, units = shape.steps, shape.rows, shape.units or shape.hidden
    state = units if kind.cell else shape.latent
    outputs = 3 if kind.gated else 2
    p_widths, p_hidden = ((), 0) if kind.bare else ((SHARED, CLASSES), shape.hidden)
    chain = Chain(
        random_head(p_widths, state, p_hidden, shape.latent, outputs, weight),
        random_head((SHARED, OWN, CLASSES), state, shape.hidden, shape.latent, 2, weight, combine=kind.combine),
        weight(shape.latent),
        kind.retention,
        -1.4,
        random_cell(kind.cell, (SHARED, CLASSES), units, shape.latent, weight) if kind.cell else None,
        weight(shape.latent, shape.latent) if kind.gated else None,
        kind.direct,
    )
    each = torch.eye(CLASSES, dtype=dtype)[None, None, None]

    def shared() -> Tensor:
        return noise(steps, 1, rows, 1, SHARED).requires_grad_()

    inputs = ChainInputs(
        () if kind.bare else (shared(), each),
        (shared(), noise(steps, 1, rows, CLASSES, OWN).requires_grad_(), each),
        ragged_mask(steps, rows, generator).to(dtype)[:, None, :, None, None],
        noise(steps, shape.samples, rows, 1, shape.latent),
        (shared(), each) if kind.cell else (),
        noise(steps, 1, rows, 1, 1).abs() * 2 + 0.05 if kind.gaps else None,
    )
    return chain, inputs


def ragged_mask(steps: int, rows: int, generator: torch.Generator) -> Tensor:
    """(T, B) seasons of every length with holes in them; of two rows or more, the last is never observed."""
    lengths = torch.randint(1, steps + 1, (rows,), generator=generator)
    mask = (torch.arange(steps)[:, None] < lengths) & (torch.rand(steps, rows, generator=generator) > 0.3)
    mask[0, 0] = True
    if rows > 1:
        mask[:, -1] = False
    return mask


def leaves(chain: Chain, inputs: ChainInputs) -> dict[str, Tensor]:
    """Everything a gradient reaches, by name."""
    found = {"initial": chain.initial, "linear": chain.linear}
    for name, part in (("transition", chain.transition), ("inference", chain.inference), ("cell", chain.cell)):
        for field, value in (part._asdict() if part is not None else {}).items():
            found |= (
                {f"{name}.{field}.{i}": tensor for i, tensor in enumerate(value)}
                if isinstance(value, tuple)
                else {f"{name}.{field}": value}
            )
    for name in ("transition", "inference", "cell"):
        found |= {f"inputs.{name}.{i}": tensor for i, tensor in enumerate(getattr(inputs, name))}
    return {k: v for k, v in found.items() if isinstance(v, Tensor) and v.requires_grad and v.numel()}


def weighted_sum(path: ChainPath) -> Tensor:
    """A scalar in which every entry of the path has its own weight."""
    parts = [part for part in path if part is not None]
    total = parts[0].new_zeros(())
    for i, part in enumerate(parts):
        weight = torch.cos(torch.arange(part.numel(), dtype=torch.float64, device=part.device) * (0.37 + i))
        total = total + (part.flatten() * weight.to(part.dtype)).sum()
    return total


def gradients(path: ChainPath, chain: Chain, inputs: ChainInputs) -> dict[str, Tensor]:
    wanted = leaves(chain, inputs)
    found = torch.autograd.grad(weighted_sum(path), list(wanted.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(wanted.items(), found, strict=True)
    }
