from __future__ import annotations

import json

import pytest

from cropgen.core.engine import Engine
from cropgen.core.errors import DataError, UnfinishedError
from cropgen.core.progress import Silent
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate

from . import fits

TIMELESS = {"seconds": 0.0, "predict_seconds": 0.0, "peak_mb": None}


def forests(*trees, **changes):
    models = tuple(Contender(name="rf", options={"trees": n}, variant=f"trees={n}") for n in trees)
    return EvaluateRecipe(models=models, seeds=(0,), data=DataSection(series="toy"), **changes)


def plain(document):
    rows = tuple(row.model_copy(update=TIMELESS) for row in document.rows)
    return document.model_copy(update={"rows": rows, "provenance": {}})


@pytest.mark.slow
@pytest.mark.parametrize("engine", [Engine("processes", 2), Engine("dask", 2)], ids=lambda engine: engine.kind)
def test_results_do_not_depend_on_the_engine(store, tmp_path, engine):
    if engine.kind == "dask":
        pytest.importorskip("distributed")
    recipe = forests(3, 4, protocol="cross-year").model_copy(update={"labels": ("30%", "100%")})
    alone = read_evaluation(evaluate(recipe, store.path, tmp_path / "serial"))
    spread = read_evaluation(evaluate(recipe, store.path, tmp_path / engine.kind, engine=engine))
    assert plain(spread) == plain(alone)
    kept = {p.name for p in (tmp_path / "serial" / "cells").glob("*.json")}
    assert kept == {p.name for p in (tmp_path / engine.kind / "cells").glob("*.json")}
    assert len(kept) == 8


@pytest.mark.slow
def test_a_dead_worker_and_a_failed_training_leave_the_others_and_can_be_tried_again(store, tmp_path):
    report, out = Silent(), tmp_path / "out"
    with pytest.raises(UnfinishedError, match=r"2 of 4 trainings failed, first rf \(trees=7\), 100% labels") as failed:
        evaluate(
            forests(3, 7, 8, 4), store.path, out, fit=fits.deadly, engine=Engine("processes"), report=report
        )  # fmt: skip
    assert failed.value.exit_code == 4
    assert "--resume" in failed.value.hint
    found = read_evaluation(out / "evaluation.json")
    assert [row.variant for row in found.rows] == ["trees=3", "trees=4"]
    assert [f.message for f in found.failed] == ["its worker was ended by SIGKILL", "8 trees are too many"]
    assert found.failed[1].hint == "plant fewer"
    assert sum("its worker was ended by SIGKILL" in text for text in report.warnings) == 1
    before = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    whole = read_evaluation(evaluate(forests(3, 7, 8, 4), store.path, out, resume=True))
    assert [row.variant for row in whole.rows] == ["trees=3", "trees=7", "trees=8", "trees=4"]
    assert whole.failed == ()
    after = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 8


def test_when_nothing_could_be_trained_the_reason_ends_the_evaluation(store, tmp_path):
    with pytest.raises(DataError, match="8 trees are too many"):
        evaluate(forests(8), store.path, tmp_path / "out", fit=fits.deadly)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_warnings_of_other_processes_are_heard(store, tmp_path):
    alone, spread = Silent(), Silent()
    recipe = forests(3, protocol="cross-region", tune=2, labels=("1/class",))
    evaluate(recipe, store.path, tmp_path / "a", report=alone)
    evaluate(recipe, store.path, tmp_path / "b", report=spread, engine=Engine("processes"))
    assert "options are left as they are: no block of 1 km can be kept for validation" in alone.warnings[0]
    assert sorted(spread.warnings) == sorted(alone.warnings)


def test_the_document_is_json_of_its_schema(store, tmp_path):
    path = evaluate(forests(3), store.path, tmp_path / "out")
    assert {"tuning", "failed", "checks"} <= set(json.loads(path.read_text()))
