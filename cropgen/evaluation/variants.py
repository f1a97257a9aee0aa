"""One model, several option sets: what `--vary` makes of the models that are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cropgen.core.errors import UsageError
from cropgen.core.recipe import Contender, validate
from cropgen.models.base import Options
from cropgen.models.catalog import find, load


def contenders(
    models: Sequence[str], options: Mapping[str, Mapping[str, Any]], vary: Mapping[str, Sequence[Any]]
) -> tuple[Contender, ...]:
    """Every model with every combination of the values that are varied.

    Arguments:
        models: names or aliases of the catalogue.
        options: options that differ from the defaults, nested, by model as named in `models`.
        vary: option → values. `key` is varied in every model that has it, `model.key` in that model alone; further
            dots lead into options inside options.

    Returns:
        In the order of the models, then of the values; a variant is named by what is varied.

    Raises:
        UsageError: a model, an option or a value is unknown, or an option has no value to vary.
    """
    settings = {name: load(find(name)).Settings for name in models}
    axes: dict[str, dict[tuple[str, ...], Sequence[Any]]] = {name: {} for name in models}
    for key, values in vary.items():
        if not values:
            raise UsageError(f"--vary {key}: no value given", hint=f"for example --vary {key}=A,B")
        head, *rest = key.split(".")
        named = head in settings and rest
        path = tuple(rest) if named else (head, *rest)
        having = [head] if named else [name for name in models if _has(settings[name], path)]
        if not having:
            raise UsageError(f"--vary {key}: no option of {', '.join(models)}", hint="see cropgen models NAME")
        for name in having:
            axes[name][path] = values
    return tuple(c for name in models for c in _variants(name, options.get(name, {}), axes[name], settings[name]))


def _variants(
    name: str, options: Mapping[str, Any], axes: Mapping[tuple[str, ...], Sequence[Any]], settings: type[Options]
) -> Iterable[Contender]:
    entry = find(name)
    for values in itertools.product(*axes.values()):
        chosen = dict(options)
        for path, value in zip(axes, values, strict=True):
            chosen = with_option(chosen, path, value)
        validate(settings, chosen, where=f"options of {entry.name}")
        words = (f"{'.'.join(path)}={_word(value)}" for path, value in zip(axes, values, strict=True))
        yield Contender.model_validate({"name": entry.name, "options": chosen, "variant": ", ".join(words)})


def with_option(options: Mapping[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    """Nested options with one of them set."""
    head, *rest = path
    return {**options, head: with_option(options.get(head, {}), rest, value) if rest else value}


def _has(settings: type[Options], path: Sequence[str]) -> bool:
    """Whether options have a field of that path; below a table of options of another model everything may be."""
    head, *rest = path
    if head not in settings.model_fields:
        return False
    default = settings.model_fields[head].default
    return _has(type(default), rest) if rest and isinstance(default, Options) else True


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
