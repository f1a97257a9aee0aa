"""MAF, NSF, NAF and CNF equal zuko's own flows with the same weights, where nothing is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zuko
from torch import Tensor, nn

from cropgen.models.layers.flows.autoregressive import Autoregressive, conditioner_of
from cropgen.models.layers.flows.continuous import Continuous
from cropgen.models.layers.flows.layer import FlowLayer, Seen, Stack
from cropgen.models.layers.flows.splines import Spline
from cropgen.models.layers.flows.univariate import Affine, MonotonicNetwork, Univariate

SLOTS, BANDS, HIDDEN, LAYERS = 3, 2, 24, 2
SIZE = SLOTS * BANDS


def rows() -> tuple[Tensor, Seen]:
    v = 1.5 * torch.randn((7, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return v, Seen.of_dates(torch.ones(7, SLOTS, dtype=torch.bool), BANDS, torch.float64)


def autoregressive(univariate: Univariate, layer: int) -> Autoregressive:
    conditioner = conditioner_of(
        "autoregressive", univariate, slots=SLOTS, bands=BANDS, context=0, hidden=HIDDEN, layer=layer,
        order="alternate", at_identity=False,
    )  # fmt: skip
    return Autoregressive(conditioner, univariate, "exact").double()


def take_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Weights of a masked perceptron of zuko; what sees the presence of dates is set to zero."""
    mine = [m for m in ours.modules() if isinstance(m, zuko.nn.MaskedLinear)]
    other = [m for m in theirs.modules() if isinstance(m, zuko.nn.MaskedLinear)]
    with torch.no_grad():
        for one, source in zip(mine, other, strict=True):
            width = source.weight.shape[1]
            assert torch.equal(one.mask[:, :width], source.mask)
            one.weight.zero_()
            one.weight[:, :width] = source.weight
            one.bias.copy_(source.bias)


def agree(ours: FlowLayer, theirs: Any, tolerance: float) -> None:
    v, seen = rows()
    with torch.no_grad():
        moved, log_det = ours(v, seen)
        density = log_det - 0.5 * (moved.square() + torch.tensor(2 * torch.pi).log()).sum(-1)
        flow = theirs()
        assert torch.allclose(moved, flow.transform(v), atol=tolerance)
        assert torch.allclose(density, flow.log_prob(v), atol=tolerance)


@pytest.mark.parametrize(
    ("theirs", "univariate"),
    [(zuko.flows.MAF, Affine), (zuko.flows.NSF, lambda: Spline("rational-quadratic", 8, 5.0))],
    ids=["maf", "nsf"],
)
def test_autoregressive_flows(theirs: Any, univariate: Any) -> None:
    torch.manual_seed(1)
    flow = theirs(SIZE, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN)).double()
    layers = [autoregressive(univariate(), number) for number in range(LAYERS)]
    for layer, transform in zip(layers, flow.transform.transforms, strict=True):
        take_weights(layer, transform)
    agree(Stack(layers), flow, 1e-10)


def test_neural_autoregressive_flow() -> None:
    torch.manual_seed(2)
    flow = zuko.flows.NAF(
        SIZE, transforms=1, signal=5, network={"hidden_features": (12, 12)}, hidden_features=(HIDDEN, HIDDEN)
    ).double()
    univariate = MonotonicNetwork(5, 12, near_identity=False)
    layer = autoregressive(univariate, 0)
    (transform,) = flow.transform.transforms
    take_weights(layer, transform.hyper)
    stacked = transform.univariate.network.state_dict()
    first = {key: value[0] for key, value in stacked.items()}
    for value in stacked.values():
        value.copy_(value[:1].expand_as(value))
    univariate.network.load_state_dict(first)
    agree(layer, flow, 1e-8)


def test_continuous_flow() -> None:
    torch.manual_seed(3)
    flow = zuko.flows.CNF(SIZE, hidden_features=(HIDDEN,), activation=nn.Tanh, atol=1e-10, rtol=1e-9).double().eval()
    ours = Continuous(SIZE, SLOTS, HIDDEN, frequencies=3, steps=64, trace="exact", at_identity=False).double()
    first, last = (flow.transform.ode[i] if hasattr(flow.transform, "ode") else flow.transform.transforms[0].ode[i]
                   for i in (0, 2))  # fmt: skip
    with torch.no_grad():
        ours.clock.weight.copy_(first.weight[:, : 2 * 3])
        ours.enter.weight.copy_(first.weight[:, 2 * 3 :])
        ours.enter.bias.copy_(first.bias)
        ours.told.weight.zero_()
        ours.leave.load_state_dict(last.state_dict())
    agree(ours, flow, 1e-6)
