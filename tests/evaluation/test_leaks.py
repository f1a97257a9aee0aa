"""Every kind of leak is planted and found, on rows and through an evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cropgen.core.errors import CropgenError, DataError
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.leaks import ASKS, check_fold, guard_rows, summarise_checks
from cropgen.evaluation.protocols import Fold, TestSet
from cropgen.series.schema import concatenate
from cropgen.series.splits import holdout
from cropgen.series.store import SeriesStore
from cropgen.training.data import TrainingRows

NONE = np.zeros(0, np.int64)


def make_fold(index, test, scope="held-out", **changes):
    opened = ~np.isin(np.arange(len(index)), test)
    return Fold("all", 0, np.arange(len(index)), opened, {}, (TestSet("all", scope, np.asarray(test)),), **changes)


def learnt(labelled, unlabelled=NONE, validation=NONE):
    return TrainingRows(*(np.asarray(part, np.int64) for part in (labelled, unlabelled, NONE, validation)), {})


def failing(fold, rows, store, neighbour_m=10.0):
    return {c.name: c.found for c in check_fold(fold, rows, store.index(), store, neighbour_m) if not c.passed}


@pytest.fixture
def fold(store):
    """Rows 0–119 are 2021, 120–239 the same parcels in 2022; parcels 0–29 are held out in both."""
    return make_fold(store.index(), [*range(30), *range(120, 150)])


def test_a_clean_training_passes_every_check(store, fold):
    rows = learnt(range(30, 90), range(150, 210), range(90, 120))
    checks = check_fold(fold, rows, store.index(), store, 0.5)
    assert [c.name for c in checks] == [name for name in ASKS if name != "target"]
    assert all(c.passed and c.found == 0 and c.example is None for c in checks)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (learnt([5, *range(30, 60)]), {"row": 1, "parcel": 1}),
        (learnt(range(30, 60), [7, 8]), {"parcel": 2}),
        (learnt(range(30, 60), NONE, [9, 60]), {"row": 1, "validation": 1}),
        (learnt(range(30, 60), NONE, [31, 60]), {"validation": 1}),
    ],
)
def test_rows_and_parcels_on_both_sides_are_found(store, fold, rows, found):
    assert failing(fold, rows, store, 0.5) == found


def test_a_held_out_parcel_of_another_year_is_a_leak_but_not_in_a_test_of_a_whole_year(store):
    other_year = learnt(range(120, 140))
    assert failing(make_fold(store.index(), range(30)), other_year, store, 0.5) == {"parcel": 20}
    assert failing(make_fold(store.index(), range(30), "all"), other_year, store, 0.5) == {}
    assert failing(make_fold(store.index(), range(30), "all"), learnt([3, 120]), store, 0.5) == {"row": 1}


def planted(tmp_path, season, *, move_m=0.0, count=6, noise=0.0, legend=None, dates=5):
    """A store whose last `count` rows are copies of its first ones under other ids, moved northwards."""
    first = season(2021)
    copies = first.take(np.arange(count))
    moved = copies.lat + move_m / 111_195
    copies = replace(copies, parcel_id=np.char.add("copy", np.arange(count).astype(str)), lat=moved,
                     values=(copies.values + noise).astype(np.float32))  # fmt: skip
    both = concatenate([first, copies])
    mask = both.mask & (np.arange(5) < dates)
    store = SeriesStore.create(tmp_path / "planted" / "series.zarr", bands=("B04", "B08"), legend=legend)
    store.append(replace(both, mask=mask, values=both.values * mask[..., None]))
    return store


def test_copies_of_series_are_found_however_far_and_under_any_id(tmp_path, season, legend):
    store = planted(tmp_path, season, move_m=50_000, legend=legend)
    fold = make_fold(store.index(), range(30))
    assert failing(fold, learnt([*range(30, 60), *range(120, 126)]), store, 0.0) == {"series": 6}
    assert failing(fold, learnt(range(30, 60), range(120, 123)), store, 0.0) == {"series": 3}
    assert failing(fold, learnt(range(30, 60), NONE, [120]), store, 0.0) == {"validation": 1}


def test_two_clear_dates_are_too_few_to_call_two_series_the_same(tmp_path, season, legend):
    store = planted(tmp_path, season, move_m=50_000, legend=legend, dates=2)
    assert failing(make_fold(store.index(), range(30)), learnt([40, 50, 120]), store, 0.0) == {}


@pytest.mark.parametrize(("metres", "found"), [(24.9, {}), (25.1, {"neighbour": 6, "validation-neighbour": 1})])
def test_neighbours_are_found_within_the_stated_distance(tmp_path, season, legend, metres, found):
    store = planted(tmp_path, season, move_m=25.0, noise=0.01, legend=legend, count=7)
    index = store.index()
    # only the copies can be this near: parcels nearer than 50 m to one another are not asked about
    lon, lat = index["lon"].to_numpy(), index["lat"].to_numpy()
    distance = 111_195 * np.hypot(lon[:, None] - lon[:7], lat[:, None] - lat[:7])
    far = [row for row in range(30, 120) if distance[row].min() > 50]
    rows = learnt([*far, *range(120, 126)], NONE, [126])
    assert failing(make_fold(index, range(7)), rows, store, metres) == found


def test_leaking_rows_are_left_out_on_demand_and_counted(tmp_path, season, legend):
    store = planted(tmp_path, season, move_m=50_000, legend=legend)
    index = store.index()
    fold, rows = make_fold(index, range(30)), learnt([5, *range(30, 60), 120], [121, 60], [122, 61])
    _, kept, checks = guard_rows(fold, rows, index, store, neighbour_m=0.0, on_leak="drop")
    assert kept.labelled.tolist() == list(range(30, 60))
    assert kept.unlabelled.tolist() == [60]
    assert kept.validation.tolist() == [61]
    assert kept.facts["labelled"] == 30
    assert all(c.passed for c in checks)
    assert {c.name: c.left_out for c in checks if c.left_out} == {"row": 1, "parcel": 1, "series": 2, "validation": 1}
    _, same, failed = guard_rows(fold, rows, index, store, neighbour_m=0.0)
    assert same is rows
    assert [c.name for c in failed if not c.passed] == ["row", "parcel", "series", "validation"]
    with pytest.raises(DataError, match="once leaking rows were left out"):
        guard_rows(fold, learnt([0, 1, 30]), index, store, on_leak="drop")


def targeted(index, target, **changes):
    """Parcels 0–29 are tested on in 2022 (rows 120–149); the target is of 2022 too."""
    return make_fold(index, range(120, 150), target=np.asarray(target, np.int64), **changes)


def test_a_target_of_other_parcels_passes(store):
    checks = check_fold(targeted(store.index(), range(150, 240)), learnt(range(30, 90)), store.index(), store, 0.0)
    assert [c.name for c in checks] == list(ASKS)
    assert all(c.passed for c in checks)


def test_rows_of_the_target_that_are_tested_on_are_found(store):
    index, rows = store.index(), learnt(range(30, 90))
    assert failing(targeted(index, [*range(150, 240), 120, 121]), rows, store, 0.0) == {"target": 2}
    other_year = targeted(index, [*range(150, 240), 3, 4, 5])
    assert failing(other_year, rows, store, 0.0) == {"target": 3}
    assert failing(replace(other_year, official=True), rows, store, 0.0) == {}


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"move_m": 50_000}, 6), ({"noise": 0.01}, 6), ({"noise": 0.01, "move_m": 1.0}, 0)],
    ids=["same series elsewhere", "same place, other series", "neighbours"],
)
@pytest.mark.parametrize("official", [False, True])
def test_tested_parcels_in_the_target_under_another_id_are_found(tmp_path, season, legend, changes, found, official):
    """Rows 120–125 are rows 0–5 under other ids, in the target, while rows 0–29 are tested on."""
    store = planted(tmp_path, season, legend=legend, **changes)
    index = store.index()
    fold = make_fold(index, range(30), target=np.arange(90, 126), official=official)
    rows = learnt(range(30, 90))
    assert failing(fold, rows, store, 0.0) == ({"target": found} if found else {})
    kept, same, checks = guard_rows(fold, rows, index, store, neighbour_m=0.0, on_leak="drop")
    assert kept.target is not None
    assert kept.target.tolist() == list(range(90, 120 if found else 126))
    assert same.labelled.tolist() == rows.labelled.tolist()
    assert {c.name: c.left_out for c in checks if c.left_out} == ({"target": found} if found else {})
    assert all(c.passed for c in checks)


def test_checks_of_many_trainings_are_added_up(store, fold):
    index = store.index()
    clean, leaky = learnt(range(30, 60)), learnt([5, 6, *range(30, 60)])
    parts = [check_fold(fold, rows, index, store, 0.0) for rows in (clean, leaky, leaky)]
    by_name = {c.name: c for c in summarise_checks(c for part in parts for c in part)}
    assert (by_name["parcel"].trainings, by_name["parcel"].failed, by_name["parcel"].found) == (3, 2, 4)
    assert not by_name["parcel"].passed
    assert by_name["series"].passed
    assert str(by_name["parcel"].example).startswith("parcel p5 of ")


def whole(**changes):
    base = {"models": (Contender(name="rf", options={"trees": 4}),), "seeds": (0, 1), "neighbour_m": 0.0,
            "data": DataSection(series="toy")}  # fmt: skip
    return EvaluateRecipe.model_validate({**base, **changes})


def straddling(tmp_path, season, legend):
    """A store where, for seed 0 and 1, a copy lies in an open block and its original in a held-out one."""
    store = planted(tmp_path, season, move_m=2_500, legend=legend, count=40)
    for seed in (0, 1):
        test = set(holdout(store.index(), 0.3, seed, 1.0).test.tolist())
        assert any((row in test) != (120 + row in test) for row in range(40))
    return store


def test_an_evaluation_with_a_leak_trains_nothing_and_says_so(tmp_path, season, legend):
    store = straddling(tmp_path, season, legend)
    asked = []
    with pytest.raises(
        CropgenError, match="training rows leak into the test, so not every training was run: series"
    ) as raised:
        evaluate(whole(), store.path, tmp_path / "out", fit=lambda *a, **k: asked.append(a))
    assert raised.value.exit_code == 1
    assert "--on-leak drop" in str(raised.value.hint)
    document = read_evaluation(tmp_path / "out" / "evaluation.json")
    assert not asked
    assert document.rows == ()
    assert {c.name for c in document.checks if not c.passed} == {"series"}


def test_an_evaluation_goes_on_where_leaks_are_dropped(tmp_path, season, legend):
    store = straddling(tmp_path, season, legend)
    document = read_evaluation(evaluate(whole(on_leak="drop"), store.path, tmp_path / "out"))
    assert len(document.rows) == 2
    assert all(c.passed for c in document.checks)
    assert next(c for c in document.checks if c.name == "series").left_out > 0
