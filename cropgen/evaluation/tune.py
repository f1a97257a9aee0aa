"""Options chosen on validation rows, with the same budget for every model.

Trial 0 has the defaults; the others are drawn without repetition from the values that the model's options list under
`search`, by a seed of their own for every model. What the user has set stays as set. The test rows take no part: the
validation rows are whole spatial blocks inside the training rows, or those that a published protocol keeps for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from cropgen.core.errors import CropgenError
from cropgen.core.progress import Reporter
from cropgen.core.recipe import Contender
from cropgen.evaluation.document import Trial
from cropgen.evaluation.learn import Fit, Material, learn
from cropgen.metrics.calibration import negative_log_likelihood
from cropgen.metrics.classification import confusion_matrix, macro_f1
from cropgen.models.base import Options
from cropgen.models.catalog import find, load
from cropgen.prediction.infer import infer
from cropgen.series.store import SeriesStore

_DRAW_STREAM = 0x70E5
_FLOOR = -30.0


def search_space(settings: type[Options], fixed: Iterable[str] = ()) -> dict[str, list[Any]]:
    """Name of every option that may be searched → its values.

    Arguments:
        fixed: options the user has set; they are not searched.
    """
    listed = {name: field.json_schema_extra for name, field in settings.model_fields.items() if name not in set(fixed)}
    return {name: cast("list[Any]", x["search"]) for name, x in listed.items() if isinstance(x, dict) and "search" in x}


def option_sets(model: Contender, budget: int, seed: int) -> list[dict[str, Any]]:
    """The option sets that a model may try: at most `budget`, all different, those set by the user first."""
    settings = load(find(model.name)).Settings
    space = search_space(settings, model.options)
    sizes = [len(values) for values in space.values()]
    plain = settings.model_validate(model.options)
    found, seen = [model.options], [plain]
    for number in _draws(math.prod(sizes), find(model.name).name, seed):
        if len(found) >= budget:
            break
        places = np.unravel_index(number, sizes)
        drawn = {name: values[int(k)] for (name, values), k in zip(space.items(), places, strict=True)}
        options = model.options | drawn
        if (checked := settings.model_validate(options)) not in seen:
            found.append(options)
            seen.append(checked)
    return found


def _draws(count: int, name: str, seed: int) -> Iterator[int]:
    """Every number below `count` once, in a seeded order that depends on the model's name."""
    draw = np.random.default_rng([seed, _DRAW_STREAM, *name.encode()])
    yield from (int(number) for number in draw.permutation(count))


def tune(
    model: Contender, budget: int, material: Material, store: SeriesStore, seed: int, fit: Fit, report: Reporter
) -> tuple[dict[str, Any], tuple[Trial, ...]]:
    """Try option sets on validation rows.

    Arguments:
        budget: option sets tried at most.
        material: `data.validation` judges.

    Returns:
        The options chosen and every trial.

    Raises:
        CropgenError: no trial came to an end.
    """
    trials: list[Trial] = []
    sets = option_sets(model, budget, seed)
    with report.task(f"tuning {model.name}", len(sets)) as task:
        for options in sets:
            try:
                trials.append(_trial(model, options, material, store, seed, fit, report))
            except CropgenError as error:
                report.warn(f"{model.name} with {options}: {error.message}; not chosen")
                trials.append(Trial(options=options, macro_f1=None, nll=None, seconds=0.0))
            task.advance()
    ended = [trial for trial in trials if trial.macro_f1 is not None]
    if not ended:
        raise CropgenError(f"none of {len(trials)} option sets of {model.name} could be trained", hint="see above")
    return max(ended, key=_merit).options, tuple(trials)


def _merit(trial: Trial) -> tuple[float, float]:
    return trial.macro_f1 or 0.0, -(trial.nll or 0.0)


def _trial(
    model: Contender, options: dict[str, Any], material: Material, store: SeriesStore, seed: int, fit: Fit,
    report: Reporter,
) -> Trial:  # fmt: skip
    validation = material.data.validation
    if validation is None:
        raise CropgenError("no validation rows to tune on", hint="use more labels or smaller blocks")
    learnt = learn(model.model_copy(update={"options": options}), material, store, seed, fit, report)
    known = validation.y_mask
    probability = infer(learnt.result.model, validation.take(known)).probability
    true = validation.y[known].numpy()
    log_posterior = np.maximum(np.log(np.maximum(probability, np.finfo(float).tiny)), _FLOOR)
    confusion = confusion_matrix(true, probability.argmax(1), probability.shape[1])
    return Trial(
        options=options, macro_f1=float(macro_f1(confusion)), nll=negative_log_likelihood(log_posterior, true),
        seconds=round(learnt.result.seconds, 3),
    )  # fmt: skip
