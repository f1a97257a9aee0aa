"""Codebooks: nearest codes, codes that follow their vectors, and drawn codes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cropgen.models.layers.vae.bounds import Draws, vimco
from cropgen.models.layers.vae.quantisation import Codebook, SoftCodebook, perplexity, squared_distances

CENTRES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])


def clusters(rows: int = 300, seed: int = 0) -> Tensor:
    noise = torch.randn((rows, 2), generator=torch.Generator().manual_seed(seed))
    return CENTRES[torch.arange(rows) % 3] + 0.2 * noise


def test_nearest_code_is_found() -> None:
    book, v = Codebook(2, 7), clusters().reshape(10, 30, 2)
    by_hand = torch.cdist(v.reshape(-1, 2), book.codes)
    assert torch.allclose(squared_distances(v.reshape(-1, 2), book.codes), by_hand.square(), atol=1e-4)
    found = book(v)
    assert found.index.shape == found.commitment.shape == (10, 30)
    assert torch.equal(found.index.flatten(), by_hand.argmin(1))
    assert torch.allclose(found.z, book.codes[found.index])
    assert torch.allclose(found.commitment.flatten(), by_hand.min(1).values.square(), atol=1e-4)


def test_gradient_passes_the_code_and_commitment_pulls_the_vector() -> None:
    book, v = Codebook(2, 4), clusters(6).requires_grad_()
    weight = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    found = book(v)
    assert torch.allclose(torch.autograd.grad((found.z * weight).sum(), v, retain_graph=True)[0], weight)
    pulled = torch.autograd.grad(found.commitment.sum(), v)[0]
    assert torch.allclose(pulled, 2 * (v - found.z).detach(), atol=1e-5)
    assert not book.codes.requires_grad


def test_one_step_of_a_code_by_hand() -> None:
    book = Codebook(1, 2, decay=0.9)
    book.codes.copy_(torch.tensor([[0.0], [10.0]]))
    book.sums.copy_(book.codes)
    v = torch.tensor([[1.0], [2.0], [11.0]])
    book.follow(v, book(v).index, torch.Generator())
    assert book.counts.tolist() == pytest.approx([0.9 + 0.2, 0.9 + 0.1])
    assert book.codes[:, 0].tolist() == pytest.approx([0.1 * 3 / 1.1, (9 + 1.1) / 1.0], rel=1e-3)


def test_codes_go_to_the_centres_and_dead_ones_revive() -> None:
    generator = torch.Generator().manual_seed(3)
    book, v = Codebook(2, 3, decay=0.8, least=0.5), clusters()
    book.codes.add_(torch.tensor([50.0, 50.0]))
    book.sums.copy_(book.codes)
    for _ in range(60):
        book.follow(v, book(v).index, generator)
    nearest = torch.cdist(CENTRES, book.codes)
    assert sorted(nearest.argmin(1).tolist()) == [0, 1, 2]
    assert float(nearest.min(1).values.max()) < 0.1
    assert float(perplexity(book(v).index, 3)) == pytest.approx(3, abs=0.01)


def test_perplexity_counts_the_codes_in_use() -> None:
    assert float(perplexity(torch.zeros(9, dtype=torch.long), 5)) == pytest.approx(1)
    assert float(perplexity(torch.tensor([[0, 1], [0, 1]]), 5)) == pytest.approx(2)


def soft() -> tuple[SoftCodebook, Tensor]:
    book = SoftCodebook(2, 4).double()
    return book, torch.tensor([[0.3, -0.2], [1.0, 0.4]], dtype=torch.float64)


def test_divergence_from_the_uniform_prior_is_exact() -> None:
    book, v = soft()
    with torch.no_grad():
        q = torch.softmax(-0.5 * torch.cdist(v, book.codes).square(), -1)
        assert torch.allclose(book.log_probs(v).exp(), q)
        assert torch.allclose(book.kl(v), (q * (q.log() - math.log(1 / 4))).sum(-1))
        book.log_width.fill_(5.0)
        assert float(book.kl(v).max()) < 1e-3
        book.log_width.fill_(-5.0)
        assert float(book.kl(v).min()) == pytest.approx(math.log(4), abs=1e-6)


def test_drawn_codes_have_their_probabilities() -> None:
    book, v = soft()
    index, log_q = book.draw(v, 20_000, torch.Generator().manual_seed(4))
    share = torch.stack([torch.bincount(index[:, row], minlength=4) for row in range(2)]) / 20_000
    q = book.log_probs(v).exp().detach()
    assert torch.allclose(share.double(), q, atol=0.012)
    assert torch.allclose(log_q.detach().exp(), q.expand(20_000, 2, 4).gather(-1, index[..., None])[..., 0])


def test_relaxed_codes_are_codes_when_cold_and_pass_gradients() -> None:
    book, v = soft()
    v.requires_grad_()
    cold = book.draw_relaxed(v, 1e-4, torch.Generator().manual_seed(5))
    hard = book.draw_relaxed(v, 1.0, torch.Generator().manual_seed(5), hard=True)
    assert torch.allclose(hard, cold, atol=1e-6)
    book.draw_relaxed(v, 1.0, torch.Generator().manual_seed(5), hard=True).square().sum().backward()
    assert v.grad is not None
    assert bool((v.grad != 0).all())
    assert book.codes.grad is not None


def test_scores_teach_which_code_to_draw() -> None:
    """The data prefer one code: its probability rises by VIMCO until it is nearly always drawn."""
    book = SoftCodebook(2, 4)
    v = torch.zeros(32, 2)
    fit = torch.tensor([-6.0, -6.0, 0.0, -6.0])
    optimiser = torch.optim.Adam(book.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(6)
    first = float(book.log_probs(v[0]).exp()[2].detach())
    for _ in range(80):
        index, log_q = book.draw(v, 4, generator)
        optimiser.zero_grad()
        (-vimco(Draws(index[..., None].float(), fit[index] - math.log(4), log_q)).mean()).backward()
        optimiser.step()
    assert first < 0.5
    assert float(book.log_probs(v[0]).exp()[2].detach()) > 0.9
