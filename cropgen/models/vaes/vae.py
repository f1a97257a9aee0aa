"""Variational auto-encoder of whole seasons, put together from parts that options choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cropgen.models.base import Context, InputSpec, Objective, TrainingData
from cropgen.models.layers.bank import Seasons, whitened
from cropgen.models.layers.vae.bounds import Baseline, Draws, iwae, log_mean_exp, nvil, sleep, vimco, wake
from cropgen.models.layers.vae.categorical import MOST_COMBINATIONS, CategoricalGradient, CategoricalLatent
from cropgen.models.layers.vae.decoders import DateDecoder
from cropgen.models.layers.vae.latents import GaussianLatent, Latent, LatentDraws, NoLatent
from cropgen.models.layers.vae.model import Explained, Rows, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import PosteriorKind
from cropgen.models.layers.vae.priors import PriorKind, VampPrior
from cropgen.models.layers.vae.remedies import AggressivePhase, latent_use
from cropgen.models.layers.vae.unread import refuse_unread
from cropgen.series.batches import Batch

_ENCODER_STEPS = 5
_MEASURED_EVERY = 10
_PATIENCE = 3
_DREAMS = 32


class VAEOptions(VariationalOptions):
    """Options of `vae` and of the rows with one latent vector a season."""

    estimator: Literal["elbo", "stl", "iwae", "dreg", "jvi", "nvil", "vimco", "wake", "sleep"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo",
        description="of the gradient of the bound that is learnt from; nvil, vimco, wake and sleep are for true "
        "categorical draws, latent_kind=categorical with relaxation=none",
    )
    prior: PriorKind = Field("standard", description="p(z) of a continuous latent")
    prior_components: int = Field(8, ge=1, description="components of prior=mog and prior=vamp")
    posterior: PosteriorKind = Field("diagonal", description="map behind the diagonal Gaussian of q(z|x,y)")
    posterior_layers: int = Field(4, ge=1, description="layers of that map")
    latent_kind: Literal["continuous", "categorical", "none"] = Field(
        "continuous",
        description="z is a vector of numbers, or `latent` variables of `categories` each; none: there is no latent, "
        "the control",
    )
    categories: int = Field(8, ge=2, description="latent_kind=categorical: categories of each variable")
    relaxation: CategoricalGradient = Field(
        "gumbel",
        description="latent_kind=categorical: gumbel, straight-through, igr, exact (all combinations summed), or none "
        "(true draws)",
    )
    temperature: float = Field(0.67, gt=0, description="of relaxed draws")
    decoder: Literal["season", "dates"] = Field(
        "season", description="season: one answer for all slots; dates: asked date by date, each blind to the others"
    )
    depth: int = Field(2, ge=1, description="decoder=dates: hidden layers")
    collapse: Literal[  # pyright: ignore[reportIncompatibleVariableOverride]
        "none", "linear", "cyclical", "free-bits", "bounded-field", "auxiliary", "skip", "aggressive", "pretrain"
    ] = Field(
        "none",
        description="remedy of an unused latent: linear or cyclical annealing of the divergence; free-bits; "
        "bounded-field or skip (the latent enters every layer), both with decoder=dates; auxiliary (a second, linear "
        "reconstruction); aggressive (several steps of the encoder for one of the decoder while it lags); pretrain "
        "(as an auto-encoder first, free bits after)",
    )
    auxiliary: float = Field(0.1, ge=0, description="collapse=auxiliary: weight of the second reconstruction")

    @model_validator(mode="after")
    def _latent_fits(self) -> VAEOptions:
        scored = self.estimator in ("nvil", "vimco", "wake", "sleep")
        if self.latent_kind == "none":
            refuse_unread(self, "with latent_kind=none", "estimator", "collapse", "prior", "posterior", "beta", "draws")
        if self.latent_kind == "continuous" and scored:
            raise ValueError(f"estimator={self.estimator} is for true categorical draws: set latent_kind=categorical")
        if self.estimator in ("stl", "dreg") and (self.posterior != "diagonal" or self.latent_kind == "categorical"):
            raise ValueError(f"estimator={self.estimator} needs a continuous latent with posterior=diagonal")
        if self.prior == "vamp" and self.posterior != "diagonal":
            raise ValueError("prior=vamp is a mean of posteriors whose density is known anywhere: posterior=diagonal")
        if self.estimator == "vimco" and self.draws < 2:
            raise ValueError("estimator=vimco needs draws of at least 2")
        if self.latent_kind == "categorical":
            self._categories_fit(scored)
        return self

    def _categories_fit(self, scored: bool) -> None:
        if self.prior != "standard" or self.posterior != "diagonal":
            raise ValueError("latent_kind=categorical is uniform at first and needs prior=standard, posterior=diagonal")
        if scored != (self.relaxation == "none"):
            raise ValueError("relaxation=none and the estimators nvil, vimco, wake and sleep need each other")
        if self.estimator == "wake" and self.hybrid:
            raise ValueError(
                "estimator=wake draws q(z|x,y) to where its draws weigh most, and the cross-entropy of Bayes' rule "
                "would drive it away for the classes that are wrong: set hybrid=0"
            )
        if self.estimator in ("iwae", "jvi") and self.relaxation not in ("gumbel", "igr"):
            raise ValueError(f"estimator={self.estimator} needs relaxation=gumbel or igr")
        if self.relaxation == "exact" and self.categories**self.latent > MOST_COMBINATIONS:
            raise ValueError(
                f"relaxation=exact sums categories^latent terms, at most {MOST_COMBINATIONS}: set latent=1"
            )
        if self.relaxation == "exact" and (self.beta != 1 or self.collapse != "none"):
            raise ValueError("relaxation=exact has no divergence to weigh: set beta=1 and collapse=none")
        if self.relaxation == "exact":
            refuse_unread(self, "with relaxation=exact, which draws nothing", "draws")

    @model_validator(mode="after")
    def _remedy_fits(self) -> VAEOptions:
        if self.collapse in ("bounded-field", "skip") and self.decoder != "dates":
            raise ValueError(f"collapse={self.collapse} needs decoder=dates")
        if self.collapse in ("auxiliary", "aggressive", "pretrain"):
            if self.latent_kind != "continuous" or self.posterior != "diagonal":
                raise ValueError(f"collapse={self.collapse} needs a continuous latent with posterior=diagonal")
            if self.collapse == "pretrain" and self.estimator != "elbo":
                raise ValueError("collapse=pretrain needs estimator=elbo")
        if self.collapse == "auxiliary" and self.estimator == "dreg":
            raise ValueError("estimator=dreg weighs every gradient of its draws: take iwae beside collapse=auxiliary")
        return self


class VAE(VariationalModel):
    """One latent vector a season, whose parts are chosen by options.

        z ~ p(z),   e | y, z ~ p(e | o_y + d_y + g(z, y)),   q(z | x, y) = T(N(m(f, y), diag s²(f, y)))

    p(z) is N(0, I), a mixture of Gaussians, the posteriors of pseudo-inputs of every class (features that begin at
    those of training parcels), or a flow; T the identity or a flow; p(e | ·) Gaussian with the variances exp v,
    Student-t, or a mixture of discretised logistics; z may be categorical. f are the features of the recognition head,
    computed once for all classes. The bound is E_q log p(e | y, z) − KL(q ‖ p) or that of the estimator (see `bounds`).
    With estimator=sleep the density learns by L_S and q by −log q(z | x, y) of seasons that the density draws, complete
    and then hidden where those of up to 32 parcels of the mini-batch are.
    g, the departure of q from N(0, I) and that of p(z) from it begin at zero, so the model begins exactly at the tied
    Gaussian; with start=none it is the textbook auto-encoder of standardised bands, whose decoder gives mean and scale.

    References:
        Auto-Encoding Variational Bayes, Kingma and Welling, 2014; VAE with a VampPrior, Tomczak and Welling, 2018;
        Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015; Lagging Inference Networks and
        Posterior Collapse, He, Spokoyny, Neubig and Berg-Kirkpatrick, 2019; A Surprisingly Effective Fix for Deep
        Latent Variable Modeling of Text, Li, He, Neubig, Berg-Kirkpatrick and Yang, 2019; Auxiliary Guided
        Autoregressive Variational Autoencoders, Lucas and Verbeek, 2018.
    """

    Settings = VAEOptions
    q_sees_class = True
    decoder_sees_class = True
    textbook_has_class_means = True

    def __init__(self, spec: InputSpec, options: VAEOptions) -> None:
        super().__init__(spec, options)
        if not (self.at_start or self.textbook_has_class_means):
            del self.shift
            self.register_buffer("shift", torch.zeros(spec.classes, self.size))
        self.latent = self.make_latent(options)
        self.decoder = self._decoder(options)
        if options.estimator == "nvil":
            self.baseline = Baseline(self.recognition.width)
        if options.collapse == "auxiliary":
            self.second = nn.Linear(self.latent.width, self.size)
        if options.collapse == "aggressive":
            self.phase = AggressivePhase(_PATIENCE)

    @property
    def parts(self) -> VAEOptions:
        return cast(VAEOptions, self.options)

    @property
    def noise_size(self) -> int:
        options = self.parts
        if options.latent_kind != "categorical":
            return options.latent if options.latent_kind == "continuous" else 0
        own = {"exact": 0, "igr": options.categories - 1}.get(options.relaxation, options.categories)
        return options.latent * own

    @property
    def counts_steps(self) -> bool:
        return super().counts_steps or self.parts.collapse in ("aggressive", "pretrain")

    def make_latent(self, options: VAEOptions) -> Latent:
        """The latent vector of the options."""
        width, k = self.recognition.width, self.spec.classes if self.q_sees_class else 1
        if options.latent_kind == "none":
            return NoLatent()
        if options.latent_kind == "categorical":
            return CategoricalLatent(
                width, k, options.latent, options.categories,
                relaxation=options.relaxation, temperature=options.temperature, hidden=options.hidden,
                at_start=self.at_start,
            )  # fmt: skip
        return GaussianLatent(
            width, k, options.latent, hidden=options.hidden, posterior=options.posterior,
            posterior_layers=options.posterior_layers, prior=options.prior,
            prior_components=options.prior_components, at_start=self.at_start,
        )  # fmt: skip

    def _decoder(self, options: VAEOptions) -> ClasswiseMLP | DateDecoder:
        k = self.spec.classes if self.decoder_sees_class else 1
        width, outputs = options.hidden, self.emission.outputs
        if options.decoder == "dates":
            return DateDecoder(
                self.latent.width, k, outputs,
                hidden=width, depth=options.depth, skip=options.collapse == "skip", start_at_zero=self.at_start,
            )  # fmt: skip
        return ClasswiseMLP(self.latent.width, k, self.slots * outputs, hidden=width, start_at_zero=self.at_start)

    def _forget_structure(self, context: Context) -> None:
        super()._forget_structure(context)
        if not self.textbook_has_class_means:
            self.shift.zero_()

    def prepare(self, data: TrainingData, context: Context) -> None:
        super().prepare(data, context)
        prior = self.latent.prior if isinstance(self.latent, GaussianLatent) else None
        if isinstance(prior, VampPrior) and self._bank is not None:
            some = self._bank.labelled
            chosen = torch.arange(len(prior.pseudo_inputs)) * len(some) // len(prior.pseudo_inputs)
            with torch.no_grad():
                prior.pseudo_inputs.copy_(self._features(some.take(chosen), None))

    def decode(self, z: Tensor, day: Tensor) -> Tensor:
        """(…, K, G, P) for z (…, K or 1, W) and days (…, G)."""
        if isinstance(self.decoder, DateDecoder):
            return self.decoder(z, day)
        return self.decoder(z).unflatten(-1, (self.slots, -1))

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None or not self._encoder_alone():
            return super().class_scores(seasons, features, generator)
        with self._density_held():
            return super().class_scores(seasons, features, generator)

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        found = self._explained(rows, self.latent.learnt(rows.features, noise))
        options = self.parts
        if options.estimator == "nvil":
            found = replace(found, baseline=self.baseline(rows.features.detach())[:, None])
        if options.collapse == "auxiliary":
            found = replace(found, penalty=self._second_reconstruction(rows, found.z))
        if options.collapse == "aggressive" and self.training:
            self._measure(rows)
        return found

    def scored(self, rows: Rows, noise: Tensor) -> Explained:
        return self._explained(rows, self.latent.scored(rows.features, noise))

    def _explained(self, rows: Rows, drawn: LatentDraws) -> Explained:
        likelihood = self.emitted(rows, self.decode(drawn.z, rows.seasons.day))
        divergence = drawn.divergence
        if self.parts.latent_kind == "categorical" and self.parts.relaxation == "exact":
            log_share = torch.log_softmax(likelihood, 0)
            size = torch.tensor(float(len(likelihood)), dtype=likelihood.dtype)
            divergence = ((log_share.exp() * log_share).sum(0) + size.log())[None, ..., None]
        return Explained(likelihood, drawn.log_prior, drawn.log_q, divergence, drawn.z, drawn.log_q_held)

    def bound(self, explained: Explained) -> Tensor:
        options = self.parts
        if options.latent_kind == "categorical" and options.relaxation == "exact":
            return log_mean_exp(explained.log_weight)
        if options.estimator not in ("nvil", "vimco", "wake", "sleep"):
            return super().bound(explained)
        log_joint = explained.log_likelihood + explained.log_prior
        draws = Draws(explained.z.detach(), log_joint, explained.log_q.expand(log_joint.shape))
        if options.estimator == "sleep":
            return iwae(replace(draws, log_q=draws.log_q.detach()))
        if options.estimator != "nvil":
            return {"vimco": vimco, "wake": wake}[options.estimator](draws)
        if explained.baseline is None:
            return nvil(draws, torch.zeros(()))
        loss = self.baseline.loss(draws.log_weight, explained.baseline) / self.size
        return nvil(draws, explained.baseline.detach(), self.baseline.scale) - (loss - loss.detach())

    def regularised(self, found: Objective, batch: Batch, generator: torch.Generator) -> Objective:
        found = super().regularised(found, batch, generator)
        if self.parts.estimator != "sleep":
            return found
        seasons = self._seasons(batch)
        seasons = seasons.take(seasons.observed > 0)
        if not len(seasons):
            return found
        few = self._drawn(seasons.x.new_ones(len(seasons)), min(len(seasons), _DREAMS), generator)
        asleep = -sleep(self._log_q_of_dreams(seasons.take(few), generator)).mean()
        return Objective(found.total + asleep, {**found.terms, "sleep": asleep})

    def _log_q_of_dreams(self, seasons: Seasons, generator: torch.Generator) -> Tensor:
        """(1, B) log q(z | x, y) of seasons drawn from the density, hidden where the given ones are.

        A class that is not known is drawn from π.
        """
        if not isinstance(self.latent, CategoricalLatent):
            raise TypeError("only categorical latents learn asleep")
        with torch.no_grad():
            y = self._drawn(self.tied.log_prior.exp(), len(seasons), generator, again=True)
            y = torch.where(seasons.y >= 0, seasons.y, y)
            z = self.latent.sample(y, generator, 1.0).to(self.shift.dtype)
            e = self.innovations_of(self._decoded_at(z, y, seasons.day), y, generator, 1.0)
            x = (e @ self.tied.chol.T + self.tied.overall_mean).view_as(seasons.x) * seasons.mask[..., None]
            dream = whitened(self.tied, x, seasons.mask, seasons.day, y, seasons.site)
        log_q = self.latent.log_q(self._features(dream, generator), z)
        return log_q[torch.arange(len(y)), y if log_q.shape[1] > 1 else torch.zeros_like(y)][None]

    @staticmethod
    def _drawn(share: Tensor, count: int, generator: torch.Generator, *, again: bool = False) -> Tensor:
        """(count,) indices drawn by their share, each once or `again` and again."""
        on = share.to(generator.device)
        return torch.multinomial(on, count, replacement=again, generator=generator).to(share.device)

    def _second_reconstruction(self, rows: Rows, z: Tensor) -> Tensor:
        """(B, 1) nats, the same for all classes, of the season told by a linear map of the latent."""
        missed = (rows.seasons.e[:, None] - self.second(z)) * rows.seasons.present[:, None]
        return self.parts.auxiliary * 0.5 * missed.square().sum(-1).mean((0, 2))[:, None]

    def _pretraining(self) -> bool:
        options = self.parts
        early = int(self.updates) <= options.steps * options.ramp if options.collapse == "pretrain" else False
        return early and self.training

    def drawn_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        noise = super().drawn_noise(rows, generator)
        return torch.zeros_like(noise) if self._pretraining() else noise

    def weight(self) -> float:
        return 0.0 if self._pretraining() else super().weight()

    @property
    def free_nats(self) -> float:
        return self.parts.free_bits if self.parts.collapse == "pretrain" else super().free_nats

    def _encoder_alone(self) -> bool:
        """Whether this step leaves the density as it is."""
        lagging = self.parts.collapse == "aggressive" and self.training and not self.phase.over
        return lagging and int(self.updates) % _ENCODER_STEPS != 0

    @contextmanager
    def _density_held(self) -> Iterator[None]:
        """What is computed inside gives a gradient to q alone: decoder, prior, class means and scales are held."""
        inference = [self.recognition, *(m for n, m in self.latent.named_children() if n in ("encoder", "posterior"))]
        learns = {id(parameter) for part in inference for parameter in part.parameters()}
        held = [parameter for parameter in self.parameters() if id(parameter) not in learns and parameter.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def _measure(self, rows: Rows) -> None:
        """Tell the phase how much the latent knows of these rows, now and then; of the labelled ones if q is told y."""
        if int(self.updates) % _MEASURED_EVERY or not isinstance(self.latent, GaussianLatent):
            return
        mean, log_std, _ = self.latent.encode(rows.features)
        y = rows.seasons.y if mean.shape[1] > 1 else torch.zeros_like(rows.seasons.y)
        each = (y >= 0).nonzero()[:, 0]
        if not len(each):
            return
        chosen = each, y[each]
        self.phase.observe(latent_use(mean[chosen], log_std[chosen], torch.randn_like(mean[each, 0])).information)

    def decode_mean(self, rows: Rows) -> Tensor | None:
        z = self.latent.mean(rows.features)
        return None if z is None else self.decode(z, rows.seasons.day)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        z = self.latent.sample(y, generator, temperature).to(self.shift.dtype)
        return self._decoded_at(z, y, self.start_days.to(z.dtype).expand(len(y), -1))

    def _decoded_at(self, z: Tensor, y: Tensor, day: Tensor) -> Tensor:
        """(B, G, P) what the decoder says of latents (B, W) for the class of each row, on days (B, G)."""
        raw = self.decode(z[:, None], day)
        return raw[torch.arange(len(y)), y if raw.shape[1] > 1 else torch.zeros_like(y)]
