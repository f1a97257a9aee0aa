"""Rows are chosen as the recipe says, once, and labels outside the choice never reach a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.recipe import DataSection
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from cropgen.training.data import assemble, choose_rows, read_training

LEGEND = Legend.from_codes("crops", ["10", "20", "30", "40"])


def index() -> pd.DataFrame:
    """Years 2020 and 2021 × regions a and b × 12 rows: classes 0, 1, 2, one unknown, one without a clear date."""
    label = [0] * 5 + [1] * 3 + [2] * 2 + [-1, 0]
    frames = [
        pd.DataFrame({"year": year, "region": region, "label": label, "clear_dates": [4] * 11 + [0]})
        for year in (2020, 2021)
        for region in ("a", "b")
    ]
    return pd.concat(frames, ignore_index=True)


def section(**changes: object) -> DataSection:
    return DataSection.model_validate({"series": "s", **changes})


def test_everything_is_learnt_from_by_default() -> None:
    rows = choose_rows(index(), section(), seed=0)
    assert len(rows.labelled) == 40
    assert rows.unlabelled.tolist() == [10, 22, 34, 46]
    assert rows.facts["left_out_without_clear_date"] == 4


def test_the_rest_and_further_years_and_regions_are_unlabelled() -> None:
    table = index()
    rows = choose_rows(
        table, section(years=(2020,), regions=("a",), labels="2/class", unlabelled_years=(2021,)), seed=0
    )
    chosen = table.iloc[rows.labelled]
    assert chosen["label"].value_counts().to_dict() == {0: 2, 1: 2, 2: 2}
    assert set(zip(chosen["year"], chosen["region"], strict=True)) == {(2020, "a")}
    assert len(rows.unlabelled) == (11 - 6) + 11
    assert not set(rows.labelled) & set(rows.unlabelled)
    assert set(table.iloc[rows.unlabelled]["region"]) == {"a"}
    both = choose_rows(
        table, section(years=(2020,), regions=("a",), unlabelled_years=(2021,), unlabelled_regions=("b",)), seed=0
    )
    assert len(both.unlabelled) == 1 + 3 * 11


def test_label_subsets_are_nested_and_seeded() -> None:
    few = choose_rows(index(), section(labels="30%"), seed=4)
    many = choose_rows(index(), section(labels="60%"), seed=4)
    assert set(few.labelled) < set(many.labelled)
    assert not np.array_equal(few.labelled, choose_rows(index(), section(labels="30%"), seed=5).labelled)


def test_caps_keep_a_seeded_sample_of_every_class() -> None:
    table = index()
    rows = choose_rows(table, section(max_labelled=20, max_unlabelled=7), seed=1)
    assert 20 <= len(rows.labelled) <= 21
    assert set(table.iloc[rows.labelled]["label"]) == {0, 1, 2}
    assert len(rows.unlabelled) == rows.facts["unlabelled"] == 7
    assert rows.facts["unlabelled_available"] == 44 - len(rows.labelled)
    again = choose_rows(table, section(max_labelled=20, max_unlabelled=7), seed=1)
    assert np.array_equal(rows.unlabelled, again.unlabelled)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"years": (2020,), "unlabelled_years": (2020,)},
            UsageError,
            "year 2020 is learnt from with labels and without",
        ),
        ({"unlabelled_regions": ("b",)}, UsageError, "all regions are learnt from already"),
        ({"years": (1999,)}, DataError, "no parcels of year 1999"),
    ],
)
def test_wrong_choices_are_named(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        choose_rows(index(), section(**changes), seed=0)


def test_one_class_is_not_enough() -> None:
    table = index()
    with pytest.raises(DataError, match=r"at least 2 classes, got 1 \(48 rows chosen, 20 of them"):
        choose_rows(table.assign(label=np.where(table["label"] == 0, 0, -1)), section(), seed=0)
    with pytest.raises(DataError, match="got 0"):
        choose_rows(table.assign(label=-1), section(), seed=0)


def series(label: list[int], year: int = 2021) -> ParcelSeries:
    day = np.datetime64(f"{year}-04-03", "D").astype(int) + 10 * np.arange(3)
    count = len(label)
    return ParcelSeries.build(
        bands=("B02", "B08"), values=np.full((count, 3, 2), 0.3), mask=np.ones((count, 3)),
        day=np.tile(day, (count, 1)), parcel_id=[f"p{i}" for i in range(count)], year=year, label=np.array(label),
    )  # fmt: skip


def test_assemble_renumbers_classes_and_hides_the_other_labels() -> None:
    spec, data = assemble(LEGEND, series([3, 1, 3]), series([0, 1, 3]), bands=("B08",), calendar="dekad")
    assert spec.legend.codes == ("20", "40")
    assert spec.bands == ("B08",)
    assert data.labelled.y.tolist() == [1, 0, 1]
    assert data.unlabelled is not None
    assert data.unlabelled.y.tolist() == [-1, -1, -1]
    assert (spec.calendar.first, spec.calendar.count) == (9, 3)
    assert assemble(LEGEND, series([3, 1]))[1].unlabelled is None
    with pytest.raises(SchemaError, match="B11"):
        assemble(LEGEND, series([3, 1]), bands=("B11",))


def test_the_calendar_spans_the_unlabelled_rows_too() -> None:
    late = series([-1, -1])
    late = ParcelSeries.build(
        bands=late.bands, values=late.values, mask=late.mask, day=late.day + 30, parcel_id=late.parcel_id, year=2021
    )
    spec, _ = assemble(LEGEND, series([0, 1]), late, calendar="dekad")
    assert spec.calendar.count == 6


def test_rows_are_read_from_the_store(tmp_path: Path) -> None:
    store = SeriesStore.create(tmp_path / "series.zarr", bands=("B02", "B08"), legend=LEGEND)
    store.append(series([0, 0, 2, 2, -1]))
    store.append(series([2, -1], year=2022))
    rows = choose_rows(store.index(), section(labels="50%", years=(2021,), unlabelled_years=(2022,)), seed=0)
    spec, data = read_training(store, rows, section(calendar="month"))
    assert spec.legend.codes == ("10", "30")
    assert data.labelled.y.tolist() == [0, 0, 1, 1]
    assert data.unlabelled is not None
    assert len(data.unlabelled) == 3


def test_some_rows_are_set_aside_as_reference_and_never_learnt_from() -> None:
    table = pd.concat([index()] * 4, ignore_index=True)
    rows = choose_rows(table, section(labels="20%", reference_share=0.25), seed=1)
    assert len(rows.reference) == rows.facts["reference"] == round(0.25 * (table["clear_dates"] > 0).sum())
    assert not set(rows.reference) & set(rows.labelled)
    assert not set(rows.reference) & set(rows.unlabelled)
    same = choose_rows(table, section(labels="20%", reference_share=0.0), seed=1)
    np.testing.assert_array_equal(same.labelled, rows.labelled)
    assert not len(same.reference)
    everything = choose_rows(table, section(reference_share=0.25), seed=1)
    assert len(everything.reference)
    assert len(everything.labelled) + len(everything.reference) == everything.facts["labels_available"]
