"""Which rows of a store are learnt from, with and without their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, UsageError
from cropgen.core.recipe import DataSection
from cropgen.models.base import InputSpec, TrainingData
from cropgen.series.batches import Batch, make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import UNKNOWN, Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.splits import Selection, label_subset, select_rows
from cropgen.series.store import SeriesStore

_SAMPLE_STREAM = 0x5A3E
_REFERENCE_STREAM = 0x4EF0
_LEAST_REFERENCE, _MOST_REFERENCE = 20, 2000


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a store to learn from.

    Arguments:
        labelled: ascending rows whose labels are used.
        unlabelled: ascending rows used without labels, disjoint from `labelled`.
        reference: ascending rows that are not learnt from: what a usual parcel looks like to the fitted model.
        facts: JSON-able account of how many rows were found, left out and kept.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    reference: np.ndarray
    facts: dict[str, Any]


def choose_rows(index: pd.DataFrame, section: DataSection, seed: int) -> TrainingRows:
    """The rows that the data section of a recipe asks for.

    Labels come from the years and regions learnt from; every other row there, and every row of the further years and
    regions, is used without its label. Rows without a clear date are left out. Where there are more rows than the
    recipe's caps, a seeded sample is kept, by class for labelled rows. A small share is set aside as reference: of the
    rows whose labels are not used, or of the labelled ones where those are too few.

    Arguments:
        index: one line per row, as `SeriesStore.index` gives.
        section: years, regions, label share, caps.
        seed: decides the label subset and the samples.

    Raises:
        UsageError: further years or regions that are learnt from already.
        DataError: a year or region is not there, or the labels left are of fewer than two classes.
    """
    _check_further("year", section.years, section.unlabelled_years)
    _check_further("region", section.regions, section.unlabelled_regions)
    learnt = select_rows(index, Selection(section.years, section.regions))
    wide = Selection(
        section.years and section.years + section.unlabelled_years,
        section.regions and section.regions + section.unlabelled_regions,
    )
    clear = index["clear_dates"].to_numpy() > 0
    label = index["label"].to_numpy()
    known = learnt[clear[learnt] & (label[learnt] > UNKNOWN)]
    found = select_rows(index, wide)
    left_out = int((~clear[found]).sum())
    found = found[clear[found]]
    labelled = known[label_subset(label[known], section.labels, seed)]
    reference = _set_aside(labelled, found, label, section.reference_share, seed)
    labelled = np.setdiff1d(labelled, reference, assume_unique=True)
    if len(labelled) > section.max_labelled:
        share = section.max_labelled / len(labelled)
        labelled = labelled[label_subset(label[labelled], f"{share:.9f}", seed)]
    _check_classes(label[labelled], len(learnt), len(known))
    unlabelled = np.setdiff1d(found, np.union1d(labelled, reference), assume_unique=True)
    facts = {
        "labelled": len(labelled),
        "unlabelled": min(len(unlabelled), section.max_unlabelled),
        "reference": len(reference),
        "labels_available": len(known),
        "unlabelled_available": len(unlabelled),
        "max_labelled": section.max_labelled,
        "max_unlabelled": section.max_unlabelled,
        "left_out_without_clear_date": left_out,
    }
    if len(unlabelled) > section.max_unlabelled:
        unlabelled = np.sort(_sample(unlabelled, section.max_unlabelled, seed, _SAMPLE_STREAM))
    return TrainingRows(labelled, unlabelled, reference, facts)


def _sample(rows: np.ndarray, count: int, seed: int, stream: int) -> np.ndarray:
    return np.random.default_rng([seed, stream]).choice(rows, count, replace=False)


def _set_aside(labelled: np.ndarray, found: np.ndarray, label: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Ascending rows kept as reference; none where fewer than 20 would be, which are too few to judge by.

    Where labelled rows have to serve, two of each class are spared.
    """
    count = min(round(share * len(found)), _MOST_REFERENCE)
    if count < _LEAST_REFERENCE:
        return np.zeros(0, np.int64)
    unlabelled = np.setdiff1d(found, labelled, assume_unique=True)
    source = unlabelled
    if len(unlabelled) < 2 * count:
        spared = labelled[label_subset(label[labelled], "2/class", seed)]
        source = np.setdiff1d(labelled, spared, assume_unique=True)
        count = min(count, len(source) // 2)
    return np.sort(_sample(source, count, seed, _REFERENCE_STREAM))


def _check_further(what: str, learnt: tuple[Any, ...], further: tuple[Any, ...]) -> None:
    repeated = sorted(set(learnt) & set(further))
    if repeated:
        raise UsageError(
            f"{what} {repeated[0]} is learnt from with labels and without", hint=f"name it once, as one of the {what}s"
        )
    if further and not learnt:
        raise UsageError(
            f"unlabelled {what}s without {what}s: all {what}s are learnt from already",
            hint=f"name the {what}s whose labels are used with --{what}s",
        )


def _check_classes(label: np.ndarray, rows: int, known: int) -> None:
    classes = len(np.unique(label))
    if classes < 2:
        raise DataError(
            f"expected labels of at least 2 classes, got {classes} "
            f"({rows} rows chosen, {known} of them with a label and a clear date)",
            hint="choose other years or regions, more labels, or a store whose parcels carry labels",
        )


def assemble(
    legend: Legend,
    labelled: ParcelSeries,
    unlabelled: ParcelSeries | None = None,
    *,
    bands: tuple[str, ...] = (),
    calendar: str = "auto",
) -> tuple[InputSpec, TrainingData]:
    """What a model is built from and learns from.

    The calendar spans the clear dates of all rows; the classes are those of the legend that occur among the labelled
    rows, in its order.

    Arguments:
        legend: what the labels of both series are positions of.
        labelled: rows whose labels are used.
        unlabelled: rows used without their labels, or None.
        bands: input bands, in order; empty: all.
        calendar: a calendar's name, or `auto`.

    Raises:
        SchemaError: a band is not there.
        UsageError: the calendar is unknown.
    """
    names = bands or labelled.bands
    labelled = labelled.select_bands(names)
    free = None if unlabelled is None or not len(unlabelled) else unlabelled.select_bands(names)
    grid = Calendar.fitted(labelled if free is None else concatenate([labelled, free]), calendar)
    classes = np.unique(labelled.label[labelled.label > UNKNOWN])
    spec = InputSpec(names, grid, legend.subset(classes))
    rest = None if free is None else make_batch(free, grid, classes).without_labels()
    return spec, TrainingData(make_batch(labelled, grid, classes), rest)


def read_training(store: SeriesStore, rows: TrainingRows, section: DataSection) -> tuple[InputSpec, TrainingData]:
    """The chosen rows of a store, read once into main memory."""
    unlabelled = store.read(rows.unlabelled) if len(rows.unlabelled) else None
    return assemble(store.legend, store.read(rows.labelled), unlabelled, bands=section.bands, calendar=section.calendar)


def read_reference(store: SeriesStore, rows: TrainingRows, spec: InputSpec) -> Batch:
    """The rows set aside as reference, as a fitted model sees them."""
    series = store.read(rows.reference).select_bands(spec.bands)
    return make_batch(series, spec.calendar, store.legend.encode(spec.legend.codes))
