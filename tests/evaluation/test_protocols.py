from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cropgen.core.errors import DataError
from cropgen.evaluation.protocols import Ground, folds


def parcels(years=(2021, 2022, 2023), count=200, seed=0):
    generator = np.random.default_rng(seed)
    lon, lat = generator.random((2, count)) * 0.1
    one = pd.DataFrame(
        {
            "parcel_id": [f"p{i}" for i in range(count)], "region": np.where(lon > 0.05, "east", "west"),
            "lon": lon, "lat": lat, "label": generator.integers(3, size=count), "clear_dates": 9,
        }
    )  # fmt: skip
    return pd.concat([one.assign(year=year) for year in years], ignore_index=True)


def everything(index):
    return np.ones(len(index), bool)


@pytest.mark.parametrize("protocol", ["holdout", "cross-year", "cross-region"])
@pytest.mark.parametrize("seed", range(3))
def test_no_parcel_and_no_block_is_learnt_from_and_tested_on(protocol, seed):
    index = parcels()
    for fold in folds(protocol, Ground(index, everything(index), seed, 0.3, 2.0)):
        for test in fold.tests:
            if test.scope == "held-out":
                assert not fold.open_rows[test.rows].any()
                assert not set(fold.block[test.rows]) & set(fold.block[fold.open_rows])
                assert not set(index.parcel_id[test.rows]) & set(index.parcel_id[fold.open_rows])


def test_holdout_tests_about_the_share_asked_for():
    index = parcels()
    (fold,) = folds("holdout", Ground(index, everything(index), 0, 0.3, 1.0))
    (test,) = fold.tests
    assert 0.3 <= len(test.rows) / len(index) <= 0.4
    assert np.array_equal(test.rows, np.flatnonzero(~fold.open_rows))
    assert fold.learnt == {}


def test_cross_year_holds_out_the_same_parcels_in_every_cell():
    index = parcels()
    found = list(folds("cross-year", Ground(index, everything(index), 1, 0.3, 2.0)))
    assert [fold.train for fold in found] == ["2021", "2022", "2023"]
    assert [fold.learnt for fold in found] == [{"years": (y,)} for y in (2021, 2022, 2023)]
    tested = {
        (fold.train, test.name): index.iloc[test.rows]
        for fold in found
        for test in fold.tests
        if test.scope == "held-out"
    }
    assert len(tested) == 9
    ids = [set(rows.parcel_id) for rows in tested.values()]
    assert all(other == ids[0] for other in ids)
    assert all((rows.year == int(test)).all() for (_, test), rows in tested.items())


def test_off_the_diagonal_every_parcel_is_scored_too():
    index = parcels()
    for fold in folds("cross-year", Ground(index, everything(index), 1, 0.3, 2.0)):
        whole = {test.name: test.rows for test in fold.tests if test.scope == "all"}
        assert set(whole) == {"2021", "2022", "2023"} - {fold.train}
        assert all(len(rows) == 200 for rows in whole.values())


def test_only_used_rows_are_tested():
    index = parcels()
    used = (index["year"] != 2022).to_numpy()
    found = list(folds("cross-year", Ground(index, used, 0, 0.3, 2.0)))
    assert [fold.train for fold in found] == ["2021", "2023"]
    assert all(used[test.rows].all() for fold in found for test in fold.tests)


def test_parcels_without_a_place_stand_for_themselves():
    index = parcels().assign(lon=np.nan, lat=np.nan)
    (fold,) = folds("holdout", Ground(index, everything(index), 0, 0.25, 1.0))
    (test,) = fold.tests
    assert len(test.rows) == pytest.approx(150, abs=6)
    assert not set(index.parcel_id[test.rows]) & set(index.parcel_id[fold.open_rows])


def test_seeds_draw_their_own_split():
    index = parcels()
    shut = [next(folds("holdout", Ground(index, everything(index), seed, 0.3, 1.0))).open_rows for seed in (0, 0, 1)]
    assert np.array_equal(shut[0], shut[1])
    assert not np.array_equal(shut[0], shut[2])


@pytest.mark.parametrize(
    ("protocol", "change", "message"),
    [
        ("cross-year", {"year": 2021}, "at least two years, got 2021"),
        ("cross-region", {"region": "west"}, "at least two regions, got west"),
        ("holdout", {"lon": 1.0, "lat": 1.0}, "one block"),
    ],
)
def test_what_cannot_be_compared_is_refused(protocol, change, message):
    index = parcels().assign(**change)
    with pytest.raises(DataError, match=message):
        list(folds(protocol, Ground(index, everything(index), 0, 0.3, 1.0)))
    with pytest.raises(DataError, match="no parcel left"):
        list(folds(protocol, Ground(index, ~everything(index), 0, 0.3, 1.0)))
