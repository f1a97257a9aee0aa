"""Recipes round-trip and complain in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe, ModelSection, TrainRecipe


def train_recipe() -> TrainRecipe:
    return TrainRecipe(
        seed=3,
        data=DataSection(series="data/a/series.zarr", years=(2021, 2022), labels="50/class"),
        model=ModelSection(name="srnn", options={"steps": 10, "tied": {"em": "off"}}),
    )


def test_round_trip(tmp_path: Path) -> None:
    recipe = train_recipe()
    recipe.write(tmp_path / "r.toml")
    assert TrainRecipe.read(tmp_path / "r.toml") == recipe
    evaluation = EvaluateRecipe(models=(Contender(name="rf"),), data=recipe.data, protocol="cross-year")
    evaluation.write(tmp_path / "e.toml")
    assert EvaluateRecipe.read(tmp_path / "e.toml") == evaluation


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = -1\n[data]\nseries = 'a'", "seed"),
        ("sede = 1\n[data]\nseries = 'a'", "sede"),
        ("[data]\nseries = 'a'\nyear = [2021]", "data.year"),
        ("seed = 1", "data"),
        ("seed = = 1", "not TOML"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        TrainRecipe.read(path)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="recipe not found"):
        TrainRecipe.read(tmp_path / "none.toml")
