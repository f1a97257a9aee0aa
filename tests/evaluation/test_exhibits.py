from __future__ import annotations

import numpy as np
import pytest

from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.exhibits import MISTAKES, quantity_of, shown


def test_the_index_is_that_of_the_two_bands():
    values = np.array([[0.1, 0.5, 0.3], [0.0, 0.0, 0.0]])
    assert shown(values, ("B04", "B08", "B02"))[0] == pytest.approx(0.4 / 0.6)
    assert np.isnan(shown(values, ("B04", "B08", "B02"))[1])
    assert shown(values, ("B02", "B03", "B11")).tolist() == [0.1, 0.0]
    assert (quantity_of(("B04", "B8A")), quantity_of(("B02", "B03"))) == ("NDVI", "B02")


def test_growth_and_mistakes_are_those_of_the_store(store, tmp_path):
    recipe = EvaluateRecipe(
        protocol="cross-year", seeds=(0,), data=DataSection(series="toy"),
        models=(Contender(name="lda"), Contender(name="rf", options={"trees": 5})),
    )  # fmt: skip
    document = read_evaluation(evaluate(recipe, store.path, tmp_path / "out"))
    index, crops = store.index(), document.exhibits.phenology
    assert {one.model for one in crops} == {"lda"}
    for one in crops:
        low, middle, high = (np.array(line, float) for line in one.observed)
        assert (low[np.isfinite(low)] <= middle[np.isfinite(low)]).all()
        assert (middle[np.isfinite(low)] <= high[np.isfinite(low)]).all()
        assert len(one.day) == len(one.generated[0])
    for model in ("lda", "rf"):
        mine = [m for m in document.exhibits.mistakes if m.model == model]
        assert len(mine) <= MISTAKES
        assert [m.probability for m in mine] == sorted((m.probability for m in mine), reverse=True)
    for case in document.exhibits.mistakes:
        (row,) = np.flatnonzero((index["parcel_id"] == case.parcel_id) & (index["year"] == case.year))
        assert index["label"].iloc[row] == case.true != case.predicted
        assert case.value == pytest.approx(shown(store.read([row]).values[0], store.bands), abs=1e-4)
