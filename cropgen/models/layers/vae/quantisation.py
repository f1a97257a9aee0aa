"""Vector quantisation: latents that are entries of a learnt codebook, the nearest one or a drawn one.

References:
    Neural Discrete Representation Learning, van den Oord, Vinyals and Kavukcuoglu, 2017;
    Continuous Relaxation Training of Discrete Latent Variable Image Models, Sønderby, Poole and Mnih, 2017
    (probabilistic).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropgen.models.layers.vae.relaxations import gumbel_noise, log_concrete, straight_through

_EPS = 1e-5


def squared_distances(v: Tensor, codes: Tensor) -> Tensor:
    """(…, M) squared distances of (…, Z) vectors to (M, Z) codes."""
    return v.square().sum(-1, keepdim=True) - 2 * v @ codes.T + codes.square().sum(-1)


@dataclass(frozen=True)
class Quantised:
    """Vectors in terms of the codebook.

    Arguments:
        z: (…, Z) codes, with the gradient of the vectors.
        index: (…) which code.
        commitment: (…) squared distance of the vector to its code, with a gradient to the vector alone.
    """

    z: Tensor
    index: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """M codes that follow the mean of the vectors nearest to them.

    Counts and sums of the vectors are averaged exponentially, N ← γ N + (1 − γ) n, and a code is the ratio of both,
    with Laplace smoothing of the counts. The codes get no gradient. A code whose average count falls below `least`
    begins again at a vector of the mini-batch.

    Arguments:
        size: Z.
        count: M.
        decay: γ.
        least: average count of a mini-batch at which a code is dead; 0 revives none.
        seed: of the codes at the start, N(0, 1).
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, size: int, count: int, *, decay: float = 0.99, least: float = 0.0, seed: int = 17) -> None:
        super().__init__()
        self.decay, self.least = decay, least
        codes = torch.randn((count, size), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(count))
        self.register_buffer("sums", codes.clone())

    def forward(self, v: Tensor) -> Quantised:
        """(…, Z) vectors to their nearest codes."""
        index = squared_distances(v.detach(), self.codes).argmin(-1)
        nearest = self.codes[index]
        return Quantised(v + (nearest - v).detach(), index, (v - nearest).square().sum(-1))

    @torch.no_grad()
    def follow(self, v: Tensor, index: Tensor, generator: torch.Generator) -> None:
        """Move the codes towards the vectors (…, Z) that `forward` gave them.

        Arguments:
            generator: draws the vectors at which dead codes begin again.
        """
        rows, chosen = v.reshape(-1, v.shape[-1]), index.reshape(-1)
        belongs = nn.functional.one_hot(chosen, len(self.codes)).to(rows.dtype)
        self.counts.lerp_(belongs.sum(0), 1 - self.decay)
        self.sums.lerp_(belongs.T @ rows, 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + _EPS) / (total + len(self.codes) * _EPS) * total
        self.codes.copy_(self.sums / smoothed[:, None])
        dead = self.counts < self.least
        if bool(dead.any()):
            taken = torch.randint(len(rows), (int(dead.sum()),), generator=generator, device=generator.device)
            self.codes[dead] = self.sums[dead] = rows[taken.to(rows.device)]
            self.counts[dead] = 1.0


def perplexity(index: Tensor, count: int) -> Tensor:
    """() exponential of the entropy of the codes in use: 1 where all vectors share one, M where all are alike."""
    share = torch.bincount(index.reshape(-1), minlength=count) / index.numel()
    return torch.exp(-torch.xlogy(share, share).sum())


class SoftCodebook(nn.Module):
    """q(k | v) ∝ exp(−‖v − c_k‖² / 2σ²): which code is drawn; codes and σ are learnt by the gradient.

    Arguments:
        size: Z.
        count: M.
        seed: of the codes at the start, N(0, 1).
    """

    def __init__(self, size: int, count: int, *, seed: int = 17) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn((count, size), generator=torch.Generator().manual_seed(seed)))
        self.log_width = nn.Parameter(torch.zeros(()))

    def log_probs(self, v: Tensor) -> Tensor:
        """(…, M) log q(k | v)."""
        return torch.log_softmax(-0.5 * squared_distances(v, self.codes) * (-2 * self.log_width).exp(), -1)

    def kl(self, v: Tensor) -> Tensor:
        """(…) divergence of q(k | v) from the uniform prior, exact: log M minus the entropy, nats."""
        log_q = self.log_probs(v)
        return (log_q.exp() * log_q).sum(-1) + math.log(len(self.codes))

    def draw_relaxed(self, v: Tensor, temperature: float, generator: torch.Generator, *, hard: bool = False) -> Tensor:
        """(…, Z) mixtures of codes by a Concrete draw, which a gradient passes; `hard` takes one code of each."""
        log_q = self.log_probs(v)
        share = log_concrete(log_q, temperature, gumbel_noise(log_q, generator)).exp()
        return (straight_through(share) if hard else share) @ self.codes

    def draw(self, v: Tensor, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices of S drawn codes (S, …), without a gradient, and log q of them (S, …), for the estimators of scores.

        The code of an index is `codes[index]`; its gradient is that of the model, not of q.
        """
        log_q = self.log_probs(v).expand(samples, *v.shape[:-1], -1)
        index = (log_q.detach() + gumbel_noise(log_q, generator)).argmax(-1)
        return index, log_q.gather(-1, index[..., None])[..., 0]
