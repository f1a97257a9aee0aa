"""What a reader of an evaluation wants to see of single parcels: how crops grow and how the model thinks they do, the
mistakes it was surest of, and how a dynamical model follows a season.

Series are shown as one quantity: the normalised difference vegetation index (NIR − red) / (NIR + red) where both bands
are there, and the first band elsewhere.

Reference: Monitoring Vegetation Systems in the Great Plains with ERTS, Rouse, Haas, Schell and Deering, 1974.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from cropgen.evaluation.document import Dynamics, Exhibits, Mistake, Phenology, TrainingRecord
from cropgen.evaluation.learn import Learnt
from cropgen.evaluation.plan import Training
from cropgen.models.base import GenerativeModel
from cropgen.models.catalog import find
from cropgen.series.calendar import bin_to_grid
from cropgen.series.store import SeriesStore

MISTAKES = 6
_PARCELS, _SAMPLES, _FEWEST = 150, 100, 5
_QUARTILES = (25, 50, 75)
_PAIRS = (("B08", "B04"), ("B8A", "B04"))
_EPOCH = np.datetime64("1970-01-01")
Done = tuple[Training, TrainingRecord, dict[str, np.ndarray]]


def quantity_of(bands: Sequence[str]) -> str:
    """What series of these bands are shown as."""
    return "NDVI" if any(set(pair) <= set(bands) for pair in _PAIRS) else bands[0]


def shown(values: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """The quantity shown (…) of reflectances (…, C); NaN where the index has no meaning."""
    for nir, red in _PAIRS:
        if nir in bands and red in bands:
            upper, lower = values[..., list(bands).index(nir)], values[..., list(bands).index(red)]
            total = upper + lower
            ratio = np.where(total > 1e-3, (upper - lower) / np.where(total > 1e-3, total, 1), np.nan)
            return np.clip(ratio, -1, 1)
    return values[..., 0].astype(float)


def portray(
    learnt: Learnt, store: SeriesStore, label: np.ndarray, rows: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Quartiles of test parcels and of seasons drawn from the model, by class and slot of the model's calendar.

    Arguments:
        label: (N,) label of every row of the store.
        rows: (M,) rows that were tested on; at most 150 of each class are read.
        seed: of the drawing.

    Returns:
        `portrait_day` (G,), `portrait_observed` and `portrait_generated` (K, 3, G), NaN where fewer than 5 parcels were
        seen, and `portrait_parcels` (K,); nothing for a model that cannot draw seasons.
    """
    model = learnt.result.model
    if not isinstance(model, GenerativeModel):
        return {}
    spec, classes = model.spec, learnt.classes
    chosen = [rows[label[rows] == k] for k in classes]
    chosen = [each[np.linspace(0, len(each) - 1, min(len(each), _PARCELS)).astype(int)] for each in chosen]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = model.sample(torch.arange(len(classes)).repeat_interleave(_SAMPLES), generator)
    generated = shown(drawn.double().numpy(), spec.bands).reshape(len(classes), _SAMPLES, -1)
    observed = np.full((len(classes), 3, spec.calendar.count), np.nan)
    for k, mine in enumerate(chosen):
        if len(mine):
            values, mask = bin_to_grid(store.read(np.sort(mine)).select_bands(spec.bands), spec.calendar)
            observed[k] = _quartiles(np.where(mask, shown(values, spec.bands), np.nan))
    return {
        "portrait_day": spec.calendar.start_days() + spec.calendar.slot_days / 2,
        "portrait_observed": observed,
        "portrait_generated": np.stack([_quartiles(each) for each in generated]),
        "portrait_parcels": np.array([len(each) for each in chosen]),
    }


def _quartiles(values: np.ndarray) -> np.ndarray:
    """(3, G) quartiles over rows (M, G), NaN where fewer than 5 rows have a value."""
    enough = np.isfinite(values).sum(0) >= _FEWEST
    found = np.full((3, values.shape[1]), np.nan)
    if enough.any():
        found[:, enough] = np.nanpercentile(values[:, enough], _QUARTILES, axis=0)
    return found


def exhibit(done: Sequence[Done], store: SeriesStore, index: pd.DataFrame) -> Exhibits:
    """Phenology, mistakes and dynamics of every model, of trainings on whole seasons with the most labels.

    Arguments:
        done: finished trainings with their answers.
        index: of the store.
    """
    groups: dict[tuple[str, str], list[Done]] = {}
    for one in done:
        if not one[0].until and one[0].fold.target is None:
            groups.setdefault((find(one[0].model.name).name, one[0].model.variant), []).append(one)
    label = index["label"].to_numpy()
    phenology, mistakes, dynamics = [], [], []
    for (model, variant), mine in groups.items():
        most = max((r.n_labelled for _, record, _ in mine for r in record.rows), default=0)
        share = {r.labels for _, record, _ in mine for r in record.rows if r.n_labelled == most}
        kept = [one for one in mine if one[0].labels in share]
        portrayed = next((one for one in kept if "portrait_day" in one[2]), None)
        if portrayed is not None:
            phenology += list(_phenology(model, variant, portrayed, quantity_of(store.bands)))
        mistakes += _mistakes(model, variant, kept, label, store, index)
        followed = [one for one in kept if "dynamics_day" in one[2]]
        if followed:
            dynamics.append(_dynamics(model, variant, followed))
    return Exhibits(phenology=tuple(phenology), mistakes=tuple(mistakes), dynamics=tuple(dynamics))


def _line(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(round(float(v), 4) if np.isfinite(v) else None for v in values)


def _phenology(model: str, variant: str, one: Done, quantity: str) -> Iterator[Phenology]:
    training, _, arrays = one
    for k, crop in enumerate(arrays["classes"].tolist()):
        if np.isfinite(arrays["portrait_observed"][k]).any():
            yield Phenology(
                model=model, variant=variant, train=training.fold.train, labels=training.labels, crop=crop,
                quantity=quantity, parcels=int(arrays["portrait_parcels"][k]),
                day=tuple(round(float(d), 1) for d in arrays["portrait_day"]),
                observed=tuple(_line(row) for row in arrays["portrait_observed"][k]),
                generated=tuple(_line(row) for row in arrays["portrait_generated"][k]),
            )  # fmt: skip


def _dynamics(model: str, variant: str, done: Sequence[Done]) -> Dynamics:
    """Of all trainings of a model: root of the mean square of the errors, and the mean of the KL.

    A calendar spans what its training saw, so slots are matched by their day; trainings whose slots are of another
    length than those of the first are left out.
    """
    slot = done[0][2]["dynamics_slot_days"]
    alike = [one for one in done if one[2]["dynamics_slot_days"] == slot]
    days = np.unique(np.concatenate([arrays["dynamics_day"] for _, _, arrays in alike]))

    def of(name: str, power: int) -> tuple[float | None, ...]:
        each = np.full((len(alike), len(days)), np.nan)
        for line, (_, _, arrays) in zip(each, alike, strict=True):
            line[np.searchsorted(days, arrays["dynamics_day"])] = arrays[f"dynamics_{name}"] ** power
        told = np.isfinite(each)
        mean = np.where(told, each, 0).sum(0) / np.maximum(told.sum(0), 1)
        return _line(np.where(told.any(0), mean ** (1 / power), np.nan))

    return Dynamics(
        model=model, variant=variant, train=", ".join(dict.fromkeys(t.fold.train for t, _, _ in alike)),
        labels=alike[0][0].labels, parcels=sum(int(each["dynamics_parcels"]) for _, _, each in alike),
        day=tuple(round(float(d), 1) for d in days), one_step=of("one_step", 2),
        free_running=of("free_running", 2), kl=of("kl", 1),
    )  # fmt: skip


def _mistakes(
    model: str, variant: str, done: Iterable[Done], label: np.ndarray, store: SeriesStore, index: pd.DataFrame
) -> list[Mistake]:
    """The mistakes a model was surest of, each parcel season once; crops it was never taught are left out."""
    found: dict[int, tuple[float, int, Training, str]] = {}
    for training, _, arrays in done:
        for number, exam in enumerate(training.exams()):
            if f"probability{number}" not in arrays or exam.cut:
                continue
            rows, said = arrays[f"rows{number}"], arrays[f"predicted{number}"]
            wrong = (said != label[rows]) & np.isin(label[rows], arrays["classes"])
            sure = arrays[f"probability{number}"]
            for place in np.flatnonzero(wrong)[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]:
                row, probability = int(rows[place]), float(sure[place])
                if row not in found or probability > found[row][0]:
                    found[row] = probability, int(said[place]), training, exam.test.name
    ranked = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))[:MISTAKES]
    return [_mistake(model, variant, row, answer, int(label[row]), store, index.iloc[row].to_dict())
            for row, answer in ranked]  # fmt: skip


def _mistake(
    model: str, variant: str, row: int, answer: tuple[float, int, Training, str], true: int, store: SeriesStore,
    entry: dict[Hashable, Any],
) -> Mistake:  # fmt: skip
    probability, said, training, test = answer
    series = store.read(np.array([row]))
    value = shown(series.values[0], store.bands)
    clear = series.mask[0] & np.isfinite(value)
    first = int((np.datetime64(f"{int(entry['year'])}-01-01") - _EPOCH).astype(int))
    return Mistake(
        model=model, variant=variant, labels=training.labels, train=training.fold.train, test=test,
        seed=training.fold.seed, parcel_id=str(entry["parcel_id"]), year=int(entry["year"]),
        region=str(entry["region"]), true=true, predicted=said, probability=round(probability, 4),
        quantity=quantity_of(store.bands), day=tuple((series.day[0][clear] - first).tolist()),
        value=tuple(value[clear].round(4).tolist()),
    )  # fmt: skip
