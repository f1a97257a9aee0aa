from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cropgen.core.errors import DataError, UsageError
from cropgen.evaluation.protocols import PROTOCOLS, Ground, folds
from cropgen.series.splits import holdout


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


@pytest.mark.parametrize(("protocol", "target"), [(p, t) for p, (_, has) in PROTOCOLS.items() for t in {False, has}])
@pytest.mark.parametrize("seed", range(2))
def test_no_parcel_and_no_block_is_learnt_from_and_tested_on(protocol, target, seed):
    index = parcels()
    ground = Ground(index, everything(index), seed, 0.3, 2.0, names=("flax", "maize", "wheat"))
    for fold in folds(protocol, ground, target=target):
        may_be_seen = fold.open_rows.copy()
        if target:
            may_be_seen[fold.target] = True
            assert len(fold.target) > 0
            assert fold.open_rows[fold.target].all()
        for test in fold.tests:
            if test.scope == "held-out":
                assert len(test.rows) > 0
                assert not may_be_seen[test.rows].any()
                assert not set(fold.block[test.rows]) & set(fold.block[may_be_seen])
                assert not set(index.parcel_id[test.rows]) & set(index.parcel_id[may_be_seen])


def test_holdout_tests_about_the_share_asked_for():
    index = parcels()
    (fold,) = folds("holdout", Ground(index, everything(index), 0, 0.3, 1.0))
    (test,) = fold.tests
    assert 0.3 <= len(test.rows) / len(index) <= 0.4
    assert np.array_equal(test.rows, np.flatnonzero(~fold.open_rows))
    assert fold.learnt == {}


@pytest.mark.parametrize("region", ["east", "west"])
def test_the_share_is_that_of_the_rows_the_evaluation_is_about(region):
    index = parcels(count=600)
    index.loc[0, "lon"] = -0.005  # one parcel moves the grid of all rows away from that of the region's own
    used = (index.region == region).to_numpy()
    for seed in range(5):
        ground = Ground(index, used, seed, 0.3, 1.0)
        (fold,) = folds("holdout", ground)
        (test,) = fold.tests
        assert 0.3 <= len(test.rows) / used.sum() <= 0.36
        assert not set(fold.block[test.rows]) & set(fold.block[fold.open_rows])


@pytest.mark.parametrize("seed", range(3))
def test_where_every_row_is_used_the_blocks_are_those_of_a_plain_holdout(seed):
    index = parcels()
    index.loc[::7, ["lon", "lat"]] = np.nan
    split = holdout(index, 0.3, seed, 1.0)
    assert np.array_equal(np.flatnonzero(Ground(index, everything(index), seed, 0.3, 1.0).shut), split.test)


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


def test_every_parcel_is_held_out_by_one_part_and_parts_hold_equally_many_labels():
    index = parcels(count=400)
    index.loc[index.index % 3 == 0, "label"] = -1
    found = list(folds("blocks", Ground(index, everything(index), 3, block_km=1.0, parts=4)))
    assert [fold.train for fold in found] == [f"part {k} of 4" for k in (1, 2, 3, 4)]
    tested = np.concatenate([fold.tests[0].rows for fold in found])
    assert np.array_equal(np.sort(tested), np.arange(len(index)))
    labels = [(index.label.to_numpy()[fold.tests[0].rows] >= 0).sum() for fold in found]
    assert max(labels) - min(labels) <= 0.1 * sum(labels) / 4
    again = list(folds("blocks", Ground(index, everything(index), 3, block_km=1.0, parts=4)))
    assert all(np.array_equal(a.open_rows, b.open_rows) for a, b in zip(found, again, strict=True))
    with pytest.raises(DataError, match="too few for 400 parts"):
        list(folds("blocks", Ground(index, everything(index), 3, block_km=2.0, parts=400)))


def test_one_year_is_left_out_and_all_others_are_learnt_from():
    index = parcels()
    found = list(folds("leave-one-year-out", Ground(index, everything(index), 1, 0.3, 2.0)))
    assert [fold.train for fold in found] == ["all but 2021", "all but 2022", "all but 2023"]
    assert [fold.learnt for fold in found] == [{"years": y} for y in ((2022, 2023), (2021, 2023), (2021, 2022))]
    for fold, year in zip(found, (2021, 2022, 2023), strict=True):
        inside, whole = fold.tests
        assert (inside.scope, whole.scope) == ("held-out", "all")
        assert set(index.year[inside.rows]) == set(index.year[whole.rows]) == {year}
        assert len(whole.rows) == 200
    regions = list(folds("leave-one-region-out", Ground(index, everything(index), 1, 0.3, 2.0)))
    assert [fold.learnt for fold in regions] == [{"regions": ("west",)}, {"regions": ("east",)}]


def test_each_crop_is_left_out_in_turn_and_tested_with_the_others():
    index, names = parcels(), ("flax", "maize", "wheat")
    found = list(folds("out-of-legend", Ground(index, everything(index), 0, 0.3, 2.0, names=names)))
    assert [fold.train for fold in found] == [f"without {name}" for name in names]
    for crop, fold in enumerate(found):
        assert set(index.label[fold.open_rows]) == {0, 1, 2} - {crop}
        assert set(index.label[fold.tests[0].rows]) == {0, 1, 2}
    two = parcels().assign(label=lambda frame: frame.label.clip(upper=1))
    with pytest.raises(DataError, match="three crops"):
        list(folds("out-of-legend", Ground(two, everything(two), 0, 0.3, 2.0, names=names)))


def test_the_target_is_the_test_year_outside_the_held_out_blocks():
    index = parcels()
    found = list(folds("cross-year", Ground(index, everything(index), 0, 0.3, 2.0), target=True))
    assert [(fold.train, fold.tests[0].name) for fold in found] == [
        (a, b) for a in ("2021", "2022", "2023") for b in ("2021", "2022", "2023") if a != b
    ]
    for fold in found:
        (test,) = fold.tests
        assert test.scope == "held-out"
        year = index.year.astype(str) == test.name
        assert np.array_equal(np.union1d(fold.target, test.rows), np.flatnonzero(year))
        assert not np.intersect1d(fold.target, test.rows).size


def test_protocols_that_are_not_there_or_have_no_target():
    index = parcels()
    ground = Ground(index, everything(index), 0)
    with pytest.raises(UsageError, match="unknown protocol 'crossyear'"):
        list(folds("crossyear", ground))
    with pytest.raises(UsageError, match="no other year or region"):
        list(folds("holdout", ground, target=True))


def test_a_fold_is_told_from_every_other():
    index = parcels()
    found = [
        f for p in ("holdout", "cross-year") for s in (0, 1) for f in folds(p, Ground(index, everything(index), s))
    ]
    assert len({fold.digest() for fold in found}) == len(found)
    again = [
        f for p in ("holdout", "cross-year") for s in (0, 1) for f in folds(p, Ground(index, everything(index), s))
    ]
    assert [f.digest() for f in again] == [f.digest() for f in found]


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
