from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from pydantic import Field

from cropgen.core.errors import CropgenError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation import tune as tuning
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.tune import option_sets, search_space
from cropgen.evaluation.variants import contenders
from cropgen.models.base import Options
from cropgen.models.catalog import CATALOG, find, load
from cropgen.training.fit import FitResult

from .test_evaluate_recipe import Nearest, Trainer


class Knobs(Options):
    width: int = Field(8, description="w", json_schema_extra={"search": [4, 8, 16]})
    rate: float = Field(0.1, description="r", json_schema_extra={"search": [0.1, 0.3]})
    steps: int = Field(3, description="not searched")


class Tunable(Nearest):
    """Worse by as much as `width` departs from 16: its centres are moved."""

    Settings = Knobs
    moved: ClassVar[float] = 0.0


@pytest.fixture
def knobs(monkeypatch):
    monkeypatch.setattr(tuning, "load", lambda entry: Tunable)


def test_the_space_is_what_the_options_list():
    assert search_space(Knobs) == {"width": [4, 8, 16], "rate": [0.1, 0.3]}
    assert search_space(Knobs, {"width": 9}) == {"rate": [0.1, 0.3]}


def test_defaults_come_first_and_nothing_twice(knobs):
    model = Contender(name="rf")
    found = option_sets(model, 100, 0)
    assert found[0] == {}
    resolved = [Knobs.model_validate(options) for options in found]
    assert len({(k.width, k.rate) for k in resolved}) == len(found) == 6
    assert option_sets(model, 4, 0) == found[:4]
    assert option_sets(model, 1, 0) == [{}]
    assert option_sets(model, 100, 1) != found
    fixed = option_sets(Contender(name="rf", options={"width": 5}), 100, 0)
    assert fixed[0] == {"width": 5}
    assert len(fixed) == 2
    assert all(options["width"] == 5 for options in fixed)


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_every_model_can_be_tuned_around_its_defaults(entry):
    try:
        settings = load(find(entry.name)).Settings
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    space = search_space(settings)
    assert space
    for name, values in space.items():
        assert settings.model_fields[name].get_default(call_default_factory=True) in values
        assert len(values) == len(set(map(str, values))) > 1
        for value in values:
            settings.model_validate({name: value})


class Judge(Trainer):
    """Widths other than 16 cost accuracy; width 4 cannot be trained."""

    def __call__(self, name, settings, spec, data, *, seed, report):
        knobs = Knobs.model_validate(settings)
        self.asked.append((knobs, spec, data, seed))
        if knobs.width == 4:
            raise CropgenError("diverged")
        model = Tunable(spec, knobs)
        model.prepare(data, None)
        model.centre = model.centre + 0.05 * (16 - knobs.width) / 8
        return FitResult(model, {}, 0.25)


def test_the_best_on_validation_rows_is_fitted_again_on_all(store, tmp_path, knobs, monkeypatch):
    monkeypatch.setattr("cropgen.evaluation.plan.load", lambda entry: Tunable)
    judge, report = Judge(), Silent()
    recipe = EvaluateRecipe(models=(Contender(name="rf"),), seeds=(0,), tune=6, data=DataSection(series="toy"))
    found = read_evaluation(evaluate(recipe, store.path, tmp_path / "out", fit=judge, report=report))
    (record,) = found.tuning
    (row,) = found.rows
    assert record.chosen["width"] == 16
    assert len(record.trials) == 6
    assert sum(trial.macro_f1 is None for trial in record.trials) == 2
    assert sum("diverged; not chosen" in text for text in report.warnings) == 2
    best = max(trial.macro_f1 for trial in record.trials if trial.macro_f1 is not None)
    assert best == next(t.macro_f1 for t in record.trials if t.options == record.chosen)
    *trials, (knobs_used, _, last, _) = judge.asked
    assert knobs_used.width == 16
    assert last.validation is None
    assert len(last.labelled) == row.n_labelled
    test = {v.tobytes() for v in store.read().values[np.isin(np.arange(240), _tested(found, store))]}
    for _, _, data, _ in trials:
        assert len(data.validation) == record.n_validation > 0
        assert len(data.labelled) + len(data.validation) <= row.n_labelled + 1
        assert not {v.tobytes() for v in data.validation.values.numpy()} & test
        assert not {v.tobytes() for v in data.validation.values.numpy()} & {
            v.tobytes() for v in data.labelled.values.numpy()
        }
    assert found.details[0].facts["tuned"] == record.chosen


def _tested(found, store):
    from cropgen.evaluation.evaluate import lay_out

    (training,) = lay_out(found.recipe, store.path).trainings
    return training.fold.tests[0].rows


def test_variants_are_every_combination():
    found = contenders(["rf"], {"rf": {"balanced": True}}, {"trees": [5, 9], "rf.smallest_leaf": [1, 2]})
    assert [(c.name, c.variant) for c in found] == [
        ("rf", "trees=5, smallest_leaf=1"), ("rf", "trees=5, smallest_leaf=2"),
        ("rf", "trees=9, smallest_leaf=1"), ("rf", "trees=9, smallest_leaf=2"),
    ]  # fmt: skip
    assert found[3].options == {"balanced": True, "trees": 9, "smallest_leaf": 2}


def test_an_option_is_varied_in_the_models_that_have_it():
    found = contenders(["rf", "dvae", "tgem"], {}, {"hidden": [8, 16], "tgem.em": ["off", "on"]})
    assert [(c.name, c.variant) for c in found] == [
        ("rf", ""), ("srnn", "hidden=8"), ("srnn", "hidden=16"), ("tgem", "em=off"), ("tgem", "em=on"),
    ]  # fmt: skip
    (nested,) = contenders(["realnvp"], {}, {"tied.em": ["off"]})
    assert nested.options == {"tied": {"em": "off"}}


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"tree": [1, 2]}, "--vary tree: no option of rf, tgem"),
        ({"trees": []}, "no value given"),
        ({"trees": [0]}, r"options of rf: trees: .* greater than or equal to 1"),
        ({"tgem.trees": [3]}, "trees"),
    ],
)
def test_what_cannot_be_varied_is_refused(vary, message):
    with pytest.raises(UsageError, match=message):
        contenders(["rf", "tgem"], {}, vary)
