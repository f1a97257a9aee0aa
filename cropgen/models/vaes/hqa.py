"""Hierarchical quantised auto-encoder over time around the tied Gaussian."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.categorical import gumbel_of
from cropgen.models.layers.vae.coded import CodedModel, CodedOptions
from cropgen.models.layers.vae.ladder import half_lengths
from cropgen.models.layers.vae.model import Explained, Rows
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.quantisation import SoftCodebook, squared_distances
from cropgen.models.layers.vae.segments import ChainPrior, Summed, chain_cross_entropy, chain_sum, drawn_chain

_FIRST_SEED = 29


class HQAOptions(CodedOptions):
    """Options of `hqa`."""

    levels: int = Field(
        2, ge=1, le=4, description="quantisers, each of half as many codes", json_schema_extra={"search": [2, 3]}
    )


class Requantiser(nn.Module):
    """A quantiser of the codes below: two neighbours are read into one vector, and told from its code.

        v' = E(v_1, v_2),   p(k_i | k') ∝ exp(−‖c_{k_i} − D_i(c'_{k'})‖² / 2s²),   i = 1, 2

    Arguments:
        size: Z.
        hidden: H.
        count: M.
        seed: of the codes at the start.
    """

    def __init__(self, size: int, hidden: int, count: int, *, seed: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2 * size, hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.decoder = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * size))
        self.codebook = SoftCodebook(size, count, seed=seed)
        self.log_spread = nn.Parameter(torch.zeros(()))

    def read(self, v: Tensor) -> Tensor:
        """(B, ⌈P/2⌉, Z) of vectors below (B, P, Z)."""
        padded = functional.pad(v, (0, 0, 0, v.shape[1] % 2))
        return self.encoder(padded.unflatten(1, (-1, 2)).flatten(2))

    def log_children(self, below: Tensor) -> Tensor:
        """(2, M', M) log p(k_i | k') of the codes below (M, Z)."""
        told = self.decoder(self.codebook.codes).unflatten(-1, (2, -1)).transpose(0, 1)
        return torch.log_softmax(-0.5 * squared_distances(told, below) * (-2 * self.log_spread).exp(), -1)


class HQA(CodedModel):
    """A chain of stochastic quantisers over time, each of which reconstructs the codes of the one below.

        p(e, k | y) = p(k^L | y) Π_{l<L} Π_i p(k^l_i | k^{l+1}_{⌈i/2⌉}) Π_p p(e_p | k^1_p, y)
        q(k | x) = Π_l Π_i q(k^l_i | x),   q(k^l_i | x) ∝ exp(−‖v^l_i − c^l_k‖² / 2σ_l²)
        v^1 = E(f),   v^{l+1} = E_l(v^l)

    The objective is Markovian: level l learns to reconstruct level l − 1, which it takes as given, and its entropy,

        J_1 = E log p(e | k^1, y) + H(q^1),   J_l = E log p(k^{l−1} | k^l) + H(q^l),   J_L also E log p(k^L | y)

    whose sum is a bound of log p(e | y) in which every level pays. As segments see one code each, the expectations are
    summed, not drawn, and need no relaxation. The levels form a tree, so a parcel is scored by the exact sum over all
    levels, from the leaves up; the top is a Markov chain for every class, uniform at first. f are the features of the
    recognition head.

    Reference:
        Hierarchical Quantized Autoencoders, Williams, Ringer, Ash, MacLeod, Dougherty and Hughes, 2020.
    """

    Settings = HQAOptions

    def __init__(self, spec: InputSpec, options: HQAOptions) -> None:
        super().__init__(spec, options)
        z, hidden, count = options.latent, options.hidden, options.codes
        self.positions = half_lengths(self.cut.count, options.levels - 1)
        self.encoder = ClasswiseMLP(self.recognition.width, 1, self.cut.count * z, hidden=hidden)
        self.decoder = self.new_decoder(z)
        self.codebook = SoftCodebook(z, count)
        self.upper = nn.ModuleList(
            [Requantiser(z, hidden, count, seed=_FIRST_SEED + level) for level in range(options.levels - 1)]
        )
        self.prior = ChainPrior(count, self.positions[-1], spec.classes)

    @property
    def parts(self) -> HQAOptions:
        return cast(HQAOptions, self.options)

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        v, book = self._vectors(rows), self.codebook
        log_q = book.log_probs(v)
        likelihood = torch.einsum("bpm,bkpm->bk", log_q.exp(), self._leaves(rows))[None]
        paid = list[Tensor]()
        for level in self._requantisers():
            v = level.read(v.detach())
            above = level.codebook.log_probs(v)
            told = level.log_children(book.codes.detach())
            paid.append(_entropy_and(log_q, _children_cross_entropy(told, log_q.exp().detach(), above.exp())))
            log_q, book = above, level.codebook
        paid.append(_entropy_and(log_q, chain_cross_entropy(self.prior(), log_q.exp())))
        levels = torch.stack([part.expand(-1, self.spec.classes) for part in paid], -1)[None]
        none = levels.new_zeros(1, 1, 1)
        return Explained(likelihood, -levels.sum(-1), none, levels, v.flatten(1)[None, :, None])

    def _requantisers(self) -> list[Requantiser]:
        return [cast(Requantiser, level) for level in self.upper]

    def _vectors(self, rows: Rows) -> Tensor:
        """(B, P, Z) v^1."""
        return self.encoder(rows.features[:, None])[:, 0].unflatten(-1, (self.cut.count, -1))

    def _leaves(self, rows: Rows) -> Tensor:
        """(B, K, P, M) log p(e_p | k, y)."""
        return self.scores_of(rows, self.decoder(self.codebook.codes[:, None, None]))

    def summed(self, rows: Rows) -> Summed:
        found, book = Summed.of(self._leaves(rows)), self.codebook
        for level in self._requantisers():
            odd = found.log_sum.shape[-2] % 2
            pairs = [
                functional.pad(part, (0, 0, 0, odd)).unflatten(-2, (-1, 2))[..., None, :]
                for part in (found.log_sum, found.expected)
            ]
            children = Summed(*pairs).over(level.log_children(book.codes))
            found, book = Summed(children.log_sum.sum(-2), children.expected.sum(-2)), level.codebook
        return chain_sum(self.prior(), Summed(found.log_sum[..., None, :], found.expected[..., None, :]))

    def decode_mean(self, rows: Rows) -> Tensor:
        nearest = squared_distances(self._vectors(rows), self.codebook.codes).argmin(-1)
        return self.cut.joined(self.decoder(self.codebook.codes[nearest][:, None]))

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        count, levels = self.parts.codes, self._requantisers()
        books = [self.codebook, *(level.codebook for level in levels)]
        noises = [
            gumbel_of(self.standard_normal(len(y), n * count, generator)).unflatten(1, (n, count))
            for n in self.positions
        ]
        index = drawn_chain(self.prior()[y], noises[-1], temperature)
        for number in reversed(range(len(levels))):
            told = levels[number].log_children(books[number].codes)[:, index].permute(1, 2, 0, 3).flatten(1, 2)
            noise = noises[number]
            index = (told[:, : noise.shape[1]] + temperature * noise).argmax(-1)
        return self.cut.joined(self.decoder(books[0].codes[index][:, None], y))[:, 0]


def _entropy_and(log_q: Tensor, cross_entropy: Tensor) -> Tensor:
    """(B, K or 1) cross-entropy less the entropy of q (B, P, M)."""
    return cross_entropy + (log_q.exp() * log_q).sum((1, 2))[:, None]


def _children_cross_entropy(log_p: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """(B, 1) −E log p(k_i | k'), for independent choices (B, P, M) and (B, ⌈P/2⌉, M'), and log p (2, M', M)."""
    padded = functional.pad(below, (0, 0, 0, below.shape[1] % 2)).unflatten(1, (-1, 2))
    return -torch.einsum("bpim,bpn,inm->b", padded, above, log_p)[:, None]
