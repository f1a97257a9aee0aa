from __future__ import annotations

import itertools
import shlex

from cropgen.cli.options import parse_settings, parse_vary, split_list
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.command import command_line
from cropgen.evaluation.variants import contenders


def values_of(words: list[str], option: str) -> list[str]:
    return [after for word, after in itertools.pairwise(words) if word == option]


def test_variants_can_be_read_back():
    options = {"rf": {"balanced": True}, "realnvp": {"tied": {"em": "off"}}}
    models = contenders(["rf", "realnvp"], options, {"rf.trees": [5, 9], "rf.smallest_leaf": [1, 2]})
    recipe = EvaluateRecipe(models=models, protocol="cross-year", until=("60", "06-30"), target_unlabelled=True, tune=3,
                            data=DataSection(series="toy", site=("lon", "lat"), calendar="month",
                                              validation_share=0.2))  # fmt: skip
    words = shlex.split(command_line(recipe))
    names = split_list(values_of(words, "--model")[0])
    again = contenders(names, parse_settings(values_of(words, "--set")), parse_vary(values_of(words, "--vary")))
    assert again == models
    assert "--unlabelled-target" in words
    for option, value in (
        ("--until", "60,06-30"),
        ("--site", "lon,lat"),
        ("--tune", "3"),
        ("--calendar", "month"),
        ("--validation", "0.2"),
    ):
        assert values_of(words, option) == [value]
    assert not values_of(words, "--on-leak")


def test_one_model_needs_no_prefix():
    recipe = EvaluateRecipe(models=(Contender(name="rf", options={"trees": 5}),), data=DataSection(series="toy"))
    assert command_line(recipe).endswith("--set trees=5")
