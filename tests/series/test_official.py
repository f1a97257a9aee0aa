from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cropgen.core.errors import DataError, MissingInputError, SchemaError, UsageError
from cropgen.series.legend import Legend
from cropgen.series.official import (
    OfficialProtocol,
    find_official,
    official_protocols,
    official_rows,
    rows_digest,
    split_path,
)
from cropgen.series.schema import ParcelSeries
from cropgen.series.splits import Split
from cropgen.series.store import SeriesStore

INDEX = pd.DataFrame({"year": [2017, 2017, 2018, 2018, 2018], "region": ["a", "b", "a", "b", "b"]})
FOLD = {"name": "fold1", "title": "a to b", "train": {"regions": ["a"]}, "test": {"regions": ["b"], "years": [2018]}}


def rows_of(found):
    return [part.tolist() for part in (found.train, found.validation, found.test)]


def test_sides_are_years_and_regions():
    protocol = OfficialProtocol.from_json(FOLD)
    assert rows_of(protocol.rows(INDEX)) == [[0, 2], [], [3, 4]]
    assert OfficialProtocol.from_json(protocol.to_json()) == protocol


def test_validation_rows_are_not_learnt_from():
    protocol = OfficialProtocol.from_json({**FOLD, "validation": {"years": [2018], "regions": ["a"]}})
    assert rows_of(protocol.rows(INDEX)) == [[0], [2], [3, 4]]


def test_a_published_list_narrows_the_sides():
    protocol = OfficialProtocol.from_json({"name": "shots-1", "title": "x", "test": {"years": [2018]}, "split": "s1"})
    split = Split(np.array([0, 2]), np.array([1, 4]), {}, np.array([3]))
    assert rows_of(protocol.rows(INDEX, split)) == [[0, 2], [3], [4]]
    with pytest.raises(SchemaError, match="its split s1 was not given"):
        protocol.rows(INDEX)
    with pytest.raises(SchemaError, match="names row 9 of a store of 5"):
        protocol.rows(INDEX, Split(np.array([0]), np.array([9]), {}))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"test": {"regions": ["c"]}}, DataError, "fold1 needs region c; the store has a, b"),
        ({"test": {"years": [2019]}}, DataError, "fold1 needs year 2019; the store has 2017, 2018"),
        ({"test": {}}, SchemaError, "learnt from and tested on"),
        ({"validation": {"regions": ["a"]}}, DataError, "no row to train on"),
    ],
)
def test_what_does_not_fit_is_said(change, error, message):
    with pytest.raises(error, match=message):
        OfficialProtocol.from_json({**FOLD, **change}).rows(INDEX)


def test_classes_can_be_fewer_and_merged():
    legend = Legend.from_codes("toy", ["maize", "rice", "wheat_s", "wheat_w"])
    plain = OfficialProtocol.from_json(FOLD).legend(legend)
    assert plain[0] == legend
    assert plain[1].tolist() == [0, 1, 2, 3]
    fewer, place = OfficialProtocol.from_json({**FOLD, "classes": ["rice", "maize"]}).legend(legend)
    assert fewer.codes == ("rice", "maize")
    assert place.tolist() == [1, 0, -1, -1]
    merged = {**FOLD, "merge": {"wheat": ["wheat_*"], "other": ["*"]}, "classes": ["maize", "wheat_s", "wheat_w"]}
    groups, place = OfficialProtocol.from_json(merged).legend(legend)
    assert groups.codes == ("wheat", "other")
    assert place.tolist() == [1, -1, 0, 0]
    with pytest.raises(SchemaError, match="class soy is not in legend toy: maize, rice"):
        OfficialProtocol.from_json({**FOLD, "classes": ["soy"]}).legend(legend)
    with pytest.raises(SchemaError, match="no class of legend toy becomes soy"):
        OfficialProtocol.from_json({**FOLD, "merge": {"soy": ["soy*"]}}).legend(legend)


def test_a_store_brings_its_protocols_and_splits(tmp_path):
    listed = {"name": "shots-1", "title": "x", "split": "s1"}
    path = tmp_path / "toy" / "series.zarr"
    store = SeriesStore.create(
        path, bands=("B04",), legend=Legend.from_codes("toy", ["a"]), source={"protocols": [FOLD, listed]}
    )
    assert [p.name for p in official_protocols(store)] == ["fold1", "shots-1"]
    with pytest.raises(UsageError, match="unknown protocol 'fold2'; this data set brings fold1, shots-1") as wrong:
        find_official(store, "fold2")
    assert wrong.value.hint == "did you mean fold1?"
    protocol = find_official(store, "shots-1")
    with pytest.raises(MissingInputError, match=r"s1\.json"):
        official_rows(store, protocol, INDEX)
    Split(np.array([0]), np.array([1]), {"source": "published"}, np.array([2])).save(split_path(path, "s1"))
    assert rows_of(official_rows(store, protocol, INDEX)) == [[0], [2], [1]]


def test_a_split_made_for_other_rows_is_refused(tmp_path):
    def made(name, ids):
        series = ParcelSeries.build(
            bands=("B04",), values=np.zeros((len(ids), 1, 1)), mask=np.ones((len(ids), 1), bool),
            day=np.full((len(ids), 1), 18_700), parcel_id=ids, year=2021, region="r",
        )  # fmt: skip
        store = SeriesStore.create(tmp_path / name, bands=("B04",), legend=Legend.from_codes("toy", ["a"]))
        store.append(series)
        return store

    one, two = made("one.zarr", ["a", "b", "c"]), made("two.zarr", ["a", "c", "b"])
    protocol = OfficialProtocol.from_json({"name": "shots-1", "title": "x", "split": "s1"})
    facts = {"source": "published", "rows_digest": rows_digest(one)}
    Split(np.array([0]), np.array([1]), facts, np.array([2])).save(split_path(one.path, "s1"))
    assert rows_of(official_rows(one, protocol, one.index())) == [[0], [2], [1]]
    with pytest.raises(SchemaError, match=r"s1\.json was made for other rows than those of .*two\.zarr"):
        official_rows(two, protocol, two.index())


def test_wrong_tables_are_named():
    with pytest.raises(UsageError, match=r"protocol fold1: train\.region: "):
        OfficialProtocol.from_json({**FOLD, "train": {"region": ["a"]}})
    with pytest.raises(UsageError, match="title"):
        OfficialProtocol.from_json({"name": "x"})
