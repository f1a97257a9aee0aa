"""Is the recurrence right, and how fast is it, on the machine at hand?

A kernel is right when its path and its gradients are those of `reference` in double precision on the same random chain,
with ragged seasons and holes. Its time is that of one forward and one backward pass of the chain alone, hoisted inputs
included, the kernels taking turns so that a slow spell of the machine falls on all of them; the median of the rounds
counts. On a CPU, processor time is taken, on a GPU the time between two synchronisations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cropgen.kernels.dispatch import select_kernel
from cropgen.kernels.recurrence import reference
from cropgen.kernels.recurrence.reference import Cell, Chain, ChainInputs, ChainPath, Head

CHAINS: tuple[str, ...] = ("dkf", "dmm", "srnn", "vrnn", "rvae")
_FEATURES = 16


@dataclass(frozen=True)
class Size:
    """Rows B, dates T, hidden units H and latent dimensions Z of a chain."""

    rows: int
    steps: int
    units: int
    latent: int


def random_chain(name: str, size: Size, *, dtype: torch.dtype, device: torch.device) -> tuple[Chain, ChainInputs]:
    """The chain of a model with random weights, over ragged seasons with holes; the same numbers in every type.

    Arguments:
        name: one of `CHAINS`.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, spread: float = 1.0) -> Tensor:
        return (spread * torch.randn(shape, generator=generator)).to(device, dtype)

    def weight(*shape: int) -> Tensor:
        return draw(*shape, spread=0.5 / max(1, shape[0]) ** 0.5).requires_grad_()

    recurrent, gated = name in ("vrnn", "rvae"), name == "dmm"
    state = size.units if recurrent else size.latent

    def head(outputs: int, *, hidden: int, combine: bool = False) -> Head:
        inputs = (weight(_FEATURES, hidden),) if hidden else ()
        out = weight(hidden, outputs * size.latent), weight(outputs * size.latent)
        return Head(inputs, weight(state, hidden), weight(hidden), *out, combine)

    def seen() -> tuple[Tensor]:
        return (draw(size.steps, size.rows, _FEATURES).requires_grad_(),)

    p, q = (
        head(3 if gated else 2, hidden=0 if name == "rvae" else size.units),
        head(2, hidden=size.units, combine=gated),
    )
    gates = 3 * size.units
    cell = Cell((weight(_FEATURES, gates),), weight(size.latent, gates), weight(size.units, gates), weight(gates),
                weight(size.units), weight(size.units)) if recurrent else None  # fmt: skip
    chain = Chain(p, q, weight(size.latent), 0.0 if recurrent else 0.9, -1.0, cell,
                  weight(size.latent, size.latent) if gated else None, gated or name == "vrnn")  # fmt: skip
    lengths = torch.randint(1, size.steps + 1, (size.rows,), generator=generator)
    mask = (torch.arange(size.steps)[:, None] < lengths) & (
        torch.rand(size.steps, size.rows, generator=generator) > 0.2
    )
    gap = (torch.rand(size.steps, size.rows, 1, generator=generator) * 2 + 0.5).to(device, dtype)
    inputs = ChainInputs(seen() if name != "rvae" else (), seen(), mask[..., None].to(device, dtype),
                         draw(size.steps, size.rows, size.latent), seen() if recurrent else (),
                         gap if name == "dkf" else None)  # fmt: skip
    return chain, inputs


def learnt(chain: Chain, inputs: ChainInputs) -> list[Tensor]:
    """Every tensor that a gradient reaches."""
    found: list[Any] = [chain.initial, chain.linear, *inputs.transition, *inputs.inference, *inputs.cell]
    for part in (chain.transition, chain.inference, chain.cell or ()):
        for value in part:
            found += value if isinstance(value, tuple) else [value]
    return [x for x in found if isinstance(x, Tensor) and x.requires_grad and x.numel()]


def loss_of(path: ChainPath) -> Tensor:
    """A scalar that every entry of the path bears on."""
    return sum((part.square().mean() for part in path if part is not None), path.z.new_zeros(()))


def largest_error(name: str, kernel: str, size: Size, device: torch.device) -> tuple[float, float]:
    """Largest differences of the path and of the gradients from double precision, relative to the largest entry."""
    found: list[list[Tensor]] = []
    for run, dtype, where in (
        (reference.run_chain, torch.float64, torch.device("cpu")),
        (select_kernel(kernel), torch.float32, device),
    ):
        chain, inputs = random_chain(name, size, dtype=dtype, device=where)
        path = run(chain, inputs)
        gradients = torch.autograd.grad(loss_of(path), learnt(chain, inputs), allow_unused=True)
        found.append([part.detach() for part in path if part is not None])
        found.append([torch.zeros(()) if g is None else g for g in gradients])
    return _difference(found[2], found[0]), _difference(found[3], found[1])


def _difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    worst = 0.0
    for left, right in zip(found, wanted, strict=True):
        scale = max(float(right.abs().max()), 1e-30)
        worst = max(worst, float((left.cpu().double() - right).abs().max()) / scale)
    return worst


def chain_pass(name: str, kernel: str, size: Size, device: torch.device) -> Callable[[], None]:
    """One forward and backward pass of a chain in single precision, to be timed."""
    chain, inputs = random_chain(name, size, dtype=torch.float32, device=device)
    run, leaves = select_kernel(kernel), learnt(chain, inputs)

    def once() -> None:
        torch.autograd.grad(loss_of(run(chain, inputs)), leaves, allow_unused=True)

    return once


def interleaved(passes: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each pass over rounds in which they take turns, after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, once in passes.items():
            begun = _clock(device)
            once()
            if turn:
                taken[name].append(1000 * (_clock(device) - begun))
    return {name: statistics.median(times) for name, times in taken.items()}


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()
