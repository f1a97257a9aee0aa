"""Clusters of the latent space: exact evidence, what the class acts through, the pyramid that reads, the axes."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from cropgen.models.layers.vae.pyramid import PyramidTransformer
from cropgen.models.vaes.tampered_vae import LatentRecognition, TamperedVAE
from tests.models.dvaes.crops import TEST
from tests.models.vaes.rows import built, disturbed


def linear(samples: int) -> tuple[TamperedVAE, Tensor]:
    """A decoder g(z) = A z, made of relu(z) and relu(−z), clusters away from 0, and A (D, 2)."""
    model = cast(TamperedVAE, built("tampered-vae", samples=samples, width=8))
    loading = 0.5 * torch.randn(model.size, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        model.decoder.embed.weight.zero_()
        model.decoder.embed.bias.zero_()
        model.decoder.embed.weight[:4] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        model.decoder.answer.weight[:, :4] = torch.cat([loading, -loading], 1)
        model.centre.copy_(torch.tensor([[0.5, 0.0], [-0.5, 0.3], [0.0, -0.6]]))
    return model, loading


def test_scores_converge_to_the_evidence_of_the_clusters() -> None:
    """p(e | y) = N(o_y + A c_y, I + A Aᵀ) of the observed entries."""
    model, loading = linear(20_000)
    rows = model.seen_rows(TEST.take(torch.arange(3)))
    cov = torch.eye(model.size, dtype=torch.float64) + loading @ loading.T
    with torch.no_grad():
        found = model.class_scores(rows.seasons, rows.features, None)
        for row in range(3):
            there = rows.seasons.present[row] > 0
            for k in range(3):
                mean = (rows.seasons.offset[row, k] + loading @ model.centre[k])[there]
                exact = MultivariateNormal(mean, cov[there][:, there]).log_prob(rows.seasons.e[row][there])
                assert found[row, k].item() == pytest.approx(exact.item(), abs=0.15)


def test_without_the_common_start_the_class_acts_through_its_cluster_alone() -> None:
    model = cast(TamperedVAE, built("tampered-vae", start="none", width=8))
    with torch.no_grad():
        apart = model.log_joint(TEST) - model.tied.log_prior
        model.centre.copy_(model.centre[:1].expand_as(model.centre).clone())
        together = model.log_joint(TEST) - model.tied.log_prior
    assert not torch.allclose(apart[:, 0], apart[:, 1], atol=1e-3)
    assert torch.allclose(together[:, 0], together[:, 1], atol=1e-12)


def test_the_class_is_told_by_planes_in_the_latent_space() -> None:
    model = cast(TamperedVAE, disturbed("tampered-vae", width=8))
    recognition = cast(LatentRecognition, model.recognition)
    rows = model.seen_rows(TEST)
    expected = model.embed(TEST) @ recognition.separate.weight.T + recognition.separate.bias
    assert torch.allclose(recognition.classify(rows.features), expected)


def test_principal_axes_of_the_clusters() -> None:
    model = cast(TamperedVAE, disturbed("tampered-vae", width=8))
    shares = model.principal_shares(TEST)
    assert shares.shape == (2,)
    assert shares.sum().item() == pytest.approx(1)
    with torch.no_grad():
        cast(LatentRecognition, model.recognition).locate.weight[1] = 0
    assert model.principal_shares(TEST).tolist() == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_the_pyramid_reads_what_was_observed_and_nothing_else(slots: int) -> None:
    torch.manual_seed(0)
    read = PyramidTransformer(3, 8, heads=2).double().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, slots, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, slots, generator=generator) > 0.4
    mask[0] = False
    day = 10.0 * torch.arange(slots, dtype=torch.float64).expand(5, -1)
    with torch.no_grad():
        found = read(x * mask[..., None], mask, day)
        dirty = read(torch.where(mask[..., None], x, 99.0), mask, torch.where(mask, day, -500.0))
        later = read(x * mask[..., None], mask, day + 30)
    assert found.shape == (5, 8)
    assert torch.allclose(found, dirty, atol=1e-12)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found[mask.any(1)], later[mask.any(1)], atol=1e-3)
