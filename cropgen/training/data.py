"""Which rows of a store are learnt from, with and without their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, UsageError
from cropgen.core.recipe import DataSection, ModelSection
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.inputs import reads_site
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import UNKNOWN, Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.splits import Selection, label_subset, parcel_blocks, select_rows
from cropgen.series.store import SeriesStore

_SAMPLE_STREAM = 0x5A3E
_REFERENCE_STREAM = 0x4EF0
_VALIDATION_STREAM = 0x7A11
_LEAST_REFERENCE, _MOST_REFERENCE = 20, 2000


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a store to learn from.

    Arguments:
        labelled: ascending rows whose labels are used.
        unlabelled: ascending rows used without labels, disjoint from `labelled`.
        reference: ascending rows that are not learnt from: what a usual parcel looks like to the fitted model.
        validation: ascending rows whose labels only judge; no block that holds one is learnt from.
        facts: JSON-able account of how many rows were found, left out and kept.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    reference: np.ndarray
    validation: np.ndarray
    facts: dict[str, Any]

    def within(self, place: np.ndarray) -> TrainingRows:
        """The same rows of a larger index, `place` (N,) being the position there of each row of the smaller one."""
        return TrainingRows(
            place[self.labelled], place[self.unlabelled], place[self.reference], place[self.validation], self.facts
        )

    def without(self, rows: np.ndarray) -> TrainingRows:
        """The rows that are not among these."""
        names = ("labelled", "unlabelled", "reference", "validation")
        kept = {name: np.setdiff1d(getattr(self, name), rows) for name in names}
        return TrainingRows(**kept, facts=self.facts | {name: len(part) for name, part in kept.items()})


def choose_rows(index: pd.DataFrame, section: DataSection, seed: int) -> TrainingRows:
    """The rows that the data section of a recipe asks for.

    Labels come from the years and regions learnt from; every other row there, and every row of the further years and
    regions, is used without its label. Rows without a clear date are left out. Where there are more rows than the
    recipe's caps, a seeded sample is kept, by class for labelled rows. A small share is set aside as reference: of the
    rows whose labels are not used, or of the labelled ones where those are too few. The validation rows are taken out
    of the labelled ones, so they count against the label share, and the rows around them are not learnt from.

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
    validation, around = _validation_rows(index, labelled, section, seed)
    labelled = np.setdiff1d(labelled, validation, assume_unique=True)
    unlabelled = np.setdiff1d(found, np.concatenate([labelled, reference, around]))
    facts = {
        "labelled": len(labelled),
        "unlabelled": min(len(unlabelled), section.max_unlabelled),
        "reference": len(reference),
        "validation": len(validation),
        "labels_available": len(known),
        "unlabelled_available": len(unlabelled),
        "max_labelled": section.max_labelled,
        "max_unlabelled": section.max_unlabelled,
        "left_out_without_clear_date": left_out,
    }
    if len(unlabelled) > section.max_unlabelled:
        unlabelled = np.sort(_sample(unlabelled, section.max_unlabelled, seed, _SAMPLE_STREAM))
    return TrainingRows(labelled, unlabelled, reference, validation, facts)


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


def _validation_rows(
    index: pd.DataFrame, labelled: np.ndarray, section: DataSection, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending labelled rows of whole spatial blocks, and all rows of those blocks.

    Blocks are gone through in a seeded order; one is taken where it brings the number of rows nearer to the share asked
    for and leaves every class a row to learn from.

    Raises:
        DataError: no block can be taken.
    """
    if section.validation_share == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    block = parcel_blocks(index, section.validation_block_km, seed)
    label = np.unique(index["label"].to_numpy()[labelled], return_inverse=True)[1]
    held, place = np.unique(block[labelled], return_inverse=True)
    per_block = np.zeros((len(held), label.max() + 1), np.int64)
    np.add.at(per_block, (place, label), 1)
    wanted, kept, left = section.validation_share * len(labelled), 0, per_block.sum(0)
    taken = []
    for candidate in np.random.default_rng([seed, _VALIDATION_STREAM]).permutation(len(held)):
        counts = per_block[candidate]
        if counts.sum() < 2 * (wanted - kept) and (left > counts).all():
            taken.append(held[candidate])
            kept, left = kept + counts.sum(), left - counts
    if not taken:
        raise DataError(
            f"no block of {section.validation_block_km:g} km can be kept for validation: "
            f"{len(labelled)} labelled parcels lie in {len(held)} blocks",
            hint="use more labels, a larger share, or smaller blocks (validation_block_km)",
        )
    around = np.flatnonzero(np.isin(block, taken))
    return np.intersect1d(labelled, around, assume_unique=True), around


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
    validation: ParcelSeries | None = None,
    *,
    bands: tuple[str, ...] = (),
    site: tuple[str, ...] = (),
    calendar: str = "auto",
) -> tuple[InputSpec, TrainingData]:
    """What a model is built from and learns from.

    The calendar spans the clear dates of all rows that are learnt from; the classes are those of the legend that occur
    among the labelled rows, in its order.

    Arguments:
        legend: what the labels of all series are positions of.
        labelled: rows whose labels are used.
        unlabelled: rows used without their labels, or None.
        validation: rows whose labels only judge, or None.
        bands: input bands, in order; empty: all that are no site covariates.
        site: site covariates, as of `series.site`.
        calendar: a calendar's name, or `auto`.

    Raises:
        SchemaError: a band or a site covariate is not there.
        UsageError: the calendar is unknown, or a channel is both band and site covariate.
    """
    names = bands or tuple(band for band in labelled.bands if band not in site)
    twice = [name for name in site if name in names]
    if twice or not names:
        raise UsageError(
            f"{twice[0]} is both band and site covariate" if twice else "all bands are site covariates: none is left",
            hint="a channel is modelled as a band or conditioned on as a covariate of the site: name it once",
        )
    free = unlabelled if unlabelled is not None and len(unlabelled) else None
    shown = [part.select_bands(names) for part in (labelled, free) if part is not None]
    grid = Calendar.fitted(concatenate([replace(part, pixel_sets=None) for part in shown]), calendar)
    classes = np.unique(labelled.label[labelled.label > UNKNOWN])
    inside = () if shown[0].pixel_sets is None else shown[0].pixel_sets.bands
    spec = InputSpec(names, grid, legend.subset(classes), inside, site)
    rest = None if free is None else spec.batch(free, classes).without_labels()
    judged = None if validation is None else spec.batch(validation, classes)
    return spec, TrainingData(spec.batch(labelled, classes), rest, judged)


def require_site_reader(models: Sequence[ModelSection], site: tuple[str, ...]) -> None:
    """Refuse site covariates that none of the models would take.

    Raises:
        UsageError: there are some.
    """
    names = [model.name for model in models]
    if site and not any(reads_site(model.name, model.options) for model in models):
        raise UsageError(
            f"{', '.join(names)}: no model here takes site covariates ({', '.join(site)})",
            hint="the dynamical models do, such as --model srnn, and pools with one: --set generative=srnn",
        )


def read_training(store: SeriesStore, rows: TrainingRows, section: DataSection) -> tuple[InputSpec, TrainingData]:
    """The chosen rows of a store, read once into main memory."""
    unlabelled, validation = (store.read(part) if len(part) else None for part in (rows.unlabelled, rows.validation))
    return assemble(
        store.legend, store.read(rows.labelled), unlabelled, validation,
        bands=section.bands, site=section.site, calendar=section.calendar,
    )  # fmt: skip


def read_reference(store: SeriesStore, rows: TrainingRows, spec: InputSpec) -> Batch:
    """The rows set aside as reference, as a fitted model sees them."""
    return spec.batch(store.read(rows.reference), store.legend.encode(spec.legend.codes))
