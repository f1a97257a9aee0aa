"""The command that makes an evaluation, from its recipe."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from cropgen.core.recipe import Contender, EvaluateRecipe

_WHERE_DIFFERENT = ("tune", "parts", "neighbour_m", "on_leak", "prior")


def command_line(recipe: EvaluateRecipe) -> str:
    """The words of `cropgen evaluate`; variants of a model become what is varied."""
    groups: dict[str, list[Contender]] = {}
    for model in recipe.models:
        groups.setdefault(model.name, []).append(model)
    words = ["cropgen", "evaluate", "--protocol", recipe.protocol, "--model", ",".join(groups)]
    words += ["--labels", ",".join(recipe.labels), "--seeds", ",".join(map(str, recipe.seeds))]
    words += ["--data", recipe.data.series]
    for option, values in (("--years", recipe.data.years), ("--regions", recipe.data.regions),
                           ("--site", recipe.data.site), ("--until", recipe.until)):  # fmt: skip
        words += [option, ",".join(map(str, values))] if values else []
    words += ["--test-share", f"{recipe.test_share:g}", "--block-km", f"{recipe.block_km:g}"]
    words += ["--unlabelled-target"] if recipe.target_unlabelled else []
    words += _if_different(recipe)
    for name, models in groups.items():
        words += _options("" if len(groups) == 1 else f"{name}.", models)
    return shlex.join(words)


def _if_different(recipe: EvaluateRecipe) -> Iterator[str]:
    """Choices that are seldom made, where they were."""
    data = recipe.data
    named = [(name, getattr(recipe, name), type(recipe).model_fields[name].default) for name in _WHERE_DIFFERENT]
    named += [
        ("calendar", data.calendar, "auto"), ("standardise", data.standardise, "none"),
        ("validation", data.validation_share, 0.0), ("calibrate", recipe.models[0].calibration, "none"),
    ]  # fmt: skip
    for name, value, default in named:
        if value != default:
            yield from (f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value))


def _options(prefix: str, models: Iterable[Contender]) -> Iterator[str]:
    """What is set in all variants of a model, then what is varied."""
    flat = [dict(_flat(model.options)) for model in models]
    for key in dict.fromkeys(key for options in flat for key in options):
        values = list(dict.fromkeys(_word(options[key]) for options in flat if key in options))
        if len(values) == 1 and all(key in options for options in flat):
            yield from ("--set", f"{prefix}{key}={values[0]}")
        else:
            yield from ("--vary", f"{prefix}{key}={','.join(values)}")


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
