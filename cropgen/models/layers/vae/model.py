"""What the variational auto-encoders of seasons share: bounds, scores, samples, forecasts and the use of the latents.

A model of this family says, under one draw of noise, what its latents are and what they make of every parcel and class.
From it follow, here and only here, the bound it learns from and the bound it scores by. With S draws z_s ~ q(z | x, y),

    log w_s = log p(e | z_s, y) + log p(z_s | y) − log q(z_s | x, y)
    learning   an estimator of E log w or of E log 1/S Σ w_s, the divergence weighted where the options say so
    scoring    log 1/S Σ_s w_s

Scores use the same S draws of noise for all parcels and classes, so equal rows score equally.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cropgen.models.base import Context, InputSpec, Mixture, Objective, TrainingData
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.foresight import foresee
from cropgen.models.layers.residual import ResidualModel, ResidualOptions
from cropgen.models.layers.vae.bounds import ESTIMATORS, Draws, log_mean_exp
from cropgen.models.layers.vae.emissions import Emission, EmissionKind, ResidualEmission, TextbookEmission
from cropgen.models.layers.vae.remedies import KLSchedule, collapse_advice
from cropgen.series.batches import Batch

ContinuousEstimator = Literal["elbo", "stl", "iwae", "dreg", "jvi"]
# Of a latent whose draws all classes share: the weights of `dreg` are those of a draw and a class.
SharedEstimator = Literal["elbo", "stl", "iwae", "jvi"]
_NOISE_SEED = 11
_LARGEST_BLOCK = 1 << 24
_LARGEST_FORESIGHT = 1 << 23
_JUDGED_ROWS, _JUDGED_DRAWS = 512, 8
_ACTIVE_VARIANCE = 0.01


class VariationalOptions(ResidualOptions):
    """Options of every variational auto-encoder of whole seasons."""

    latent: int = Field(16, ge=1, description="size of the latent z", json_schema_extra={"search": [8, 16, 32]})
    hidden: int = Field(128, ge=1, description="width of the hidden layers", json_schema_extra={"search": [64, 128]})
    draws: int = Field(1, ge=1, description="draws of the latent in the bound that is learnt from")
    samples: int = Field(8, ge=1, description="draws of the importance-weighted bound that scores a parcel")
    estimator: ContinuousEstimator = Field("elbo", description="of the gradient of the bound that is learnt from")
    likelihood: EmissionKind = Field(
        "gaussian",
        description="of the season given the latent: gaussian, student (heavy tails), or logistics (mixture of "
        "discretised logistics with coupled bands, which needs start=none)",
    )
    components: int = Field(3, ge=1, description="components of likelihood=logistics")
    decoded_variance: bool = Field(
        False,
        description="the decoder gives the variance of every value, not only its mean; with start=none it always does",
    )
    variance_floor: float = Field(
        0.0, ge=0, lt=1,
        description="least variance of an innovation, in units of the tied Gaussian's; not read where a decoder gives "
        "scales, as it does with start=none",
    )  # fmt: skip
    beta: float = Field(1.0, ge=0, description="weight of the divergence; other than 1 a β-VAE and no bound")
    collapse: Literal["none", "linear", "cyclical", "free-bits"] = Field(
        "none",
        description="remedy of an unused latent: linear or cyclical annealing of the divergence, or free bits",
    )
    ramp: float = Field(
        0.5,
        gt=0,
        le=1,
        description="annealing: share of a cycle in which the weight rises; "
        "pretrain: share of the steps before the latent is drawn",
    )
    cycles: int = Field(4, ge=1, description="collapse=cyclical: number of cycles")
    free_bits: float = Field(0.1, ge=0, description="collapse=free-bits: nats that each group of latents has for free")
    consistency: float = Field(
        0.0, ge=0, description="weight of q(y|x) agreeing with itself on unlabelled parcels of which dates are hidden"
    )
    class_balance: float = Field(
        0.0, ge=0, description="weight of the divergence of the mean q(y|x) of unlabelled parcels from the class prior"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> VariationalOptions:
        if self.likelihood == "logistics" and self.start == "tgem":
            raise ValueError("likelihood=logistics cannot begin at the tied Gaussian and needs start=none")
        weighted = self.beta != 1 or self.collapse in ("linear", "cyclical", "free-bits")
        if weighted and self.estimator not in ("elbo", "stl"):
            raise ValueError(
                f"estimator={self.estimator} has no divergence to weigh: take elbo, or beta=1 and no remedy"
            )
        if self.collapse == "free-bits" and self.estimator != "elbo":
            raise ValueError("collapse=free-bits needs estimator=elbo")
        if self.estimator == "jvi" and self.draws < 2:
            raise ValueError("estimator=jvi needs draws of at least 2")
        return self


@dataclass(frozen=True)
class Rows:
    """B rows as the networks see them.

    Arguments:
        seasons: whitened.
        features: (B, W) of the recognition head.
        surprise: (B, K, D) r = e − o_y − d_y, 0 where missing.
    """

    seasons: Seasons
    features: Tensor
    surprise: Tensor

    def __len__(self) -> int:
        return len(self.seasons)

    def take(self, rows: Tensor) -> Rows:
        """The rows of an index tensor."""
        return Rows(self.seasons.take(rows), self.features[rows], self.surprise[rows])


@dataclass(frozen=True)
class Explained:
    """What S draws of the latents make of B rows and K classes; an axis of length 1 is shared.

    Arguments:
        log_likelihood: (S, B, K) log p(e | z, y).
        log_prior: (S, B, K) log p(z | y), of all latents together.
        log_q: (S, B, K) log q(z | x, y).
        divergence: (S, B, K, L) KL(q ‖ p) of L groups of latents, in closed form where there is one, else
            log q − log p at the draw.
        z: (S, B, K, Z) the draws.
        log_q_held: (S, B, K) log q with its parameters held, or None where q cannot tell.
        penalty: (B, K) or () what is learnt beside the bound, such as a commitment, in nats.
        baseline: (B, 1) or (B, K) what `nvil` expects of log w, or None.
        log_class: (S, B, K) log q(y | z, x) where q tells the class after the latent, or None.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    divergence: Tensor
    z: Tensor
    log_q_held: Tensor | None = None
    penalty: Tensor | float = 0.0
    baseline: Tensor | None = None
    log_class: Tensor | None = None

    @property
    def log_weight(self) -> Tensor:
        """(S, B, K) log w."""
        return self.log_likelihood + self.log_prior - self.log_q


class VariationalModel(ResidualModel):
    """Base of the variational auto-encoders around the tied Gaussian.

    A subclass gives `noise_size`, `explain`, `decode_prior` and, for forecasts, `decode_mean`.
    """

    noise: Tensor
    updates: Tensor

    def __init__(self, spec: InputSpec, options: VariationalOptions) -> None:
        super().__init__(spec, options)
        self.slots, self.bands = spec.calendar.count, len(spec.bands)
        self.at_start = options.start == "tgem"
        self.emission = self._emission()
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer("noise", torch.randn((options.samples, 1, 1, self.noise_size), generator=generator))
        if self.counts_steps:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def settings(self) -> VariationalOptions:
        return cast(VariationalOptions, self.options)

    @property
    def counts_steps(self) -> bool:
        """Whether what is learnt from depends on the step."""
        return self.settings.collapse in ("linear", "cyclical")

    @property
    def noise_size(self) -> int:
        """N, standard normal numbers that one draw of all latents of a row takes."""
        return self.settings.latent

    @abstractmethod
    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        """What the latents drawn with noise (S, B or 1, 1, N) make of rows; the noise is common to the classes."""

    def scored(self, rows: Rows, noise: Tensor) -> Explained:
        """The same for scores, where the draws that are learnt from are relaxed ones."""
        return self.explain(rows, noise)

    @abstractmethod
    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, G, P) what the decoder says of latents drawn from p(z | y)."""

    def decode_mean(self, rows: Rows) -> Tensor | None:
        """(B, K, G, P) what the decoder says at the mean of q(z | x, y); None where that is not done."""
        return None

    def _emission(self) -> Emission:
        options = self.settings
        if not self.at_start:
            return TextbookEmission(options.likelihood, self.bands, options.components)
        return ResidualEmission(
            self.bands,
            self.size,
            heavy_tails=options.likelihood == "student",
            decoded_variance=options.decoded_variance,
            floor=options.variance_floor,
        )

    def emitted(self, rows: Rows, raw: Tensor) -> Tensor:
        """(S, B, K) log p(e | raw) of what the decoder says (S, B, K, G, P)."""
        mask = rows.seasons.mask[:, None]
        return self.emission.log_prob(rows.surprise, raw, mask, self.log_var)

    def rows(self, seasons: Seasons, features: Tensor) -> Rows:
        """Seasons as `explain` takes them."""
        centre = torch.addcmul(seasons.offset, self.shift, seasons.present[:, None])
        return Rows(seasons, features, seasons.e[:, None] - centre)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        if self.counts_steps:
            self.updates += 1
        return self.regularised(super().objective(batch, generator), batch, generator)

    def regularised(self, found: Objective, batch: Batch, generator: torch.Generator) -> Objective:
        """The objective with what unlabelled parcels u tell the head q(y | x) beside it, where options ask for it.

        consistency     −Σ_y sg[q(y | x)] log q(y | x'),   x' the parcel with dates hidden at random
        class_balance   KL(mean_u q(y | x_u) ‖ π)
        """
        options = self.settings
        if not (options.consistency or options.class_balance):
            return found
        seasons = self._seasons(batch)
        free = seasons.take((seasons.y < 0) & (seasons.observed > 0))
        if not len(free):
            return found
        log_q = torch.log_softmax(self.recognition.classify(self._features(free, None)), -1)
        hidden = torch.log_softmax(self.recognition.classify(self._features(free, generator)), -1)
        log_mean = log_mean_exp(log_q)
        parts = {
            "consistency": -(log_q.detach().exp() * hidden).sum(-1).mean(),
            "class_balance": (log_mean.exp() * (log_mean - self.tied.log_prior)).sum(),
        }
        beside = options.consistency * parts["consistency"] + options.class_balance * parts["class_balance"]
        return Objective(found.total + beside, {**found.terms, **parts})

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            blocks = self._blocks(seasons, features)
            return torch.cat([log_mean_exp(self.scored(rows, self.noise).log_weight) for rows in blocks])
        return self.bound(self.explain(self.rows(seasons, features), self.drawn_noise(len(seasons), generator)))

    def drawn_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """(S, B, 1, N) noise to learn with."""
        shape = (self.settings.draws, rows, 1, self.noise_size)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=self.noise.dtype)
        return noise.to(self.noise.device)

    def bound(self, explained: Explained) -> Tensor:
        """(B, K) what is learnt from: the estimator's bound, its divergence weighted, less the penalty."""
        options = self.settings
        if options.estimator == "elbo":
            divergence = self._spared(explained.divergence).sum(-1)
            return (explained.log_likelihood - self.weight() * divergence).mean(0) - explained.penalty
        weight = self.weight()
        shape = explained.log_likelihood.shape
        draws = Draws(
            explained.z,
            explained.log_likelihood + weight * explained.log_prior,
            (weight * explained.log_q).expand(shape),
            None if explained.log_q_held is None else weight * explained.log_q_held,
        )
        return ESTIMATORS[options.estimator](draws) - explained.penalty

    def weight(self) -> float:
        """Of the divergence at the present step."""
        options = self.settings
        if options.collapse not in ("linear", "cyclical"):
            return options.beta
        kind = "linear" if options.collapse == "linear" else "cyclical"
        schedule = KLSchedule(kind, options.steps, options.beta, options.cycles, options.ramp)
        return schedule.at(int(self.updates) - 1)

    @property
    def free_nats(self) -> float:
        """Nats that each group of latents has for free at the present step."""
        return self.settings.free_bits if self.settings.collapse == "free-bits" else 0.0

    def _spared(self, divergence: Tensor) -> Tensor:
        """The divergences (S, B, K, L); a group whose mean is below its free nats pays them and gets no gradient."""
        least = self.free_nats
        if not least:
            return divergence
        return torch.where(divergence.mean((0, 1, 2)) < least, least, divergence)

    def _blocks(self, seasons: Seasons, features: Tensor) -> list[Rows]:
        """The rows in blocks whose decoded seasons fit in memory."""
        per_row = len(self.noise) * self.spec.classes * (self.slots * self.emission.outputs + self.settings.hidden)
        size = max(1, _LARGEST_BLOCK // per_row)
        starts = range(0, max(len(seasons), 1), size)
        return [self.rows(seasons.take(slice(i, i + size)), features[i : i + size]) for i in starts]

    def seen_rows(self, batch: Batch) -> Rows:
        """Parcels as `explain` takes them."""
        seasons = self._seasons(batch)
        return self.rows(seasons, self._features(seasons, None))

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        return self.innovations_of(self.decode_prior(y, generator, temperature), y, generator, temperature)

    def innovations_of(self, raw: Tensor, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, D) innovations of complete seasons drawn from what the decoder says (B, G, P) of classes y (B,)."""
        centre = (self.full_offset() + self.shift)[y]
        return centre + self.emission.sample(raw, self.log_var, generator, temperature)

    def predictive(self, batch: Batch, slots: Tensor) -> Mixture | None:
        """What is expected at `slots` (S,), each value by itself: gaps filled, and days to come foreseen.

        The mean of q(z | x, y) is plugged in, not integrated over. At the start this is the answer of the tied
        Gaussian.
        """
        per_row = len(slots) * self.bands * self.size * self.spec.classes
        at_once = max(1, _LARGEST_FORESIGHT // per_row)
        found = [self._foreseen(batch.take(rows), slots) for rows in torch.arange(len(batch)).split(at_once)]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        weight, mean, variance = (torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0]))
        return Mixture(weight, mean, variance)

    def _foreseen(self, batch: Batch, slots: Tensor) -> Mixture | None:
        rows = self.seen_rows(batch)
        raw = self.decode_mean(rows)
        if raw is None:
            return None
        departure, spread = self.emission.moments(raw, self.log_var)
        weight = torch.softmax(self.log_joint(batch), -1)
        seasons, size = rows.seasons, rows.surprise.shape
        mean, variance = foresee(
            self.tied, seasons.x, seasons.mask, slots, departure.expand(size) + self.shift, spread.expand(size)
        )
        shared = torch.einsum("bk,bksc->bsc", weight, variance) * self.tied.scale.square()
        return Mixture(weight, self.tied.restore(mean), shared)

    @torch.no_grad()
    def use_of_latents(self, batch: Batch) -> dict[str, object]:
        """Diagnostics of parcels, at their class, or at the likeliest one where it is unknown; in nats a parcel.

        reconstruction −E log p(e | z, y); kl by group of latents; active_units, entries of z whose mean over draws
        that are the same for all parcels varies between them by more than 0.01; elbo and iwae, the bounds of the
        innovations.
        """
        seasons = self._seasons(batch)
        blocks = self._blocks(seasons, self._features(seasons, None))
        shape = (_JUDGED_DRAWS, len(seasons), 1, self.noise_size)
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        noise = torch.randn(shape, generator=generator, dtype=self.noise.dtype).to(self.noise)
        parts = [self._used(*part) for part in zip(blocks, noise.split(len(blocks[0]), 1), strict=True)]
        likelihood, divergence, centre, weighted = (torch.cat(part) for part in zip(*parts, strict=True))
        return {
            "reconstruction": -float(likelihood.mean()),
            "kl": [round(float(part), 5) for part in divergence.mean(0)],
            "kl_total": float(divergence.sum(-1).mean()),
            "active_units": int((centre.var(0, unbiased=False) > _ACTIVE_VARIANCE).sum()),
            "elbo": float((likelihood - divergence.sum(-1)).mean()),
            "iwae": float(weighted.mean()),
        }

    def _used(self, rows: Rows, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """At the class of rows: E log p(e | z, y) (B,), divergence (B, L), mean of z (B, Z), weighted bound (B,)."""
        explained = self.scored(rows, noise)
        scores = log_mean_exp(explained.log_weight)
        y = torch.where(rows.seasons.y >= 0, rows.seasons.y, (scores + self.tied.log_prior).argmax(-1))
        each = torch.arange(len(y), device=y.device)

        def at_class(part: Tensor) -> Tensor:
            return part.expand(*part.shape[:1], *scores.shape, *part.shape[3:])[:, each, y]

        centre = self.scored(rows, torch.cat([self.noise, -self.noise])).z
        told = (explained.log_likelihood, explained.divergence, centre)
        likelihood, divergence, centre = (at_class(part).mean(0) for part in told)
        return likelihood, divergence, centre, scores[each, y]

    def finish(self, data: TrainingData, context: Context) -> None:
        super().finish(data, context)
        every = max(1, -(-len(data.labelled) // _JUDGED_ROWS))
        use = self.use_of_latents(data.labelled.take(torch.arange(0, len(data.labelled), every)))
        advice = collapse_advice(float(cast(float, use["kl_total"])))
        context.facts["latent"] = {**use, "collapsed": advice is not None}
        if advice is not None:
            context.report.warn(f"{type(self).__name__}: {advice}")
