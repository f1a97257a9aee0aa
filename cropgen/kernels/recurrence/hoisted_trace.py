"""What the hoisted chain's walk runs over, and what it leaves for the way back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cropgen.kernels.recurrence.hoisted_cell import CellTensors

_ROWS_AT_ONCE = 2048


class Facts(NamedTuple):
    """What is no tensor: r and λ₀ without gaps, and whether the inference is direct."""

    retention: float
    log_variance: float
    direct: bool


class Tensors(NamedTuple):
    """What the walk runs over, in the order of its arguments.

    Arguments:
        hoisted: (T, ..., E) pre-activations of the hidden units of both perceptrons, broadcast over rows.
        added: (T, ..., E) inputs of combining heads, 0 at the others' units; None where there are none.
        state: (Z or H, E).
        out: (E, 4Z or 5Z) to (γ), u, a/3, d, c/3, block-diagonal.
        out_bias: (4Z or 5Z,).
        initial: (..., Z).
        linear: (Z, Z) of a gated transition.
        mask: (T, rows, 1).
        noise: (T, rows, Z).
        keep, base: (T, rows, 1) r and λ₀ over gaps; None where they are the chain's.
        gates, latent, hidden, hidden_bias, cell_initial: as `CellTensors`; None without a cell.
    """

    hoisted: Tensor
    added: Tensor | None
    state: Tensor
    out: Tensor
    out_bias: Tensor
    initial: Tensor
    linear: Tensor | None
    mask: Tensor
    noise: Tensor
    keep: Tensor | None = None
    base: Tensor | None = None
    gates: Tensor | None = None
    latent: Tensor | None = None
    hidden: Tensor | None = None
    hidden_bias: Tensor | None = None
    cell_initial: Tensor | None = None

    @property
    def cell(self) -> CellTensors | None:
        if self.gates is None or self.latent is None or self.hidden is None or self.cell_initial is None:
            return None
        return CellTensors(self.gates, self.latent, self.hidden, self.hidden_bias, self.cell_initial)

    @property
    def lead(self) -> torch.Size:
        """The axes that make up the rows."""
        return self.initial.shape[:-1]

    @property
    def width(self) -> int:
        """Z."""
        return self.initial.shape[-1]

    def at(self, dates: slice) -> Tensors:
        """The same over some of the dates."""
        dated = ("hoisted", "added", "mask", "noise", "keep", "base", "gates")
        found = {name: getattr(self, name) for name in dated}
        return self._replace(**{name: part[dates] for name, part in found.items() if part is not None})

    def for_gradients(self) -> Tensors:
        """Room for the gradients of all that gets one: 0 where they are summed up, still to be written over dates."""
        found = {name: getattr(self, name) for name in ("hoisted", "added", "gates")}
        written = {name: part.new_empty(part.shape) for name, part in found.items() if part is not None}
        nothing = dict.fromkeys((*found, "mask", "noise", "keep", "base"))
        summed = [None if part is None else part.new_zeros(part.shape) for part in self._replace(**nothing)]
        return Tensors(*summed)._replace(**written)  # pyright: ignore[reportArgumentType]

    def blocks(self) -> list[slice]:
        """Blocks of dates."""
        steps, rows = self.noise.shape[:2]
        size = max(1, _ROWS_AT_ONCE // max(1, rows))
        return [slice(first, min(first + size, steps)) for first in range(0, steps, size)]


class Trace(NamedTuple):
    """What the forward pass leaves, besides the gates of a cell.

    Arguments:
        squashed: (T, rows, E) tanh of the hidden units.
        answer: (T, rows, 4Z or 5Z) (g), u, A, d, R.
        z: (T, rows, Z).
        noise: (T, rows, Z) e^(λ₀/2) ε.
        spread: (T, rows, Z) e^((λ + ρ − λ₀)/2).
        mean: (T, rows, Z) μ of a direct inference.
        state: (T, rows, H or 2H) of the cell.
    """

    squashed: Tensor
    answer: Tensor
    z: Tensor
    noise: Tensor
    spread: Tensor
    mean: Tensor | None
    state: Tensor | None

    @classmethod
    def empty(cls, x: Tensors, facts: Facts) -> Trace:
        width, state = x.width, x.cell_initial
        squashed, answer, z, noise, spread = (
            x.state.new_empty(*x.noise.shape[:2], size)
            for size in (x.state.shape[1], x.out.shape[1], width, width, width)
        )
        mean = torch.empty_like(z) if facts.direct else None
        states = None if state is None else z.new_empty(*z.shape[:2], state.shape[-1])
        return cls(squashed, answer, z, noise, spread, mean, states)

    def at(self, dates: slice) -> Trace:
        """The same over some of the dates."""
        return Trace(*(None if part is None else part[dates] for part in self))  # pyright: ignore[reportArgumentType]


class Answer(NamedTuple):
    """What the perceptrons give, taken apart: u, A, d, R and g."""

    drift: Tensor
    saturation: Tensor
    correction: Tensor
    ahead: Tensor
    gate: Tensor | None

    @classmethod
    def split(cls, answer: Tensor, width: int) -> Answer:
        *gate, drift, saturation, correction, ahead = answer.split(width, -1)
        return cls(drift, saturation, correction, ahead, gate[0] if gate else None)


def over_rows(tensor: Tensor) -> Tensor:
    """The axes before the last in one."""
    return tensor.flatten(0, -2)
