"""Variational auto-encoder of seasons with a recurrent decoder that is fed the dates before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.latent_dynamics import TIME_FEATURES, time_features
from cropgen.models.layers.recurrent import Recurrence, RecurrentTrunk
from cropgen.models.layers.temporal_conv import DATE_FEATURES
from cropgen.models.layers.vae.emissions import TextbookEmission
from cropgen.models.layers.vae.feedback import Dropout, Feedback, Sight, logistic_noise
from cropgen.models.layers.vae.model import Explained, Rows, SharedEstimator, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob
from cropgen.series.batches import Batch

_LOG_STD_BOUND = 3.0


class VAERNNOptions(VariationalOptions):
    """Options of `vae-rnn`."""

    hidden: int = Field(64, ge=1, description="units of the recurrent networks", json_schema_extra={"search": [32, 64]})
    dropout: Dropout = Field(
        "dynamic-input",
        description="what is withheld from the decoder of the dates before: none, input (whole dates), activation "
        "(single numbers) or scheduled (its own expectation is fed instead), and their dynamic versions, which a "
        "network decides",
        json_schema_extra={"search": ["none", "input", "dynamic-input"]},
    )
    rate: float = Field(0.6, gt=0, lt=1, description="share withheld; of dynamic dropout the share that costs nothing")
    price: float = Field(
        1.0, ge=0, description="dynamic dropout: weight of the divergence of its decisions from `rate`"
    )
    estimator: SharedEstimator = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound; its draws of q(z|x) are common to the classes"
    )
    sight: Sight = Field("all", description="dynamic dropout decides by date, state and latent, or the latent alone")


@dataclass(frozen=True)
class Shown:
    """Rows as the decoder is shown them.

    Arguments:
        e: (G, 1, B, 1, C) innovations, 0 where missing.
        centre: (G, 1, B, K, C) their class means.
        mask: (G, 1, B, 1, 1) 1 at observed dates.
        time: (G, 1, B, 1, 5) features of time.
    """

    e: Tensor
    centre: Tensor
    mask: Tensor
    time: Tensor

    def at(self, t: int) -> Shown:
        """The date of a slot, without its axis."""
        return Shown(self.e[t], self.centre[t], self.mask[t], self.time[t])


class VAERNN(VariationalModel):
    """One latent vector says what a season is, and a recurrent decoder tells it date by date.

    With h_t = GRU(h_{t−1}; δ_{t−1}, Δ_t, z), δ_t what `dropout` leaves of e_t, and o_{y,t} the class mean's innovation,

        p(x, z | y) = p(z) Π_t p(e_t | e_<t, z, y),   q(z | x) from a recurrent network both ways

        p(z)                 = N(0, I)
        p(e_t | e_<t, z, y)  = N(o_{y,t} + d_{y,t} + g(h_t, Δ_t, z, y), diag exp v_t),   g zero at first
        q(z | x)             = N(m(x), diag s²(x)),   N(0, I) at first

        ELBO_y = E_q Σ_t m_t log p(e_t | e_<t, z, y) − KL(q(z | x) ‖ N(0, I)) − price Σ_t m_t KL(Bern(Y_t) ‖ Bern(ρ))

    the last term of dynamic dropout alone, and of learning alone. A decoder that sees every date before needs no z and
    lets it collapse; dropout takes the side channel away. q and the recurrence are common to the classes, the class
    enters the last perceptron, so all classes cost little more than one; with scheduled dropout each class feeds its
    own expectation and runs by itself. At a missing date nothing is fed and nothing is scored. z is (S, B, 1, Z).

    References:
        Generating Sentences from a Continuous Space, Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, 2016;
        On Training Deep Generative Models with Latent Variables, Miladinović, 2021.
    """

    Settings = VAERNNOptions

    def __init__(self, spec: InputSpec, options: VAERNNOptions) -> None:
        super().__init__(spec, options)
        hidden, latent, bands = options.hidden, options.latent, self.bands
        features = 2 * bands + DATE_FEATURES
        ways = [Recurrence(nn.GRU, features, hidden=hidden, layers=1, dropout=0.0) for _ in range(2)]
        self.encoder = RecurrentTrunk(list(ways), hidden=hidden, dropout=0.0)
        self.posterior = nn.Linear(self.encoder.width, 2 * latent)
        self.begin = nn.Linear(latent, hidden)
        self.memory = nn.GRUCell(bands + 1 + TIME_FEATURES + latent, hidden)
        self.answer = ClasswiseMLP(
            hidden + TIME_FEATURES + latent,
            spec.classes,
            self.emission.outputs,
            hidden=hidden,
            start_at_zero=self.at_start,
        )
        self.feedback = Feedback(
            options.dropout, options.rate, bands=bands, hidden=hidden, latent=latent, sight=options.sight
        )
        if self.at_start:
            nn.init.zeros_(self.posterior.weight)
            nn.init.zeros_(self.posterior.bias)

    @property
    def own(self) -> VAERNNOptions:
        return cast(VAERNNOptions, self.options)

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, 1, Z) of q(z | x)."""
        seasons = rows.seasons
        e = seasons.e.unflatten(-1, (-1, self.bands))
        read = self.encoder(torch.cat([seasons.x, e], -1), seasons.mask, seasons.day)
        mean, spread = self.posterior(read)[:, None].chunk(2, -1)
        return mean, _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND)

    def drawn_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """(S, B, 1, Z + G·choices) noise of the latent and of what is withheld."""
        noise = super().drawn_noise(rows, generator)
        choices = self.slots * self.feedback.choices
        return torch.cat([noise, logistic_noise((*noise.shape[:-1], choices), noise, generator)], -1)

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        latent = self.noise_size
        mean, log_std = self.encode(rows)
        z = mean + log_std.exp() * noise[..., :latent]
        decisions = noise[..., latent:].unflatten(-1, (self.slots, -1)) if noise.shape[-1] > latent else None
        raw, cost = self.told(self.shown(rows), z, decisions)
        nothing = torch.zeros_like(mean)
        return Explained(
            self.emitted(rows, raw),
            gaussian_log_prob(z, nothing, nothing),
            gaussian_log_prob(z, mean, log_std),
            gaussian_kl(mean, log_std)[None],
            z,
            gaussian_log_prob(z, mean.detach(), log_std.detach()),
            self.own.price * cost.mean(0),
        )

    def shown(self, rows: Rows) -> Shown:
        """Rows as the decoder is shown them."""
        seasons = rows.seasons

        def by_date(values: Tensor) -> Tensor:
            """(B, ·, D) → (G, 1, B, ·, C)."""
            return values.unflatten(-1, (-1, self.bands)).permute(2, 0, 1, 3)[:, None]

        e = by_date(seasons.e[:, None])
        return Shown(
            e,
            e - by_date(rows.surprise),
            seasons.mask.T.to(e.dtype)[:, None, :, None, None],
            time_features(seasons.day, seasons.mask).transpose(0, 1)[:, None, :, None],
        )

    def told(
        self, shown: Shown, z: Tensor, decisions: Tensor | None = None, *, alone: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What the decoder says of every date (S, B, K, G, P), and what the decisions of dropout cost (S, B, K or 1).

        Arguments:
            z: (S, B, 1, Z).
            decisions: (S, B, 1, G, choices) logistic noise of dropout; None decides without a draw.
            alone: the decoder is fed its own expectations and no date.
        """
        h, fed = self._begun(z)
        expects = alone or self.feedback.scheduled
        states, said, costs = list[Tensor](), list[Tensor](), [z.new_zeros(*z.shape[:-2], 1)]
        for t in range(len(shown.e)):
            now = shown.at(t)
            h = self._stepped(h, fed, now.time, z)
            states.append(h)
            if expects:
                said.append(self._say(h, now.time, z))
            noise = None if decisions is None else decisions[..., t, :]
            fed, cost = self._feed(now, h, z, said[-1] if expects else None, noise, alone=alone)
            costs.append(cost * now.mask[..., 0])
        if not expects:
            time = shown.time.permute(1, 2, 0, 3, 4)
            said = list(self._say(torch.stack(states, 2), time, z[:, :, None]).unbind(2))
        return torch.stack(said, -2), sum(costs[1:-1], start=costs[0])

    def _begun(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The first state, and nothing fed."""
        return torch.tanh(self.begin(z)), z.new_zeros(*z.shape[:-1], self.bands + 1)

    def _stepped(self, h: Tensor, fed: Tensor, time: Tensor, z: Tensor) -> Tensor:
        """The next state (S, B, K or 1, H)."""
        classes = max(h.shape[2], fed.shape[2])
        lead = (*z.shape[:2], classes)
        parts = [part.expand(*lead, part.shape[-1]) for part in (fed, time, z)]
        state = h.expand(*lead, h.shape[-1])
        return self.memory(torch.cat(parts, -1).flatten(0, 2), state.flatten(0, 2)).unflatten(0, lead)

    def _say(self, h: Tensor, time: Tensor, z: Tensor) -> Tensor:
        """(S, B, …, K, P) of dates."""
        parts = [part.expand(*h.shape[:-1], part.shape[-1]) for part in (h, time, z)]
        return self.answer(torch.cat(parts, -1))

    def _feed(
        self, now: Shown, h: Tensor, z: Tensor, said: Tensor | None, noise: Tensor | None, *, alone: bool
    ) -> tuple[Tensor, Tensor]:
        """What the next step is fed (S, B, K or 1, C + 1), and the cost of the decision (S, B, K or 1).

        Arguments:
            said: of this date, where an expectation stands in for what is withheld; else None.
        """
        seen = [part.expand(*h.shape[:-1], part.shape[-1]) for part in (now.e, h, z)]
        kept, cost = (now.e.new_zeros(1), now.e.new_zeros(())) if alone else self.feedback(*seen, noise)
        value = kept * seen[0]
        if said is not None:
            value = value + (1 - kept) * self._expected(now.centre, said)
        flag = kept.mean(-1, keepdim=True).expand(*value.shape[:-1], 1)
        return now.mask * torch.cat([value, flag], -1), cost

    def _expected(self, centre: Tensor, raw: Tensor) -> Tensor:
        """(S, B, K, C) innovations that the decoder expects of a date."""
        if isinstance(self.emission, TextbookEmission):
            return centre + self.emission.likelihood.mean(raw)
        return centre + raw[..., : self.bands]

    def decode_mean(self, rows: Rows) -> Tensor:
        return self.told(self.shown(rows), self.encode(rows)[0][None])[0][0]

    @torch.no_grad()
    def free_run(self, batch: Batch) -> Tensor:
        """(B, K, G, C) innovations expected of every class from the mean of q(z | x) alone, no date being fed."""
        rows = self.seen_rows(batch)
        shown = self.shown(rows)
        raw = self.told(shown, self.encode(rows)[0][None], alone=True)[0]
        return self._expected(shown.centre.permute(1, 2, 3, 0, 4), raw)[0]

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, G, P) along a season that is drawn as it is told."""
        return self._drawn(y, generator, temperature)[0]

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        return self._drawn(y, generator, temperature)[1]

    def _drawn(self, y: Tensor, generator: torch.Generator, temperature: float) -> tuple[Tensor, Tensor]:
        """What the decoder says (B, G, P) and the innovations (B, D) drawn from it, date by date."""
        rows, slots = torch.arange(len(y)), self.slots
        z = temperature * self.standard_normal(len(y), self.noise_size, generator)[None, :, None]
        shown = self._to_draw(y)
        raw = z.new_zeros(len(y), slots, self.emission.outputs)
        season = []
        h, fed = self._begun(z)
        for t in range(slots):
            now = shown.at(t)
            h = self._stepped(h, fed, now.time, z)
            said = self._say(h, now.time, z)
            raw[:, t] = said[0, rows, y]
            departure = self.emission.sample(raw, self.log_var, generator, temperature)
            season.append(now.centre[0, rows, y] + departure.unflatten(-1, (slots, -1))[:, t])
            fed, _ = self._feed(
                replace(now, e=season[-1][None, :, None]),
                h,
                z,
                said if self.feedback.scheduled else None,
                None,
                alone=False,
            )
        return raw, torch.stack(season, 1).flatten(1)

    def _to_draw(self, y: Tensor) -> Shown:
        """Complete seasons whose innovations are still to be drawn."""
        centre = (self.full_offset() + self.shift).unflatten(-1, (self.slots, -1)).transpose(0, 1)
        day = self.start_days.to(centre).expand(len(y), -1)
        time = time_features(day, torch.ones_like(day, dtype=torch.bool))
        lead = (self.slots, 1, len(y))
        return Shown(
            centre.new_zeros(*lead, 1, self.bands),
            centre[:, None, None].expand(*lead, *centre.shape[1:]),
            centre.new_ones(*lead, 1, 1),
            time.transpose(0, 1)[:, None, :, None],
        )
