from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cropgen.core import sources
from cropgen.core.errors import DataError, UsageError
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation import plan as planning
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate, lay_out
from cropgen.evaluation.plan import Keys, check_recipe, model_modules, plan
from cropgen.series.store import SeriesStore
from cropgen.training.fit import FitResult

from .test_evaluate_recipe import Nearest, Trainer


def recipe(**changes):
    base = {"models": (Contender(name="rf"),), "seeds": (0,), "data": DataSection(series="toy")}
    return EvaluateRecipe(**{**base, **changes})


def keys(store, **changes):
    wanted = recipe(**changes)
    named = Keys(wanted, store)
    return [named.key(training) for training in plan(wanted, store, store.index())]


class Watcher(Trainer):
    """Also keeps the latest day each training saw."""

    def __call__(self, name, settings, spec, data, *, seed, report):
        self.asked.append((name, spec, data, seed))
        model = Nearest(spec, Nearest.Settings())
        model.prepare(data, None)
        return FitResult(model, {}, 0.5)

    def last_days(self):
        return [int(data.labelled.day[data.labelled.mask].max()) for _, _, data, _ in self.asked]


def test_early_season_trains_for_every_end_and_cuts_the_test_of_the_whole_season(store, tmp_path):
    # the toy's dates are days 40, 70, 100, 130 and 160 after 1 January
    watcher = Watcher()
    found = read_evaluation(
        evaluate(recipe(protocol="early-season", until=("75", "04-11")), store.path, tmp_path / "out", fit=watcher)
    )
    assert watcher.last_days() == [160, 70, 100]
    assert [spec.calendar.count for _, spec, _, _ in watcher.asked] == [5, 2, 3]
    assert [(row.until, row.cut) for row in found.rows] == [
        ("", False), ("75", True), ("04-11", True), ("75", False), ("04-11", False),
    ]  # fmt: skip
    prefix = [c for c in found.contrasts if c.what == "prefix"]
    assert [(c.until, c.cut) for c in prefix] == [("75", True), ("04-11", True)]
    rows = {(row.until, row.cut): row for row in found.rows}
    for contrast in prefix:
        expected = rows[contrast.until, True].macro_f1 - rows[contrast.until, False].macro_f1
        assert contrast.difference == pytest.approx(expected)


def test_early_season_is_standardised_by_what_was_seen(store, tmp_path):
    series = store.read()
    late = series.mask & (series.season_day > 75)
    other = SeriesStore.create(tmp_path / "other" / "series.zarr", bands=store.bands, legend=store.legend)
    level = 0.3 * (series.region == "east")[:, None, None]
    other.append(replace(series, values=(series.values + level * late[..., None]).astype(np.float32)))
    wanted = recipe(
        protocol="early-season", until=("75",), data=DataSection(series="toy", standardise="region-year"),
    )  # fmt: skip
    seen = []
    for path in (store.path, other.path):
        watcher = Watcher()
        found = read_evaluation(evaluate(wanted, path, tmp_path / path.parent.name, fit=watcher))
        seen.append((watcher.asked[1][2].labelled.values, {(row.until, row.cut): row for row in found.rows}))
    (values, rows), (same, others) = seen
    assert torch.equal(values, same)
    assert rows["75", False].nll == others["75", False].nll
    assert rows["", False].nll != others["", False].nll


def test_an_end_before_the_first_observation_fails_alone(store, tmp_path):
    with pytest.raises(DataError, match="labels of at least 2 classes"):
        evaluate(recipe(until=("10",)).model_copy(update={"models": (Contender(name="rf"),)}), store.path,
                 tmp_path / "out", fit=Refuser())  # fmt: skip


class Refuser(Trainer):
    def __call__(self, name, settings, spec, data, *, seed, report):
        raise DataError("labels of at least 2 classes are needed", hint="bring some")


def test_the_target_is_trained_with_and_without(store, tmp_path):
    trainer = Trainer()
    models = (Contender(name="tgem"), Contender(name="tempcnn"), Contender(name="rf"))
    trained = recipe(protocol="cross-year", models=models, target_unlabelled=True, labels=("50%",))
    found = read_evaluation(evaluate(trained, store.path, tmp_path / "out", fit=trainer))
    assert [(r.model, r.target_unlabelled) for r in found.rows if (r.train, r.test, r.scope)
            == ("2021", "2022", "held-out")] == [("tgem", False), ("tempcnn", False), ("rf", False),
                                                 ("tgem", True), ("tempcnn", True)]  # fmt: skip
    tgem, tempcnn = [data for name, _, data, _ in trainer.asked[6:8]]
    assert len(tgem.target) == next(r.n_target for r in found.rows if r.target_unlabelled) > 50
    assert (tgem.target.y == -1).all()
    assert tempcnn.target is None
    assert len(tempcnn.unlabelled) == len(tgem.unlabelled) + len(tgem.target)
    assert {c.model for c in found.contrasts if c.what == "target"} == {"tgem", "tempcnn"}


def test_variants_stand_side_by_side(store, tmp_path):
    models = tuple(Contender(name="rf", options={"trees": n}, variant=f"trees={n}") for n in (5, 9))
    found = read_evaluation(evaluate(recipe(protocol="ablation", models=models), store.path, tmp_path / "out",
                                     fit=Trainer()))  # fmt: skip
    assert [(row.model, row.variant) for row in found.rows] == [("rf", "trees=5"), ("rf", "trees=9")]
    (gain,) = found.contrasts
    assert (gain.what, gain.variant, gain.against_variant, gain.difference) == ("model", "trees=9", "trees=5", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "early-season"}, "needs ends of the season"),
        ({"protocol": "ablation"}, "needs options to compare"),
        ({"until": ("June",)}, "expected a day as MM-DD"),
        ({"models": (Contender(name="rf"), Contender(name="rf"))}, "rf is named twice"),
        ({"models": ()}, "no model is named"),
        ({"seeds": (0, 1, 0)}, "seed 0 is named twice"),
        ({"seeds": ()}, "no seed is named"),
        ({"labels": ("10%", "10%")}, "label share 10% is named twice"),
        ({"until": ("90", "90")}, "end of the season 90 is named twice"),
        ({"data": DataSection(series="toy", site=("lat",))}, "no model here takes site covariates"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        check_recipe(recipe(**changes))


def test_a_key_holds_what_decides_and_no_more(store):
    plain = keys(store)
    assert plain == keys(store)
    assert keys(store, data=DataSection(series="elsewhere")) == plain
    assert keys(store, seeds=(0, 1))[:1] == plain
    assert keys(store, labels=("100%", "10%"))[0] == plain[0]
    assert keys(store, models=(Contender(name="tgem"), Contender(name="rf")))[1:] == plain
    assert keys(store, protocol="cross-year", parts=7) == keys(store, protocol="cross-year")
    for changes in (
        {"seeds": (1,)}, {"labels": ("10%",)}, {"models": (Contender(name="rf", options={"trees": 9}),)},
        {"test_share": 0.5}, {"block_km": 0.5}, {"tune": 2}, {"on_leak": "drop"}, {"until": ("75",)},
        {"data": DataSection(series="toy", calendar="month")}, {"protocol": "label-curve"},
    ):  # fmt: skip
        assert plain[0] not in keys(store, **changes), changes


def edited(monkeypatch, module):
    """Pretend that the source of a module has changed."""
    changed, real = sources._file_of(module), sources.Path.read_text
    monkeypatch.setattr(
        sources.Path,
        "read_text",
        lambda path, **how: real(path, **how) + "\nchanged = True\n" * (path == changed),
    )


@pytest.mark.parametrize(
    ("module", "rf", "tgem"),
    [
        ("cropgen.models.classical.rf", True, False),
        ("cropgen.models.layers.tied_fit", False, True),
        ("cropgen.training.data", True, True),
        ("cropgen.evaluation.score", True, True),
        ("cropgen.evaluation.leaks", True, True),
        ("cropgen.evaluation.report", False, False),
        ("cropgen.evaluation.contrasts", False, False),
        ("cropgen.evaluation.evaluate", False, False),
        ("cropgen.models.catalog", False, False),
        ("cropgen.cli.render", False, False),
        ("cropgen.imagery.zonal", False, False),
    ],
)
def test_only_code_that_decides_trains_again(store, monkeypatch, module, rf, tgem):
    both = {"models": (Contender(name="rf"), Contender(name="tgem"))}
    before = keys(store, **both)
    edited(monkeypatch, module)
    assert [a != b for a, b in zip(before, keys(store, **both), strict=True)] == [rf, tgem]


def test_models_named_by_options_count():
    assert model_modules(Contender(name="pool")) == {
        "cropgen.models.pool", "cropgen.models.flows.realnvp", "cropgen.models.discriminative.tempcnn"
    }  # fmt: skip
    assert "cropgen.models.classical.tgem" in model_modules(Contender(name="pool", options={"generative": "tgem"}))
    assert "cropgen.models.flows.realnvp" in model_modules(Contender(name="pool", options={"generative": "flow"}))
    for name in planning._DECIDES + planning._ONLY_NAMES:
        assert sources._file_of(name).is_file()


def test_trainings_are_laid_out_seed_by_seed_and_described(store):
    table = lay_out(recipe(protocol="leave-one-year-out", seeds=(0, 1), until=("75",)), store.path)
    said = [training.describe() for training in table.trainings]
    assert [(s["seed"], s["train"], s["until"]) for s in said[:4]] == [
        (0, "all but 2021", ""), (0, "all but 2021", "75"), (0, "all but 2022", ""), (0, "all but 2022", "75"),
    ]  # fmt: skip
    assert [(t["test"], t["scope"], t["until"], t["cut"]) for t in said[0]["tests"]] == [
        ("2021", "held-out", "", False), ("2021", "all", "", False), ("2021", "held-out", "75", True),
    ]  # fmt: skip
    assert len(set(table.keys)) == len(table.keys) == 8


def test_labels_of_a_curve_are_nested(store, tmp_path):
    trainer = Trainer()
    evaluate(recipe(protocol="label-curve", labels=("10%", "50%", "100%")), store.path, tmp_path / "out", fit=trainer)
    seen = [{row.tobytes() for row in np.asarray(data.labelled.values)} for _, _, data, _ in trainer.asked]
    assert len(seen[0]) < len(seen[1]) < len(seen[2])
    assert len(seen[0] & seen[1]) >= 0.8 * len(seen[0])
