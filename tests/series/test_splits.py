"""Splits are disjoint, seeded and nested, and blocks keep neighbours together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError, UsageError
from cropgen.series.splits import (
    LabelShare,
    Selection,
    Split,
    holdout,
    label_subset,
    select_rows,
    spatial_blocks,
)

LABELS = st.lists(st.integers(-1, 4), max_size=200).map(lambda v: np.array(v, np.int32))


def index(n: int = 400, years: int = 2, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    lon, lat = draw.random(n) * 0.2 + 3, draw.random(n) * 0.2 + 50
    return pd.DataFrame(
        {
            "parcel_id": [f"p{i}" for i in range(n)] * years,
            "year": np.repeat(np.arange(2020, 2020 + years), n),
            "region": np.where(np.tile(lon, years) < 3.1, "west", "east"),
            "label": draw.integers(-1, 3, n * years),
            "lon": np.tile(lon, years),
            "lat": np.tile(lat, years),
        }
    )


def test_selection() -> None:
    table = pd.DataFrame({"year": [2020, 2021, 2020], "region": ["a", "a", "b"], "label": [0, 1, -1]})
    assert select_rows(table, Selection()).tolist() == [0, 1, 2]
    assert select_rows(table, Selection(years=(2020,))).tolist() == [0, 2]
    assert select_rows(table, Selection(years=(2020, 2021), regions=("a",))).tolist() == [0, 1]
    assert select_rows(table, Selection(classes=(1, 7))).tolist() == [1]
    with pytest.raises(DataError, match="no parcels of year 1999; there are: 2020, 2021"):
        select_rows(table, Selection(years=(2020, 1999)))
    with pytest.raises(DataError, match="no parcels of region c; there are: a, b"):
        select_rows(table, Selection(regions=("c",)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10%", 0.1), (" 0.1 ", 0.1), ("100%", 1.0), ("1", 1.0), ("0.5%", 0.005), ("50/class", 50)],
)
def test_label_share_is_read(text: str, expected: float) -> None:
    share = LabelShare.parse(text)
    assert (share.share if share.share is not None else share.per_class) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "ten", "0", "0%", "1.5", "101%", "-1%", "0/class", "2.5/class", "nan", "inf%", "%"]
)
def test_label_share_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="label share"):
        LabelShare.parse(text)


@settings(deadline=None)
@given(LABELS, st.integers(0, 5))
def test_label_subsets_are_nested_and_stratified(label: np.ndarray, seed: int) -> None:
    before: set[int] = set()
    for fraction in ("1%", "5%", "0.1", "50%", "100%"):
        chosen = label_subset(label, fraction, seed)
        assert (np.diff(chosen) > 0).all()
        assert before <= set(chosen.tolist())
        before = set(chosen.tolist())
        share = LabelShare.parse(fraction).share or 0.0
        for value in range(5):
            there = int((label == value).sum())
            assert (label[chosen] == value).sum() == min(there, max(2, round(share * there)))
    assert before == set(np.flatnonzero(label >= 0).tolist())


def test_number_per_class_is_nested_too() -> None:
    label = np.repeat([0, 1, 2], [100, 30, 1])
    chosen = {n: label_subset(label, f"{n}/class", 3) for n in (1, 5, 50)}
    assert np.bincount(label[chosen[1]]).tolist() == [1, 1, 1]
    assert np.bincount(label[chosen[50]]).tolist() == [50, 30, 1]
    assert set(chosen[1]) < set(chosen[5]) < set(chosen[50])


def test_a_draw_depends_on_the_seed_and_not_on_other_classes() -> None:
    label = np.repeat([0, 1], 200)
    a, b = label_subset(label, "10%", 0), label_subset(label, "10%", 1)
    assert a.tolist() != b.tolist()
    assert label_subset(label, "10%", 0).tolist() == a.tolist()
    alone = label_subset(np.where(label == 1, -1, 0), "10%", 0)
    assert alone.tolist() == a[a < 200].tolist()


def test_blocks_have_their_size() -> None:
    draw = np.random.default_rng(0)
    lon, lat = 3 + draw.random(3000) * 0.3, 50 + draw.random(3000) * 0.2
    block = spatial_blocks(lon, lat, 5.0, seed=1)
    assert sorted(set(block.tolist())) == list(range(block.max() + 1))
    east = np.deg2rad(lon) * 6371 * np.cos(np.deg2rad(50.1))
    north = np.deg2rad(lat) * 6371
    for value in range(block.max() + 1):
        inside = block == value
        assert np.ptp(east[inside]) < 5.05
        assert np.ptp(north[inside]) < 5.05
    assert 20 <= block.max() + 1 <= 48
    assert (spatial_blocks(lon, lat, 5.0, seed=1) == block).all()
    assert (spatial_blocks(lon, lat, 5.0, seed=2) != block).any()


def test_points_without_a_place_are_blocks_of_their_own() -> None:
    block = spatial_blocks(np.array([3.0, np.nan, 3.0001, 4.0]), np.array([50.0, 50.0, 50.0, np.nan]), 10.0)
    assert block[0] == block[2] == 0
    assert block[[1, 3]].tolist() == [1, 2]
    assert spatial_blocks(np.zeros(0), np.zeros(0), 1.0).tolist() == []
    with pytest.raises(UsageError, match="block size"):
        spatial_blocks(np.zeros(1), np.zeros(1), 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_holdout_shares_no_parcel_and_no_block(seed: int) -> None:
    table = index(seed=seed)
    split = holdout(table, 0.3, seed, block_km=2.0)
    assert sorted([*split.train, *split.test]) == list(range(len(table)))
    parcels = table["parcel_id"].to_numpy()
    assert not set(parcels[split.train]) & set(parcels[split.test])
    block = spatial_blocks(table["lon"].to_numpy(), table["lat"].to_numpy(), 2.0, seed)
    assert not set(block[split.train]) & set(block[split.test])
    labelled = table["label"].to_numpy() >= 0
    assert labelled[split.test].sum() / labelled.sum() == pytest.approx(0.3, abs=0.04)
    assert labelled[split.test].sum() >= 0.3 * labelled.sum()
    assert split.test.tolist() == holdout(table, 0.3, seed, 2.0).test.tolist()
    assert split.test.tolist() != holdout(table, 0.3, seed + 1, 2.0).test.tolist()


def test_holdout_keeps_the_years_of_a_parcel_together_without_places() -> None:
    table = index(40)
    table[["lon", "lat"]] = np.nan
    split = holdout(table, 0.5, 0, block_km=1.0)
    parcels = table["parcel_id"].to_numpy()
    assert len(split.test) == 40 or abs(len(split.test) - 40) <= 4
    assert not set(parcels[split.train]) & set(parcels[split.test])


def test_holdout_leaves_a_block_to_train_on() -> None:
    table = index(50)
    assert len(holdout(table, 1.0, 0, block_km=2.0).train) > 0
    with pytest.raises(DataError, match="lie in one block"):
        holdout(table.iloc[[0, 50]], 0.3, 0, block_km=50.0)


def test_split_on_disk(tmp_path: Path) -> None:
    split = holdout(index(60), 0.3, 0, 3.0)
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json")
    assert loaded.train.tolist() == split.train.tolist()
    assert loaded.test.tolist() == split.test.tolist()
    assert loaded.facts == split.facts
    with pytest.raises(MissingInputError):
        Split.load(tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CorruptInputError):
        Split.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(SchemaError):
        Split.load(tmp_path / "bad.json")
