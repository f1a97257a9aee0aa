from __future__ import annotations

import numpy as np
import pytest

from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore
from cropgen.series.view import SeriesView

LEGEND = Legend.from_codes("toy", ["barley", "maize", "wheat"])


@pytest.fixture
def store(tmp_path) -> SeriesStore:
    day = np.datetime64("2021-01-01").astype(int) + np.array([10, 100, 200])
    mask = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 0, 0]], bool)
    series = ParcelSeries.build(
        bands=("B04",), values=np.full((4, 3, 1), 0.5), mask=mask,
        day=np.tile(day, (4, 1)), parcel_id=list("abcd"), year=2021, label=np.array([0, 1, 2, -1]),
    )  # fmt: skip
    made = SeriesStore.create(tmp_path / "toy" / "series.zarr", bands=("B04",), legend=LEGEND)
    made.append(series)
    return made


def test_classes_are_merged_and_left_out(store):
    crops = Legend.from_codes("two", ["cereal", "other"])
    view = SeriesView(store, classes=(crops, np.array([0, -1, 0])))
    assert view.legend == crops
    assert view.index()["label"].tolist() == [0, -1, 0, -1]
    assert view.column("label", np.array([2, 1])).tolist() == [0, -1]
    assert view.read(np.array([0, 1])).label.tolist() == [0, -1]
    assert store.index()["label"].tolist() == [0, 1, 2, -1]
    assert view.fingerprint() == store.fingerprint()


def test_a_season_cut_short(store):
    view = SeriesView(store, until=SeasonEnd.parse("100"))
    assert view.index()["clear_dates"].tolist() == [2, 1, 0, 1]
    assert view.column("clear_dates", np.array([2, 0])).tolist() == [0, 2]
    series = view.read()
    assert series.mask.tolist() == [[True, True, False], [False, True, False], [False] * 3, [True, False, False]]
    assert not series.values[:, 2].any()
    assert store.index()["clear_dates"].tolist() == [3, 2, 1, 1]


def test_a_view_of_a_view(store):
    merged = SeriesView(store, classes=(Legend.from_codes("one", ["crop"]), np.array([0, 0, -1])))
    view = SeriesView(merged, until=SeasonEnd.parse("01-20"))
    assert view.legend.codes == ("crop",)
    assert view.index()["label"].tolist() == [0, 0, -1, -1]
    assert view.index()["clear_dates"].tolist() == [1, 0, 0, 1]
    assert view.read().label.tolist() == [0, 0, -1, -1]
