"""Vector-quantised auto-encoder of two levels over time around the tied Gaussian."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.categorical import gumbel_of
from cropgen.models.layers.vae.coded import LEAST_COUNT, CodedModel, CodedOptions
from cropgen.models.layers.vae.model import Explained, Rows
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.quantisation import Codebook, squared_distances
from cropgen.models.layers.vae.segments import ChainPrior, Summed, chain_sum, drawn_chain, previous

_TOP_SEED = 23


class VQVAE2Options(CodedOptions):
    """Options of `vqvae2`."""

    top_codes: int = Field(
        8, ge=2, le=64, description="entries of the codebook of whole seasons", json_schema_extra={"search": [4, 8, 16]}
    )
    commitment: float = Field(0.25, ge=0, description="pull of the encoders towards their codes")
    decay: float = Field(0.98, ge=0, lt=1, description="memory of the moving averages of the codes")


class VQVAE2(CodedModel):
    """A season told by one code of its own and, given that, by a code for each of P segments.

        p(e, t, k | y) = p(t | y) Π_p p(k_p | k_{p−1}, t, y) p(e_p | k_p, t, y)
        t = nearest to E_t(f),   k = nearest to E(f, c_t) (P, Z)

    Each level has a codebook; the lower encoder, the lower prior and the decoder see the code of the season. f are the
    features of the recognition head. What is learnt from is log p(e | k*, t*, y) + log p(k* | t*, y) + log p(t* | y)
    less the commitment of both levels, so the season's code pays too; a parcel is scored by the exact sum over both
    levels, of which each choice is a lower bound. Priors begin uniform.

    Reference:
        Generating Diverse High-Fidelity Images with VQ-VAE-2, Razavi, van den Oord and Vinyals, 2019.
    """

    Settings = VQVAE2Options

    def __init__(self, spec: InputSpec, options: VQVAE2Options) -> None:
        super().__init__(spec, options)
        width, count, z = self.recognition.width, self.cut.count, options.latent
        self.top_encoder = ClasswiseMLP(width, 1, z, hidden=options.hidden)
        self.encoder = ClasswiseMLP(width + z, 1, count * z, hidden=options.hidden)
        self.decoder = self.new_decoder(2 * z)
        self.top_codebook = Codebook(z, options.top_codes, decay=options.decay, least=LEAST_COUNT, seed=_TOP_SEED)
        self.codebook = Codebook(z, options.codes, decay=options.decay, least=LEAST_COUNT)
        self.top_prior = nn.Parameter(torch.zeros(spec.classes, options.top_codes))
        self.prior = ChainPrior(options.codes, count, spec.classes)
        self.of_top = nn.Parameter(torch.zeros(options.top_codes, 1, 1, 1, options.codes))

    @property
    def parts(self) -> VQVAE2Options:
        return cast(VQVAE2Options, self.options)

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        top = self.quantised(self.top_codebook, self._top_vector(rows))
        low = self.quantised(self.codebook, self._vectors(rows, top.z))
        log_top = torch.log_softmax(self.top_prior, -1)[:, top.index].T
        position = torch.arange(low.index.shape[1], device=low.index.device)
        log_low = self.prior(self.of_top)[top.index[:, None], :, position, previous(low.index), low.index].sum(1)
        levels = -torch.stack([log_top, log_low], -1)[None]
        pull = self.parts.commitment * (top.commitment + low.commitment.sum(-1))[:, None]
        likelihood = self.emitted(rows, self._decoded(low.z, top.z)[None])
        z = torch.cat([top.z, low.z.flatten(1)], 1)[None, :, None]
        return Explained(likelihood, -levels.sum(-1), levels.new_zeros(1, 1, 1), levels, z, penalty=pull)

    def _top_vector(self, rows: Rows) -> Tensor:
        """(B, Z) E_t(f)."""
        return self.top_encoder(rows.features[:, None])[:, 0]

    def _vectors(self, rows: Rows, top: Tensor) -> Tensor:
        """(B, P, Z) E(f, c_t) for codes of the seasons (B, Z)."""
        told = torch.cat([rows.features, top], -1)
        return self.encoder(told[:, None])[:, 0].unflatten(-1, (self.cut.count, -1))

    def _decoded(self, low: Tensor, top: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, K or 1, G, C) of codes (B, P, Z) and codes of the seasons (B, Z)."""
        both = torch.cat([low, top[:, None].expand_as(low)], -1)
        return self.cut.joined(self.decoder(both[:, None], y))

    def summed(self, rows: Rows) -> Summed:
        low, top = self.codebook.codes, self.top_codebook.codes
        shape = (len(top), *low.shape)
        pairs = torch.cat([low.expand(shape), top[:, None].expand(shape)], -1).flatten(0, 1)
        scores = self.scores_of(rows, self.decoder(pairs[:, None, None])).unflatten(-1, shape[:2])
        given_top = scores.transpose(-2, -3)[..., None, :]
        chains = chain_sum(self.prior(self.of_top).transpose(0, 1), Summed.of(given_top))
        return chains.over(torch.log_softmax(self.top_prior, -1))

    def decode_mean(self, rows: Rows) -> Tensor:
        top = self.top_codebook.codes
        top = top[squared_distances(self._top_vector(rows), top).argmin(-1)]
        low = self.codebook.codes
        return self._decoded(low[squared_distances(self._vectors(rows, top), low).argmin(-1)], top)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        low, top = self.codebook.codes, self.top_codebook.codes
        shape = (self.cut.count, len(low))
        of_top = gumbel_of(self.standard_normal(len(y), len(top), generator))
        noise = gumbel_of(self.standard_normal(len(y), shape[0] * shape[1], generator)).unflatten(1, shape)
        chosen = (torch.log_softmax(self.top_prior, -1)[y] + temperature * of_top).argmax(-1)
        index = drawn_chain(self.prior(self.of_top)[chosen, y], noise, temperature)
        return self._decoded(low[index], top[chosen], y)[:, 0]
