"""Flows learn densities whose log-likelihood is known: moons, rings, a checkerboard, and a Gaussian of 450 values."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cropgen.models.layers.flows.autoregressive import Autoregressive, conditioner_of
from cropgen.models.layers.flows.continuous import Continuous
from cropgen.models.layers.flows.contractive import Contractive
from cropgen.models.layers.flows.coupling import Coupling
from cropgen.models.layers.flows.layer import FlowLayer, Seen, Stack
from cropgen.models.layers.flows.splines import Spline
from cropgen.models.layers.flows.univariate import Affine, MixtureCDF, Sigmoidal, Univariate

pytestmark = pytest.mark.slow
WIDTH = 0.15


def arcs(name: str) -> Tensor:
    """(N, 2) points along two interleaved half circles, or along two circles."""
    turn = torch.linspace(0, math.pi, 200)
    if name == "moons":
        upper = torch.stack([turn.cos(), turn.sin()], 1)
        lower = torch.stack([1 - turn.cos(), 0.5 - turn.sin()], 1)
        return 1.5 * (torch.cat([upper, lower]) - torch.tensor([0.5, 0.25]))
    circle = torch.stack([(2 * turn).cos(), (2 * turn).sin()], 1)
    return torch.cat([circle, 2.2 * circle])


def curve(name: str, count: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Points around the arcs with Gaussian noise, and their mean log-density, known as that of a mixture."""
    centres = arcs(name)
    which = torch.randint(len(centres), (count,), generator=generator)
    x = centres[which] + WIDTH * torch.randn((count, 2), generator=generator)
    distance = (x[:, None] - centres).square().sum(-1) / (2 * WIDTH**2)
    constant = math.log(len(centres)) + math.log(2 * math.pi * WIDTH**2)
    return x, float((torch.logsumexp(-distance, 1) - constant).mean())


def checkerboard(count: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Points spread evenly over the 8 dark unit squares of a board from −2 to 2: log-density −log 8 everywhere."""
    column = torch.randint(4, (count,), generator=generator)
    row = 2 * torch.randint(2, (count,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1) - 2.0
    return corner + torch.rand((count, 2), generator=generator), -math.log(8)


def draw(name: str, count: int, seed: int) -> tuple[Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    return checkerboard(count, generator) if name == "checkerboard" else curve(name, count, generator)


def autoregressive(univariate: Univariate, number: int) -> Autoregressive:
    conditioner = conditioner_of(
        "autoregressive", univariate, slots=1, bands=2, context=0, hidden=64, layer=number, order="alternate",
        at_identity=False,
    )  # fmt: skip
    return Autoregressive(conditioner, univariate, "exact")


def couplings(univariate: Callable[[], Univariate], count: int) -> list[FlowLayer]:
    return [Coupling(torch.tensor([i % 2]), 2, 1, 64, univariate(), at_identity=False) for i in range(count)]


FLOWS: dict[str, Callable[[], list[FlowLayer]]] = {
    "nsf autoregressive": lambda: [autoregressive(Spline("rational-quadratic", 16, 3.5), i) for i in range(2)],
    "nsf coupling": lambda: couplings(lambda: Spline("rational-quadratic", 16, 3.5), 4),
    "naf dsf": lambda: [autoregressive(Sigmoidal(16), i) for i in range(2)],
    "flowpp": lambda: couplings(lambda: MixtureCDF(12), 4),
    "cnf": lambda: [Continuous(2, 1, 96, frequencies=3, steps=8, trace="exact", at_identity=True)],
    "resflow": lambda: [
        Contractive(2, 1, 32, kappa=0.95, log_det="exact", at_identity=False) for _ in range(8)
    ],
    "maf": lambda: [autoregressive(Affine(), i) for i in range(6)],
}  # fmt: skip
# steps, and nats by which the mean log-density of fresh points may stay below the true one
REACHED = [
    ("nsf autoregressive", "moons", 200, 0.1), ("nsf autoregressive", "rings", 200, 0.1),
    ("nsf autoregressive", "checkerboard", 200, 0.25), ("nsf coupling", "moons", 200, 0.1),
    ("naf dsf", "moons", 200, 0.2), ("flowpp", "moons", 200, 0.35), ("cnf", "moons", 200, 0.4),
    ("resflow", "moons", 100, 1.0), ("maf", "moons", 200, 0.35),
]  # fmt: skip


def learn(stack: Stack, sample: Callable[[int], Tensor], seen: Seen, *, steps: int, rate: float) -> None:
    optimiser = torch.optim.Adam(stack.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step in range(steps):
        optimiser.zero_grad()
        (-density(stack, sample(step), seen).mean()).backward()
        optimiser.step()
        schedule.step()


def density(stack: Stack, x: Tensor, seen: Seen) -> Tensor:
    v, log_det = stack(x, seen)
    return log_det - 0.5 * (v.square() + math.log(2 * math.pi)).sum(-1)


@pytest.mark.parametrize(("flow", "name", "steps", "nats"), REACHED)
def test_learns_a_density_of_the_plane(flow: str, name: str, steps: int, nats: float) -> None:
    torch.manual_seed(0)
    stack, rows = Stack(FLOWS[flow]()), 256
    seen = Seen.of_dates(torch.ones(rows, 1, dtype=torch.bool), 2, torch.float32)
    learn(stack, lambda step: draw(name, rows, step + 10)[0], seen, steps=steps, rate=1e-2)
    fresh, truth = draw(name, 4000, 1)
    everyone = Seen.of_dates(torch.ones(len(fresh), 1, dtype=torch.bool), 2, torch.float32)
    with torch.no_grad():
        reached = float(density(stack, fresh, everyone).mean())
    assert truth - nats < reached < truth + 0.03


def test_learns_a_gaussian_of_450_values() -> None:
    """45 dates of 10 bands, each band an autoregression over dates: −½ log (2πe)ᴰ |V| is known."""
    slots, bands, rho, rows = 45, 10, 0.9, 128
    torch.manual_seed(0)
    univariate = Affine()
    conditioner = conditioner_of(
        "causal-conv", univariate, slots=slots, bands=bands, context=0, hidden=32, layer=0, order="time",
        at_identity=True,
    )  # fmt: skip
    stack = Stack([Autoregressive(conditioner, univariate, "fixed-point")])

    def series(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((rows, slots, bands), generator=generator)
        x = [noise[:, 0]]
        for t in range(1, slots):
            x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[:, t])
        return torch.stack(x, 1).flatten(1)

    seen = Seen.of_dates(torch.ones(rows, slots, dtype=torch.bool), bands, torch.float32)
    entropy = 0.5 * (slots * bands * math.log(2 * math.pi * math.e) + (slots - 1) * bands * math.log(1 - rho**2))
    before = entropy + float(density(stack, series(1), seen).detach().mean())
    learn(stack, lambda step: series(step + 10), seen, steps=250, rate=1e-2)
    with torch.no_grad():
        after = torch.stack([density(stack, series(seed), seen).mean() for seed in range(10_000, 10_008)]).mean()
    assert before < -300
    assert float(after) > -entropy - 4
