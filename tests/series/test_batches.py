"""Batches carry labels in the model's classes and nothing outside its calendar."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from cropgen.core.errors import DataError
from cropgen.series.batches import UNKNOWN_PARCEL, Batch, concatenate_batches, make_batch, random_rows
from cropgen.series.calendar import Calendar, bin_to_grid
from cropgen.series.schema import ParcelSeries


def series() -> ParcelSeries:
    day = np.datetime64("2021-01-05", "D").astype(int) + 10 * np.arange(4)
    return ParcelSeries.build(
        bands=("a",), values=np.full((4, 4, 1), 0.3), mask=np.ones((4, 4)), day=np.tile(day, (4, 1)),
        parcel_id=list("wxyz"), year=2021, label=np.array([5, 2, -1, 0]),
    )  # fmt: skip


def test_classes_are_renumbered_and_foreign_ones_unknown() -> None:
    batch = make_batch(series(), Calendar("dekad", 0, 4), classes=np.array([2, 5]))
    assert batch.y.tolist() == [1, 0, -1, -1]
    assert batch.y_mask.tolist() == [True, True, False, False]
    assert make_batch(series(), Calendar("dekad", 0, 4)).y.tolist() == [5, 2, -1, 0]


def test_dates_outside_the_calendar_are_masked() -> None:
    batch = make_batch(series(), Calendar("dekad", 1, 2))
    assert batch.slot[0].tolist() == [-1, 0, 1, -1]
    assert batch.mask[0].tolist() == [False, True, True, False]
    assert not batch.values[0, 0].any()


def two_orbits() -> ParcelSeries:
    """One parcel: band a on the first three dates, band b on the last two, so both on the third alone."""
    band_mask = np.array([[[True, False], [True, False], [True, True], [False, True]]])
    day = np.datetime64("2021-01-05", "D").astype(int) + 10 * np.arange(4)
    return ParcelSeries.build(
        bands=("a", "b"), values=np.full((1, 4, 2), -12.0), mask=np.ones((1, 4)), day=day[None], parcel_id=["p"],
        year=2021, band_mask=band_mask,
    )  # fmt: skip


def test_a_date_that_lacks_a_band_is_masked_and_never_counts_as_zero() -> None:
    calendar = Calendar("month", 0, 2)
    batch = make_batch(two_orbits(), calendar)
    assert batch.mask.tolist() == [[False, False, True, False]]
    assert batch.values[0, 2].tolist() == [-12.0, -12.0]
    values, mask = bin_to_grid(two_orbits(), calendar)
    assert values[mask].tolist() == [[-12.0, -12.0]]
    alone = make_batch(two_orbits().select_bands(("b",)), calendar)
    assert alone.mask.tolist() == [[False, False, True, True]]


def test_a_calendar_spans_the_dates_that_have_all_bands() -> None:
    assert Calendar.fitted(two_orbits(), "dekad") == Calendar("dekad", 2, 1)
    apart = two_orbits()
    assert apart.band_mask is not None
    apart = replace(apart, band_mask=apart.band_mask & ~apart.complete[..., None])
    with pytest.raises(DataError, match="no date has all of the bands a, b"):
        Calendar.fitted(apart)


def test_until_masks_the_later_dates() -> None:
    early = make_batch(series(), Calendar("dekad", 0, 4)).until(14)
    assert early.mask[0].tolist() == [True, True, False, False]
    assert not early.values[0, 2:].any()


def test_take_concatenate_and_cast() -> None:
    batch = make_batch(series(), Calendar("dekad", 0, 4))
    both = concatenate_batches([batch.take(torch.tensor([3])), batch.without_labels()])
    assert both.y.tolist() == [0, -1, -1, -1, -1]
    double = both.to(dtype=torch.float64)
    assert double.values.dtype == double.day.dtype == torch.float64
    assert double.slot.dtype == torch.int64


def test_a_parcel_keeps_its_key_over_years_and_regions_part_parcels() -> None:
    first = make_batch(series(), Calendar("dekad", 0, 4))
    later = make_batch(replace(series(), year=np.full(4, 2022, np.int16)), Calendar("dekad", -36, 4))
    assert torch.equal(first.parcel, later.parcel)
    assert later.year.tolist() == [2022] * 4
    assert len(set(first.parcel.tolist())) == 4
    elsewhere = make_batch(replace(series(), region=np.full(4, "south")), Calendar("dekad", 0, 4))
    assert not set(first.parcel.tolist()) & set(elsewhere.parcel.tolist())
    assert int(first.parcel.min()) >= 0


def test_parcel_and_year_follow_their_rows() -> None:
    batch = make_batch(series(), Calendar("dekad", 0, 4))
    nameless = Batch(batch.values, batch.mask, batch.day, batch.slot, batch.y)
    assert nameless.parcel.tolist() == [UNKNOWN_PARCEL] * 4
    for view in (batch.padded(9), batch.until(14), batch.without_labels(), batch.to(dtype=torch.float64)):
        assert torch.equal(view.parcel, batch.parcel)
        assert torch.equal(view.year, batch.year)
    both = concatenate_batches([nameless, batch.take(torch.tensor([2]))])
    assert both.parcel.tolist() == [UNKNOWN_PARCEL] * 4 + [int(batch.parcel[2])]


def test_random_rows_cover_everything_before_repeating() -> None:
    drawn = list(itertools.islice(random_rows(5, 3, torch.Generator().manual_seed(0)), 5))
    flat = torch.cat(drawn)
    assert sorted(flat[:5].tolist()) == sorted(flat[5:10].tolist()) == [0, 1, 2, 3, 4]
    again = torch.cat(list(itertools.islice(random_rows(5, 3, torch.Generator().manual_seed(0)), 5)))
    assert torch.equal(flat, again)
    with pytest.raises(ValueError, match="empty"):
        next(random_rows(0, 3, torch.Generator()))
