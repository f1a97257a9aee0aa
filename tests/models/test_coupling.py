"""Affine couplings: exact inverse, exact log-determinant, missing entries untouched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cropgen.models.layers.coupling import LOG_SCALE_BOUND, MaskedCoupling

SLOTS, BANDS = 3, 2
SIZE = SLOTS * BANDS


def coupling(seed: int, *, trained: bool = True) -> MaskedCoupling:
    torch.manual_seed(seed)
    layer = MaskedCoupling(torch.tensor([0, 3, 4]), SIZE, SLOTS, 16).double()
    if trained:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, 0, 0.7)
    return layer


def rows(seed: int, count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((count, SLOTS), generator=generator) > 0.4
    present = mask.repeat_interleave(BANDS, 1).double()
    return torch.randn((count, SIZE), generator=generator, dtype=torch.float64) * present, present, mask


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_inverse_undoes_forward(seed: int) -> None:
    layer = coupling(seed)
    v, present, mask = rows(seed)
    moved, _ = layer(v, present, mask)
    assert torch.allclose(layer.inverse(moved, present, mask), v, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_log_determinant_is_that_of_the_jacobian(seed: int) -> None:
    layer = coupling(seed)
    v, present, mask = rows(seed, 1)
    jacobian = torch.autograd.functional.jacobian(lambda u: layer(u[None], present, mask)[0][0], v[0])
    assert isinstance(jacobian, Tensor)
    _, log_det = layer(v, present, mask)
    assert torch.allclose(log_det[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-12)


def test_begins_at_the_identity() -> None:
    v, present, mask = rows(1)
    moved, log_det = coupling(1, trained=False)(v, present, mask)
    assert torch.equal(moved, v)
    assert torch.equal(log_det, torch.zeros(len(v), dtype=torch.float64))


def test_missing_entries_pass_through_and_the_given_half_stays() -> None:
    layer = coupling(3)
    v, present, mask = rows(3, 40)
    moved, log_det = layer(v, present, mask)
    assert torch.equal(moved[present == 0], v[present == 0])
    assert torch.equal(moved[:, layer.given], v[:, layer.given])
    assert torch.equal(log_det[~mask.any(1)], log_det.new_zeros(int((~mask.any(1)).sum())))
    assert not torch.equal(moved, v)


def test_log_scales_are_bounded() -> None:
    layer = coupling(5)
    torch.nn.init.constant_(layer.conditioner[-1].bias, 100.0)
    v, present, mask = rows(5, 20)
    _, log_det = layer(v, present, mask)
    assert log_det.abs().max() <= LOG_SCALE_BOUND * len(layer.changed) + 1e-9
