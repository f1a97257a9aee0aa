"""Clear dates counted: per parcel, month, region and year, without what was filled in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.series import coverage as module
from cropgen.series.coverage import Seen, coverage
from cropgen.series.legend import Legend
from cropgen.series.rewrite import TransformOptions, transform_store
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

START = 18_628  # 2021-01-01


@pytest.fixture
def store(tmp_path) -> SeriesStore:
    made = SeriesStore.create(tmp_path / "s.zarr", bands=("B04",), legend=Legend("none", ()))
    day = START + np.asarray([[0, 9, 40], [0, 9, 40], [0, 31, 59], [0, 31, 59]])
    mask = np.asarray([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    made.append(
        ParcelSeries.build(
            bands=("B04",), values=np.full((4, 3, 1), 0.2), mask=mask, day=day, parcel_id=list("abcd"),
            year=np.asarray([2021, 2021, 2021, 2022]), region=["n", "n", "s", "s"],
        )
    )  # fmt: skip
    return made


def test_counts_by_hand(store):
    found = coverage(store)
    assert (found["rows"], found["unseen"], found["filled"]) == (4, 1, 0)
    assert found["quantiles"] == {"0": 0, "0.05": 0, "0.25": 0, "0.5": 2, "0.75": 2, "0.95": 3, "1": 3}
    assert [found["months"][m] for m in ("1", "2", "3", "12")] == [0.75, 0.75, 0.25, 0.0]
    north, south, later = found["region_years"]
    assert [(g["region"], g["year"], g["rows"]) for g in (north, south, later)] == [
        ("n", 2021, 2), ("s", 2021, 1), ("s", 2022, 1)
    ]  # fmt: skip
    assert (north["unseen"], north["quantiles"]["1"], north["months"]["2"]) == (1, 2, 0.5)
    assert (south["longest_gap"], later["longest_gap"]) == (31, 31)


def test_parts_do_not_matter(store, monkeypatch):
    whole = coverage(store)
    monkeypatch.setattr(module.seen_dates, "__defaults__", (1,))
    assert coverage(store) == whole


def test_filled_dates_do_not_count(store, tmp_path):
    made = transform_store(store, tmp_path / "f.zarr", TransformOptions(composite="10D", interpolate="linear"))
    found = coverage(made)
    assert found["filled"] == 3 + 3 + 2  # a is seen in periods 0 and 4, c in 0, 3 and 5, d in −37 and −34 of 2022
    assert found["quantiles"] == coverage(store)["quantiles"]


def test_an_empty_store(tmp_path):
    empty = SeriesStore.create(tmp_path / "e.zarr", bands=("B04",), legend=Legend("none", ()))
    assert coverage(empty) == {
        "rows": 0, "unseen": 0, "quantiles": {}, "longest_gap": None, "filled": 0, "region_years": [],
        "months": {str(m): 0.0 for m in range(1, 13)},
    }  # fmt: skip


@given(st.integers(0, 2**32))
def test_gaps_and_months_agree_with_a_loop(seed):
    rng = np.random.default_rng(seed)
    n, t = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    day = START + np.sort(rng.integers(0, 400, (n, t)), axis=1)
    clear = rng.random((n, t)) < 0.6
    seen = Seen(slice(0, n), clear, day, np.full(n, 2021), np.full(n, "r"), 0)
    for i in range(n):
        mine = day[i, clear[i]]
        assert seen.longest_gap[i] == (np.diff(mine).max() if len(mine) > 1 else 0)
        months = [int(str(d)[5:7]) for d in mine.astype("datetime64[D]")]
        assert seen.months[i].tolist() == [months.count(m) for m in range(1, 13)]
