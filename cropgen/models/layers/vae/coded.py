"""Seasons told by codes of a learnt codebook: what the vector-quantised auto-encoders share.

A code is a choice, not a number, so what it costs is −log p(k | y), and a bound that takes one choice for sure never
touches log p(e | y). But each code speaks of its own segment of dates, and codes form a chain or a tree, so that

    p(e | y) = Σ_k p(k | y) p(e | k, y)

is summed exactly: parcels are scored by the density itself, however the codes were learnt. Begun with a decoder that
says nothing, the sum is the tied Gaussian, whatever the codes and their prior.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec, Objective
from cropgen.models.layers.vae.emissions import ResidualEmission
from cropgen.models.layers.vae.model import Explained, Rows, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.quantisation import Codebook, Quantised
from cropgen.models.layers.vae.segments import Cut, SegmentDecoder, Summed, segment_scores
from cropgen.series.batches import Batch

LEAST_COUNT = 1.0
_LARGEST_BLOCK = 1 << 23


class CodedOptions(VariationalOptions):
    """Options of every model of codes."""

    latent: int = Field(8, ge=1, description="size of a code", json_schema_extra={"search": [4, 8, 16]})
    hidden: int = Field(64, ge=1, description="width of the hidden layers", json_schema_extra={"search": [32, 64]})
    codes: int = Field(16, ge=2, le=64, description="entries of a codebook", json_schema_extra={"search": [8, 16, 32]})
    segments: int = Field(
        6, ge=1, description="segments of the season, each told by a code", json_schema_extra={"search": [3, 6, 12]}
    )
    estimator: Literal["elbo"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound that is learnt from"
    )
    likelihood: Literal["gaussian"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "gaussian", description="of the season given the codes"
    )
    decoded_variance: Literal[False] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        False, description="the variances are those of all codes"
    )


class CodedModel(VariationalModel):
    """Base of the vector-quantised auto-encoders around the tied Gaussian.

        e | k, y ~ N(o_y + d_y + g(k, y), diag exp v)

    A subclass gives `explain`, the bound that is learnt from, `summed`, the exact sum over the codes, and what its
    decoder says. With start=none the bands are standardised and v begins at 0.

    Arguments:
        spec: what the model sees and answers.
        options: of the subclass.
    """

    def __init__(self, spec: InputSpec, options: CodedOptions) -> None:
        super().__init__(spec, options)
        self._arrived: list[tuple[Codebook, Tensor, Tensor]] = []

    @property
    def settings(self) -> CodedOptions:
        return cast(CodedOptions, self.options)

    @property
    def noise_size(self) -> int:
        return 0

    @property
    def cut(self) -> Cut:
        """How the dates fall into segments."""
        return Cut.into(self.slots, self.settings.segments)

    @abstractmethod
    def summed(self, rows: Rows) -> Summed:
        """(B, K) log p(e | y), all codes summed out, and what stands behind it."""

    @abstractmethod
    def decode_mean(self, rows: Rows) -> Tensor:
        """(B, K, G, C) what the decoder says of the codes of the rows."""

    def scored(self, rows: Rows, noise: Tensor) -> Explained:
        """The exact sum as a bound that is tight: log p(e | y) = E log p(e | k, y) − KL at the exact posterior of k.

        In place of draws of a latent stands what the decoder says of the codes.
        """
        per_row = self.spec.classes * self.cut.count * self.settings.codes**2
        blocks = [rows.take(at) for at in torch.arange(len(rows)).split(max(1, _LARGEST_BLOCK // per_row))]
        parts = [self.summed(block) for block in blocks]
        found = Summed(*(torch.cat([getattr(part, name) for part in parts]) for name in ("log_sum", "expected")))
        divergence = found.divergence[None]
        said = self.decode_mean(rows).flatten(2)[None]
        none = divergence.new_zeros(1, 1, 1)
        return Explained(found.expected[None], -divergence, none, divergence[..., None], said.expand(2, -1, -1, -1))

    def new_decoder(self, inputs: int) -> SegmentDecoder:
        """A decoder of segments that sees so many numbers of the codes."""
        options = self.settings
        return SegmentDecoder(
            inputs, options.hidden, self.spec.classes, self.cut, self.bands, start_at_zero=self.at_start
        )

    def scores_of(self, rows: Rows, means: Tensor) -> Tensor:
        """(B, K, P, J) log-density of every segment for alternative means (J, K, P, w, C)."""
        nothing = rows.surprise.new_zeros(self.slots, self.bands)
        spread = self.emission.moments(nothing, self.log_var)[1]
        return segment_scores(rows.surprise, rows.seasons.mask, spread, means, self.cut)

    def quantised(self, codebook: Codebook, v: Tensor) -> Quantised:
        """The nearest codes of vectors, which the codes will follow."""
        found = codebook(v)
        self._arrived.append((codebook, v.detach(), found.index))
        return found

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        self._arrived.clear()
        loss = super().objective(batch, generator)
        if self.training:
            for codebook, v, index in self._arrived:
                codebook.follow(v, index, generator)
        self._arrived.clear()
        return loss

    def _emission(self) -> ResidualEmission:
        floor = self.settings.variance_floor
        return ResidualEmission(self.bands, self.size, heavy_tails=False, decoded_variance=False, floor=floor)
