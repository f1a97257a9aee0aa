"""How neighbours are listened to: a strength that is given, or the one that suits the validation labels of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cropgen.core.errors import DataError, UsageError
from cropgen.core.progress import Reporter
from cropgen.core.recipe import TrainRecipe
from cropgen.core.run import RunFolder
from cropgen.models.base import Classifier
from cropgen.models.checkpoint import load_model
from cropgen.prediction.infer import infer
from cropgen.prediction.neighbours import Field, learnt_compatibility, neighbour_pairs, potts, smooth
from cropgen.prediction.predict import open_like
from cropgen.prediction.smoothing import located
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore
from cropgen.training.data import choose_rows

AUTO = "auto"
STRENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
MOST = 8
_CHUNK = 4096
_LEAST_PROBABILITY = 1e-12
_LEAST_ERRORS = 2.0


@dataclass(frozen=True)
class Neighbourhood:
    """Parcels around the validation rows of a run.

    Arguments:
        place: (N, 4) metres.
        log_posterior: (N, K) what the model says.
        label: (N,) classes of the validation rows, −1 of the others.
        taught: (N,) classes of the rows learnt from, −1 of the others.
    """

    place: np.ndarray
    log_posterior: np.ndarray
    label: np.ndarray
    taught: np.ndarray


def smoothing_field(
    run: Path, series: Path, strength: str, reach_m: float, report: Reporter, until: str | None = None
) -> Field | None:
    """The random field a prediction is smoothed by; None where none is better than not to smooth.

    Arguments:
        strength: a number of nats by which equal crops of two neighbours are favoured, or `auto`: that number and
            whether crops are compared as equal or as the labels met is chosen by the likelihood of the validation rows,
            which must gain two standard errors.
        reach_m: largest distance of neighbours.
        until: `MM-DD`, the end of the season that is predicted from.

    Raises:
        UsageError: the strength is neither, or the run kept no validation rows.
        DataError: the series is not the one the run learnt from, or its parcels have no position.
    """
    if strength == AUTO:
        end = None if until is None else SeasonEnd.parse(until)
        return _chosen(_neighbourhood(run, series, reach_m, end, report), reach_m, report)
    try:
        nats = float(strength)
    except ValueError:
        nats = -1.0
    if not 0 <= nats < 100:
        raise UsageError(
            f"--smooth-neighbours: expected a strength from 0 on or {AUTO}, got {strength}",
            hint=f"for example --smooth-neighbours 0.4, or {AUTO} for a run with validation labels",
        )
    return Field(f"potts {nats:g}", nats * potts(load_model(run).spec.classes), reach_m, MOST)


def candidates(around: Neighbourhood, reach_m: float) -> list[Field]:
    """Not to listen to neighbours, and every strength for equal crops and for the compatibility of the labels."""
    classes = around.log_posterior.shape[1]
    pairs = neighbour_pairs(around.place, reach_m, MOST)
    kinds = {"potts": potts(classes), "learnt": learnt_compatibility(around.taught, pairs, classes)}
    none = Field("none", np.zeros((classes, classes)), reach_m, MOST)
    return [none] + [Field(f"{k} {s:g}", s * c, reach_m, MOST) for k, c in kinds.items() for s in STRENGTHS]


def judge(around: Neighbourhood, field: Field) -> np.ndarray:
    """(V,) −log p of the validation labels in nats."""
    rows = np.flatnonzero(around.label >= 0)
    found = smooth(around.place, around.log_posterior, field).log_probability
    return -found[rows, around.label[rows]]


def choose(around: Neighbourhood, reach_m: float) -> tuple[Field, float]:
    """The field under which the validation labels are most likely, and the nats it gains on each of them.

    Not to listen to neighbours is left only for a gain of two standard errors.
    """
    fields = candidates(around, reach_m)
    losses = [judge(around, field) for field in fields]
    best = int(np.argmin([loss.mean() for loss in losses]))
    gain = losses[0] - losses[best]
    if gain.mean() <= _LEAST_ERRORS * gain.std() / np.sqrt(len(gain)):
        return fields[0], 0.0
    return fields[best], float(gain.mean())


def _chosen(around: Neighbourhood, reach_m: float, report: Reporter) -> Field | None:
    field, gain = choose(around, reach_m)
    if not gain:
        report.warn("neighbours do not make the validation labels more likely: predictions are not smoothed")
        return None
    report.info(f"smoothing over neighbours: {field.name}; the validation labels gain {gain:.3f} nats each")
    return field


def _neighbourhood(run: Path, path: Path, reach_m: float, until: SeasonEnd | None, report: Reporter) -> Neighbourhood:
    recipe, model, store = _origin(run, path, until, report)
    index = store.index()
    rows = choose_rows(index, recipe.data, recipe.seed)
    place = located(*(index[name].to_numpy() for name in ("lon", "lat", "year")))
    if not np.isfinite(place[rows.validation]).all(1).any():
        raise DataError(f"{path}: the validation parcels have no position", hint="give a strength instead of auto")
    near = _within(place, rows.validation, Field("", np.zeros((1, 1)), reach_m, MOST).margin_m)
    used = np.union1d(near[index["clear_dates"].to_numpy()[near] > 0], rows.validation)
    label = _classes(index["label"].to_numpy(), store, model)
    return Neighbourhood(
        place[used], _said(model, store, used, until), np.where(np.isin(used, rows.validation), label[used], -1),
        np.where(np.isin(used, rows.labelled), label[used], -1),
    )  # fmt: skip


def _origin(
    run: Path, path: Path, until: SeasonEnd | None, report: Reporter
) -> tuple[TrainRecipe, Classifier, SeriesStore]:
    """The recipe and model of a run, and the series it learnt from.

    Raises:
        UsageError, DataError: see `smoothing_field`.
    """
    recipe = TrainRecipe.read(RunFolder(run).recipe)
    if recipe.data.validation_share == 0:
        raise UsageError(
            f"--smooth-neighbours auto: {run.name} kept no validation labels to choose by",
            hint="train with --validation 20%, or give a strength such as --smooth-neighbours 0.4",
        )
    model, store = open_like(run, path, report, until)
    learnt = RunFolder(run).read_manifest()["data"]["fingerprint"]
    if store.fingerprint() != learnt:
        raise DataError(
            f"--smooth-neighbours auto: {path} is not the series {run.name} learnt from",
            hint="give that series with --data, or give a strength such as --smooth-neighbours 0.4",
        )
    return recipe, model, store


def _within(place: np.ndarray, rows: np.ndarray, metres: float) -> np.ndarray:
    """Ascending rows that lie within a distance of one of `rows`."""
    from scipy.spatial import KDTree

    known = np.flatnonzero(np.isfinite(place).all(1))
    there = np.intersect1d(rows, known)
    distance, _ = KDTree(place[there]).query(place[known], distance_upper_bound=metres)
    return known[np.isfinite(distance)]


def _classes(label: np.ndarray, store: SeriesStore, model: Classifier) -> np.ndarray:
    """(N,) the model's classes of labels of the store, −1 where it has none."""
    place = np.full(len(store.legend) + 1, -1, np.int64)
    place[store.legend.encode(model.spec.legend.codes)] = np.arange(model.spec.classes)
    return place[label]


def _said(model: Classifier, store: SeriesStore, rows: np.ndarray, until: SeasonEnd | None) -> np.ndarray:
    said = [np.zeros((0, model.spec.classes))]
    for start in range(0, len(rows), _CHUNK):
        series = store.read(rows[start : start + _CHUNK])
        series = series if until is None else until.cut(series)
        said.append(infer(model, model.spec.batch(series).without_labels()).probability)
    return np.log(np.maximum(np.concatenate(said), _LEAST_PROBABILITY))
