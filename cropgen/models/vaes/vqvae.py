"""Vector-quantised variational auto-encoder over time around the tied Gaussian."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.bounds import Draws, vimco
from cropgen.models.layers.vae.categorical import gumbel_of
from cropgen.models.layers.vae.coded import LEAST_COUNT, CodedModel, CodedOptions
from cropgen.models.layers.vae.model import Explained, Rows
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.quantisation import Codebook, SoftCodebook, squared_distances
from cropgen.models.layers.vae.relaxations import log_concrete
from cropgen.models.layers.vae.segments import (
    ChainPrior,
    Summed,
    chain_cross_entropy,
    chain_log_prob,
    chain_sum,
    drawn_chain,
)


class VQVAEOptions(CodedOptions):
    """Options of `vqvae`."""

    quantiser: Literal["nearest", "gumbel", "vimco"] = Field(
        "nearest",
        description="nearest: the nearest code; gumbel: codes drawn, relaxed; vimco: codes drawn, taught by scores",
        json_schema_extra={"search": ["nearest", "gumbel", "vimco"]},
    )
    draws: int = Field(2, ge=1, description="draws of quantiser=gumbel and quantiser=vimco while learning")
    commitment: float = Field(0.25, ge=0, description="quantiser=nearest: pull of the encoder towards its codes")
    decay: float = Field(0.98, ge=0, lt=1, description="quantiser=nearest: memory of the moving averages of the codes")
    temperature: float = Field(0.67, gt=0, description="quantiser=gumbel: of the relaxed draws")

    @model_validator(mode="after")
    def _quantiser_fits(self) -> VQVAEOptions:
        if self.quantiser == "vimco" and self.draws < 2:
            raise ValueError("quantiser=vimco needs draws of at least 2")
        if self.quantiser == "vimco" and (self.beta != 1 or self.collapse != "none"):
            raise ValueError("quantiser=vimco has no divergence to weigh: set beta=1 and collapse=none")
        return self


class VQVAE(CodedModel):
    """A season told by a code for each of P segments, the entry of a codebook nearest to what the encoder says.

        p(e, k | y) = Π_p p(k_p | k_{p−1}, y) p(e_p | k_p, k_{p−1}, y),   v = E(f) (P, Z)
        nearest     q(k | x) = 1 at k_p = argmin ‖v_p − c_k‖, the gradient straight through to v
        gumbel      q(k_p | x) ∝ exp(−‖v_p − c_k‖² / 2σ²), relaxed draws, divergence in closed form
        vimco       the same q, true draws, the multi-sample bound

    f are the features of the recognition head and (c_k) one codebook for all segments; before the first code stands the
    first entry. What is learnt from is log p(e | k*, y) + log p(k* | y) − commitment Σ ‖v − sg c‖² for the nearest
    codes k*, which follow moving averages of the vectors, dead ones beginning again at a vector of the mini-batch. A
    parcel is scored by the exact sum over all M^P choices, of which each is a lower bound. The prior of the codes, a
    Markov chain for every class, is learnt along and begins uniform.

    References:
        Neural Discrete Representation Learning, van den Oord, Vinyals and Kavukcuoglu, 2017;
        Continuous Relaxation Training of Discrete Latent Variable Image Models, Sønderby, Poole and Mnih, 2017.
    """

    Settings = VQVAEOptions

    def __init__(self, spec: InputSpec, options: VQVAEOptions) -> None:
        super().__init__(spec, options)
        count, z = self.cut.count, options.latent
        self.encoder = ClasswiseMLP(self.recognition.width, 1, count * z, hidden=options.hidden)
        self.decoder = self.new_decoder(2 * z)
        self.prior = ChainPrior(options.codes, count, spec.classes)
        self.codebook: Codebook | SoftCodebook = SoftCodebook(z, options.codes)
        if options.quantiser == "nearest":
            self.codebook = Codebook(z, options.codes, decay=options.decay, least=LEAST_COUNT)

    @property
    def parts(self) -> VQVAEOptions:
        return cast(VQVAEOptions, self.options)

    @property
    def noise_size(self) -> int:
        options = self.parts
        return 0 if options.quantiser == "nearest" else self.cut.count * options.codes

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        v = self._encoded(rows)
        if isinstance(self.codebook, Codebook):
            return self._nearest(rows, v, self.codebook)
        log_q = self.codebook.log_probs(v)
        gumbel = gumbel_of(noise[:, :, 0]).unflatten(-1, log_q.shape[1:])
        if self.parts.quantiser == "vimco":
            return self._drawn(rows, log_q, (log_q.detach() + gumbel).argmax(-1))
        share = log_concrete(log_q, self.parts.temperature, gumbel).exp()
        q = log_q.exp()
        divergence = (torch.xlogy(q, q).sum((1, 2))[:, None] + chain_cross_entropy(self.prior(), q))[None]
        none = divergence.new_zeros(1, 1, 1)
        z = share @ self.codebook.codes
        return Explained(self._likelihood(rows, z), -divergence, none, divergence[..., None], _flat(z))

    def _nearest(self, rows: Rows, v: Tensor, codebook: Codebook) -> Explained:
        found = self.quantised(codebook, v)
        log_prior = chain_log_prob(self.prior(), found.index)[None]
        pull = self.parts.commitment * found.commitment.sum(-1)[:, None]
        z = found.z[None]
        none = log_prior.new_zeros(1, 1, 1)
        return Explained(self._likelihood(rows, z), log_prior, none, -log_prior[..., None], _flat(z), penalty=pull)

    def _drawn(self, rows: Rows, log_q: Tensor, index: Tensor) -> Explained:
        """What drawn codes (S, B, P) make of the rows."""
        z = self.codebook.codes[index]
        log_prior = chain_log_prob(self.prior(), index)
        drawn = log_q.expand(*index.shape, -1).gather(-1, index[..., None])[..., 0].sum(-1)[..., None]
        return Explained(self._likelihood(rows, z), log_prior, drawn, (drawn - log_prior)[..., None], _flat(z).detach())

    def bound(self, explained: Explained) -> Tensor:
        if self.parts.quantiser != "vimco":
            return super().bound(explained)
        shape = explained.log_likelihood.shape
        log_joint = explained.log_likelihood + explained.log_prior
        return vimco(Draws(explained.z, log_joint, explained.log_q.expand(shape)))

    def _encoded(self, rows: Rows) -> Tensor:
        """(B, P, Z) v."""
        return self.encoder(rows.features[:, None])[:, 0].unflatten(-1, (self.cut.count, -1))

    def _likelihood(self, rows: Rows, z: Tensor) -> Tensor:
        """(S, B, K) log p(e | codes, y), codes (S, B, P, Z)."""
        return self.emitted(rows, self._decoded(z))

    def _decoded(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """(…, K or 1, G, C) of codes (…, P, Z)."""
        first = self.codebook.codes[:1].clone().expand_as(z[..., :1, :])
        before = torch.cat([first, z[..., :-1, :]], -2)
        return self.cut.joined(self.decoder(torch.cat([z, before], -1)[..., None, :, :], y))

    def summed(self, rows: Rows) -> Summed:
        codes = self.codebook.codes
        shape = (len(codes), *codes.shape)
        pairs = torch.cat([codes.expand(shape), codes[:, None].expand(shape)], -1).flatten(0, 1)
        scores = self.scores_of(rows, self.decoder(pairs[:, None, None]))
        return chain_sum(self.prior(), Summed.of(scores.unflatten(-1, shape[:2])))

    def decode_mean(self, rows: Rows) -> Tensor:
        nearest = squared_distances(self._encoded(rows), self.codebook.codes).argmin(-1)
        return self._decoded(self.codebook.codes[nearest])

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        shape = (self.cut.count, len(self.codebook.codes))
        noise = gumbel_of(self.standard_normal(len(y), shape[0] * shape[1], generator)).unflatten(1, shape)
        index = drawn_chain(self.prior()[y], noise, temperature)
        return self._decoded(self.codebook.codes[index], y)[:, 0]


def _flat(z: Tensor) -> Tensor:
    """(S, B, 1, P·Z) of (S, B, P, Z)."""
    return z.flatten(2)[:, :, None]
