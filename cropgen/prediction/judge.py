"""From what a model says about series to the columns of a prediction, flags included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from cropgen.models.base import Classifier
from cropgen.prediction.columns import ANOMALY_COLUMN, COLUMNS, FLAGS
from cropgen.prediction.infer import Answer, infer
from cropgen.prediction.novelty import Typicality
from cropgen.prediction.prior_shift import PriorShift
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.season import SeasonEnd


@dataclass(frozen=True)
class Thresholds:
    """When a parcel is flagged.

    Arguments:
        probability: below it, `low_confidence`.
        dates: with fewer clear dates, `few_dates`.
        typicality: with a smaller p-value, `unusual`.
    """

    probability: float = 0.5
    dates: int = 5
    typicality: float = 0.01


@dataclass
class Tally:
    """What was predicted so far: parcels per crop name and per flag."""

    parcels: int = 0
    predicted: int = 0
    crops: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)


class Judge:
    """Classifies series and words the result.

    Arguments:
        model: the classifier of the run.
        typicality: its reference, or None.
        thresholds: when parcels are flagged.
        run_id: written with every parcel.
        until: observations after it are not used; None uses all.
        shift: reweighs the probabilities for other class shares; None leaves them as the model gives them.
        anomaly_level: k of the column `anomaly`, −L^{>k}; None: there is none.
    """

    def __init__(
        self, model: Classifier, typicality: Typicality | None, thresholds: Thresholds, run_id: str,
        until: SeasonEnd | None = None, shift: PriorShift | None = None, anomaly_level: int | None = None,
    ) -> None:  # fmt: skip
        self.anomaly_level = anomaly_level
        self.shift = shift
        self._model = model
        self._typicality = typicality
        self._thresholds = thresholds
        self._run_id = run_id
        self._until = until
        self.tally = Tally()

    @property
    def legend(self) -> Legend:
        """The classes that can be predicted."""
        return self._model.spec.legend

    def classify(self, series: ParcelSeries) -> Answer:
        """What the model says about rows of a store."""
        seen = series if self._until is None else self._until.cut(series)
        batch = self._model.spec.batch(seen).without_labels()
        answer = infer(self._model, batch, anomaly_level=self.anomaly_level)
        if self.shift is None:
            return answer
        return replace(answer, probability=self.shift.apply(answer.probability))

    def columns(self, answer: Answer, place: np.ndarray) -> list[pa.Array]:
        """The columns of `columns.py` for M parcels.

        Arguments:
            answer: about N rows.
            place: (M,) int, row of `answer` that belongs to each parcel, −1 without a series.
        """
        known = place >= 0
        count = len(place)
        if not known.any():
            empty: dict[str, Any] = {"flags": ["no_series"] * count, "run_id": [self._run_id] * count}
            self._count(np.full(0, 0), {"no_series": ~known})
            return [pa.array(empty.get(c.name, [None] * count), c.kind) for c in COLUMNS]
        content, raised = self._judged(answer)
        first = content.pop("first")
        spread = {name: _spread(values, place) for name, values in content.items()}
        everywhere = {name: _spread(values, place).astype(bool) & known for name, values in raised.items()}
        flags = {"no_series": ~known, **everywhere}
        self._count(first[place[known]], flags)
        spread["flags"] = _worded(flags)
        spread["run_id"] = np.full(count, self._run_id, dtype=object)
        shown = {"flags", "run_id"}
        return [
            pa.array(spread[c.name], c.kind, mask=None if c.name in shown else ~known | _absent(spread[c.name]))
            for c in COLUMNS
        ]

    def anomaly(self, answer: Answer, place: np.ndarray) -> list[pa.Array]:
        """The column `anomaly` for M parcels, where it was asked for; arguments as of `columns`."""
        if answer.anomaly is None:
            return []
        if not len(answer.anomaly):
            return [pa.nulls(len(place), ANOMALY_COLUMN.kind)]
        values = _spread(answer.anomaly, place)
        return [pa.array(values, ANOMALY_COLUMN.kind, mask=(place < 0) | np.isnan(values))]

    def _judged(self, answer: Answer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values of the columns and of the flags for the rows of an answer."""
        p, limits, rows = answer.probability, self._thresholds, np.arange(len(answer.probability))
        codes, names = (np.array(v, dtype=object) for v in (self.legend.codes, self.legend.names))
        order = np.argsort(-p, axis=1, kind="stable")
        first = order[:, 0]
        second = order[:, min(1, p.shape[1] - 1)]
        alone = p.shape[1] < 2
        nothing, unknown = np.full(len(rows), None, dtype=object), np.full(len(rows), np.nan)
        typicality = unknown
        if answer.log_likelihood is not None and self._typicality is not None:
            typicality = self._typicality.p_value(answer.log_likelihood, answer.observations)
        content = {
            "first": first, "crop_code": codes[first], "crop_name": names[first], "probability": p[rows, first],
            "second_crop": nothing if alone else codes[second], "second_name": nothing if alone else names[second],
            "second_probability": unknown if alone else p[rows, second],
            "log_likelihood": unknown if answer.log_likelihood is None else answer.log_likelihood,
            "typicality": typicality, "entropy": answer.entropy, "clear_dates": answer.clear_dates,
        }  # fmt: skip
        raised = {
            "no_clear_date": answer.clear_dates == 0,
            "few_dates": (answer.clear_dates > 0) & (answer.clear_dates < limits.dates),
            "unusual": np.nan_to_num(typicality, nan=1.0) < limits.typicality,
            "low_confidence": p[rows, first] < limits.probability,
        }
        return content, raised

    def _count(self, first: np.ndarray, flags: dict[str, np.ndarray]) -> None:
        self.tally.parcels += len(flags["no_series"])
        self.tally.predicted += len(first)
        counts = np.bincount(first, minlength=len(self.legend))
        for name, count in zip(self.legend.names, counts.tolist(), strict=True):
            self.tally.crops.update({name: count} if count else {})
        self.tally.flags.update({name: int(on.sum()) for name, on in flags.items() if on.any()})


def _spread(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    return values[np.maximum(place, 0)]


def _absent(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.asarray([value is None for value in values])
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _worded(flags: dict[str, np.ndarray]) -> np.ndarray:
    """(M,) text: the names of the flags that are raised, comma-separated, in the order of `FLAGS`."""
    number = sum(flags[name].astype(np.int64) << bit for bit, name in enumerate(FLAGS))
    words = [",".join(n for bit, n in enumerate(FLAGS) if value >> bit & 1) for value in range(1 << len(FLAGS))]
    return np.array(words, dtype=object)[number]
