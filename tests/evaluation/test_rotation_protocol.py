"""What crop rotations can know in an evaluation across years."""

from __future__ import annotations

from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate


def test_the_past_of_open_parcels_is_known_and_that_of_held_out_ones_is_not(store, tmp_path):
    """Parcels grow one crop in both years, so `previous` tells those that were learnt from."""
    contender = Contender(name="rotation", options={"mode": "previous"})
    recipe = EvaluateRecipe(
        protocol="cross-year", models=(contender,), labels=("100%",), seeds=(0,), block_km=1.0,
        data=DataSection(series="toy"),
    )  # fmt: skip
    document = read_evaluation(evaluate(recipe, store.path, tmp_path / "run"))
    accuracy = {(row.train, row.test, row.scope): row.accuracy for row in document.rows}
    assert accuracy["2021", "2022", "held-out"] < 0.6
    assert accuracy["2021", "2022", "all"] > accuracy["2021", "2022", "held-out"] + 0.2
    assert accuracy["2021", "2022", "all"] > 0.7
