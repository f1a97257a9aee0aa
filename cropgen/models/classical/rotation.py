"""What grew there before: the crop of a parcel from its own earlier crops, without looking at any image.

From labelled rows of one parcel in successive years, n_ab counts how often crop b followed crop a, and

    P_ab = (n_ab + s π_b) / (n_a + s)

with the class prior π. A parcel that was labelled with crop a in an earlier year, g years before, gets

    markov     p(y) = (P^g)_ay
    majority   p(y) = (1 − ε) 1[y = the crop that followed a most often] + ε π_y
    previous   p(y) = (1 − ε) 1[y = a] + ε π_y

where ε = (w + 1)/(n + 2) if the rule was wrong in w of the n counted years. Without two successive years no crop is
known to follow another: `markov` and `majority` then give the class prior (ε = 1), and `previous` has ε = ½. Only
labels that the model learnt from are known to it, and only those of years before the one asked for; every other parcel
gets the class prior. Rows need no clear date.

Reference: Assessment of a Markov Logic Model of Crop Rotations for Early Crop Mapping, Osman, Inglada and Dejoux, 2015
(crops told from earlier crops before the season begins).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cropgen.core.errors import DataError
from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.layers.features import class_log_prior
from cropgen.series.batches import UNKNOWN_PARCEL, Batch

_UNKNOWN = -1


class RotationOptions(Options):
    """Options of the crop rotation."""

    mode: Literal["markov", "majority", "previous"] = Field(
        "markov", description="how an earlier crop decides: transition matrix, most frequent follower, the same again",
        json_schema_extra={"search": ["markov", "majority", "previous"]},
    )  # fmt: skip
    smoothing: float = Field(
        5.0, gt=0, description="pseudo-parcels that follow the class prior",
        json_schema_extra={"search": [1.0, 5.0, 20.0]},
    )  # fmt: skip
    memory: int = Field(3, ge=1, description="years back that an earlier crop may lie")


class Rotation(Classifier):
    """p(y | the parcel's last known crop).

    Attributes:
        parcel: (M,) ascending keys of the labelled parcels.
        crop: (M, Y) class of each parcel in the years from `first_year` on, −1 unknown.
        transition: (K, K) P.
        follower: (K,) the crop that followed each most often.
        log_prior: (K,).
        wrong: (2,) ε of the rules `majority`, 1 until a follower is known, and `previous`.
    """

    Settings: ClassVar[type[Options]] = RotationOptions
    parcel: Tensor
    crop: Tensor
    first_year: Tensor
    transition: Tensor
    follower: Tensor
    wrong: Tensor
    log_prior: Tensor

    def __init__(self, spec: InputSpec, options: RotationOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self._allocate(0, 0)
        classes = spec.classes
        self.register_buffer("first_year", torch.zeros((), dtype=torch.int64))
        self.register_buffer("transition", torch.full((classes, classes), 1 / classes))
        self.register_buffer("follower", torch.arange(classes))
        self.register_buffer("wrong", torch.tensor([1.0, 0.5]))
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))

    def _allocate(self, parcels: int, years: int) -> None:
        self.register_buffer("parcel", torch.zeros(parcels, dtype=torch.int64))
        self.register_buffer("crop", torch.full((parcels, years), _UNKNOWN))

    def fixed_state(self) -> dict[str, Any]:
        return {"parcels": self.crop.shape[0], "years": self.crop.shape[1]}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        self._allocate(state["parcels"], state["years"])

    def prepare(self, data: TrainingData, context: Context) -> None:
        rows = data.labelled.take(data.labelled.y_mask)
        if not len(rows):
            raise DataError("no labelled parcel", hint="check the labels")
        self.log_prior.copy_(class_log_prior(rows.y, self.spec.classes))
        known = rows.take(rows.parcel != UNKNOWN_PARCEL)
        self._remember(known)
        before, gap = self.last_known(known)
        follows = gap == 1
        pairs = int(follows.sum())
        if pairs:
            self._count(before[follows], known.y[follows])
        else:
            self.transition.copy_(self.log_prior.exp().expand_as(self.transition))
            context.report.warn(
                "no parcel is labelled in two successive years: how crops follow each other stays unknown"
            )
        context.facts["rotation"] = {"parcels": len(self.parcel), "pairs": pairs, "wrong": self.wrong.tolist()}

    def _remember(self, known: Batch) -> None:
        """Keep the crops of labelled rows by parcel and year."""
        if not len(known):
            return
        parcels, place = torch.unique(known.parcel, return_inverse=True)
        first = int(known.year.min())
        self._allocate(len(parcels), int(known.year.max()) - first + 1)
        self.parcel.copy_(parcels)
        self.first_year.fill_(first)
        self.crop[place, known.year - first] = known.y

    def _count(self, before: Tensor, after: Tensor) -> None:
        """Transition matrix, followers and how often the rules are wrong, from pairs of successive crops (P,)."""
        classes, smoothing = self.spec.classes, self.settings.smoothing
        count = torch.zeros(classes, classes, dtype=torch.float64)
        count.index_put_((before, after), torch.ones(len(before), dtype=torch.float64), accumulate=True)
        smoothed = count + smoothing * self.log_prior.double().exp()
        self.transition.copy_(smoothed / smoothed.sum(1, keepdim=True))
        self.follower.copy_(self.transition.argmax(1))
        for rule, guess in enumerate((self.follower[before], before)):
            self.wrong[rule] = (float((guess != after).sum()) + 1) / (len(after) + 2)

    def last_known(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Class (B,) of the last year before the row's in which its parcel is known, and how many years before.

        −1 and 0 where nothing is known within the memory.
        """
        before, gap = torch.full_like(batch.y, _UNKNOWN), torch.zeros_like(batch.y)
        parcels, years = self.crop.shape
        if not parcels:
            return before, gap
        place = torch.searchsorted(self.parcel, batch.parcel).clamp(max=parcels - 1)
        found = self.parcel[place] == batch.parcel
        for back in range(1, self.settings.memory + 1):
            column = batch.year - back - self.first_year
            inside = found & (column >= 0) & (column < years) & (gap == 0)
            crop = torch.where(inside, self.crop[place, column.clamp(0, years - 1)], _UNKNOWN)
            before = torch.where(crop >= 0, crop, before)
            gap = torch.where(crop >= 0, back, gap)
        return before, gap

    def log_posterior(self, batch: Batch) -> Tensor:
        before, gap = self.last_known(batch)
        prior = self.log_prior.exp()
        answer = prior.expand(len(batch), -1)
        for back in range(1, self.settings.memory + 1):
            answer = torch.where((gap == back)[:, None], self._rule(back)[before.clamp(min=0)], answer)
        return answer.log()

    def _rule(self, years: int) -> Tensor:
        """(K, K) p(y | a) for a crop a that lies `years` back."""
        if self.settings.mode == "markov":
            return torch.linalg.matrix_power(self.transition, years)
        majority = self.settings.mode == "majority"
        guess = self.follower if majority else torch.arange(self.spec.classes, device=self.follower.device)
        for _ in range(years - 1 if majority else 0):
            guess = self.follower[guess]
        wrong = self.wrong[0 if majority else 1]
        certain = functional.one_hot(guess, self.spec.classes).to(self.transition.dtype)
        return (1 - wrong) * certain + wrong * self.log_prior.exp()
