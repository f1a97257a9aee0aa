"""Which rows of a store are learnt from, with and without their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, UsageError
from cropgen.core.recipe import DataSection
from cropgen.models.base import InputSpec, TrainingData
from cropgen.series.batches import make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import UNKNOWN, Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.splits import Selection, label_subset, select_rows
from cropgen.series.store import SeriesStore

_SAMPLE_STREAM = 0x5A3E


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a store to learn from.

    Arguments:
        labelled: ascending rows whose labels are used.
        unlabelled: ascending rows used without labels, disjoint from `labelled`.
        facts: JSON-able account of how many rows were found, left out and kept.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    facts: dict[str, Any]


def choose_rows(index: pd.DataFrame, section: DataSection, seed: int) -> TrainingRows:
    """The rows that the data section of a recipe asks for.

    Labels come from the years and regions learnt from; every other row there, and every row of the further years and
    regions, is used without its label. Rows without a clear date are left out. Where there are more rows than the
    recipe's caps, a seeded sample is kept, by class for labelled rows.

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
    labelled = known[label_subset(label[known], section.labels, seed)]
    if len(labelled) > section.max_labelled:
        share = section.max_labelled / len(labelled)
        labelled = labelled[label_subset(label[labelled], f"{share:.9f}", seed)]
    _check_classes(label[labelled], len(learnt), len(known))
    found = select_rows(index, wide)
    unlabelled = np.setdiff1d(found[clear[found]], labelled, assume_unique=True)
    facts = {
        "labelled": len(labelled),
        "unlabelled": min(len(unlabelled), section.max_unlabelled),
        "labels_available": len(known),
        "unlabelled_available": len(unlabelled),
        "max_labelled": section.max_labelled,
        "max_unlabelled": section.max_unlabelled,
        "left_out_without_clear_date": int((~clear[found]).sum()),
    }
    if len(unlabelled) > section.max_unlabelled:
        draw = np.random.default_rng([seed, _SAMPLE_STREAM])
        unlabelled = np.sort(draw.choice(unlabelled, section.max_unlabelled, replace=False))
    return TrainingRows(labelled, unlabelled, facts)


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
