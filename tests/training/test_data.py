"""Rows are chosen as the recipe says, once, and labels outside the choice never reach a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.recipe import DataSection, ModelSection
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.splits import parcel_blocks
from cropgen.series.store import SeriesStore
from cropgen.training.data import assemble, choose_rows, read_training, require_site_reader

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


def test_a_site_covariate_is_no_band() -> None:
    spec, data = assemble(LEGEND, series([3, 1, 3]), series([0, 1]), series([1, 3]), site=("B08", "lat"))
    assert (spec.bands, spec.site) == (("B02",), ("B08", "lat"))
    assert data.labelled.site[:, 0].tolist() == pytest.approx([0.3] * 3)
    assert data.labelled.site[:, 1].isnan().all()
    assert [len(part.site) for part in (data.unlabelled, data.validation) if part is not None] == [2, 2]
    with pytest.raises(UsageError, match="B08 is both band and site covariate"):
        assemble(LEGEND, series([3, 1]), bands=("B02", "B08"), site=("B08",))
    with pytest.raises(UsageError, match="none is left"):
        assemble(LEGEND, series([3, 1]), site=("B02", "B08"))
    with pytest.raises(SchemaError, match="site covariates missing: slope"):
        assemble(LEGEND, series([3, 1]), site=("slope",))


def test_covariates_that_no_model_takes_are_refused() -> None:
    chosen = {name: ModelSection(name=name) for name in ("srnn", "tgem", "pool")}
    joined = ModelSection(name="pool", options={"generative": "vrnn"})
    require_site_reader([chosen["tgem"], chosen["srnn"]], ("lat",))
    require_site_reader([joined], ("lat",))
    require_site_reader([chosen["tgem"]], ())
    with pytest.raises(UsageError, match="tgem, pool: no model here takes site covariates"):
        require_site_reader([chosen["tgem"], chosen["pool"]], ("lat",))


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


def places(rows: int = 400, years: tuple[int, ...] = (2020, 2021), seed: int = 3) -> pd.DataFrame:
    """Parcels strewn over about 8 × 11 km, each with one row a year; a tenth has no known class."""
    generator = np.random.default_rng(seed)
    parcels = pd.DataFrame({
        "parcel_id": [f"p{i}" for i in range(rows)], "region": "r",
        "lon": 10 + 0.1 * generator.random(rows), "lat": 48 + 0.1 * generator.random(rows),
        "label": np.where(generator.random(rows) < 0.1, -1, generator.integers(0, 4, rows)), "clear_dates": 5,
    })  # fmt: skip
    return pd.concat([parcels.assign(year=year) for year in years], ignore_index=True)


def test_validation_takes_whole_blocks_out_of_the_labelled_rows() -> None:
    table = places()
    wanted = section(years=(2020,), unlabelled_years=(2021,), labels="40%", reference_share=0.0)
    without = choose_rows(table, wanted, seed=1)
    rows = choose_rows(table, wanted.model_copy(update={"validation_share": 0.25}), seed=1)
    np.testing.assert_array_equal(np.union1d(rows.labelled, rows.validation), without.labelled)
    assert not set(rows.labelled) & set(rows.validation)
    assert len(rows.validation) == pytest.approx(0.25 * len(without.labelled), abs=2)
    assert len(rows.validation) == rows.facts["validation"]
    block = parcel_blocks(table, wanted.validation_block_km, 1)
    learnt = np.concatenate([rows.labelled, rows.unlabelled])
    assert not set(block[rows.validation]) & set(block[learnt])
    assert not set(table["parcel_id"][rows.validation]) & set(table["parcel_id"][learnt])
    assert set(table["label"][rows.labelled]) == {0, 1, 2, 3}
    assert len(without.validation) == 0


@pytest.mark.parametrize("seed", range(5))
def test_validation_leaves_every_class_a_row_and_is_disjoint_from_the_reference(seed: int) -> None:
    table = places(rows=60, years=(2020,), seed=seed)
    rows = choose_rows(
        table, section(labels="2/class", validation_share=0.5, validation_block_km=0.1, reference_share=0.4), seed
    )
    assert sorted(table["label"][rows.labelled].unique()) == [0, 1, 2, 3]
    assert len(rows.labelled) + len(rows.validation) == 8
    parts = [rows.labelled, rows.unlabelled, rows.reference, rows.validation]
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
    again = choose_rows(
        table, section(labels="2/class", validation_share=0.5, validation_block_km=0.1, reference_share=0.4), seed
    )
    assert np.array_equal(rows.validation, again.validation)


def test_parcels_without_a_place_are_validated_one_by_one() -> None:
    table = places(years=(2020,)).assign(lon=np.nan, lat=np.nan)
    rows = choose_rows(table, section(validation_share=0.1, reference_share=0.0), seed=0)
    assert len(rows.validation) == round(0.1 * (table["label"] >= 0).sum())


def test_validation_without_a_block_to_spare_is_an_error() -> None:
    with pytest.raises(DataError, match="no block of 50 km can be kept for validation") as raised:
        choose_rows(places(), section(validation_share=0.2, validation_block_km=50.0), seed=0)
    assert "smaller blocks" in str(raised.value.hint)


def test_rows_of_a_part_are_found_in_the_whole() -> None:
    rows = choose_rows(places(years=(2020,)), section(validation_share=0.2), seed=0)
    moved = rows.within(np.arange(400) + 1000)
    for name in ("labelled", "unlabelled", "reference", "validation"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(rows, name) + 1000)


def test_validation_rows_are_assembled_with_their_labels_and_do_not_move_the_calendar() -> None:
    known, later = series([3, 1, 3]), series([1, 3])
    later = ParcelSeries.build(
        bands=later.bands, values=later.values, mask=later.mask, day=later.day + 30, parcel_id=later.parcel_id,
        year=2021, label=later.label,
    )  # fmt: skip
    spec, data = assemble(LEGEND, known, None, later, calendar="dekad")
    assert data.validation is not None
    assert data.validation.y.tolist() == [0, 1]
    assert spec == assemble(LEGEND, known, calendar="dekad")[0]
