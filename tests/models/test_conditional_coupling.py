"""Conditional couplings: identity at first, inverse, log-determinant."""

from __future__ import annotations

import pytest
import torch

from cropgen.models.layers.conditional_coupling import ConditionalCoupling


def coupling(given: list[int], bands: int, *, moved: bool) -> ConditionalCoupling:
    torch.manual_seed(3)
    layer = ConditionalCoupling(torch.tensor(given, dtype=torch.int64), bands, 4, 6).double()
    if moved:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return layer


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("given", "bands"), [([2, 0], 4), ([1], 3), ([], 1)])
def test_inverse_and_log_determinant(given: list[int], bands: int) -> None:
    layer = coupling(given, bands, moved=True)
    x, condition = draw(5, bands), draw(5, 4)
    y, log_det = layer(x, condition)
    torch.testing.assert_close(layer.inverse(y, condition), x, rtol=0, atol=1e-12)
    for row in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda v, r=row: layer(v, condition[r])[0], x[row])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[row], rtol=0, atol=1e-12)
    assert (y - x).abs().max() > 0.1
    assert torch.equal(y[:, given], x[:, given])


def test_begins_at_the_identity_and_broadcasts_over_the_condition() -> None:
    x, condition = draw(2, 1, 3), draw(2, 4, 4)
    y, log_det = coupling([1], 3, moved=False)(x, condition)
    assert torch.equal(y, x.expand(2, 4, 3))
    assert not log_det.any()
    moved = coupling([1], 3, moved=True)
    y, log_det = moved(x, condition)
    one, own = moved(x[1, 0], condition[1, 2])
    torch.testing.assert_close(y[1, 2], one)
    torch.testing.assert_close(log_det[1, 2], own)
