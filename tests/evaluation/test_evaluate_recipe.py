from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cropgen.core.errors import CorruptInputError, OutputExistsError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.summary import summarise
from cropgen.models.base import Classifier, Options
from cropgen.series.schema import concatenate
from cropgen.series.store import SeriesStore
from cropgen.training.fit import FitResult, fit_model
from tests.models.dvaes.crops import TINY


class Nearest(Classifier):
    """Distance of the mean to the class means."""

    Settings = Options

    def prepare(self, data, context):
        level = data.labelled.values.mean((1, 2))
        self.centre = torch.stack([level[data.labelled.y == k].mean() for k in range(self.spec.classes)])

    def log_posterior(self, batch):
        distance = (batch.values.mean((1, 2))[:, None] - self.centre) ** 2
        return torch.log_softmax(-distance / (2 * 0.02**2), -1)


class Trainer:
    """Stands for `fit_model`; remembers what it was asked."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked = []
        self.stop_after = stop_after

    def __call__(self, name, settings, spec, data, *, seed, report):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((name, spec, data, seed))
        model = Nearest(spec, Options())
        model.prepare(data, None)
        return FitResult(model, {"guard": "kept"}, 0.5)


def recipe(**changes):
    base = {
        "protocol": "cross-year", "models": (Contender(name="rf"),), "labels": ("100%",), "seeds": (0,),
        "block_km": 1.0, "data": DataSection(series="toy"),
    }  # fmt: skip
    return EvaluateRecipe(**{**base, **changes})


def run(store, folder, fit=None, **changes):
    options = {k: changes.pop(k) for k in ("resume", "overwrite", "report") if k in changes}
    return read_evaluation(evaluate(recipe(**changes), store.path, folder, fit=fit or Trainer(), **options))


def test_the_matrix_and_what_a_new_season_sees(store, tmp_path):
    found = run(store, tmp_path / "out")
    cells = {(r.train, r.test, r.scope): r for r in found.rows}
    held = [(a, b, "held-out") for a in ("2021", "2022") for b in ("2021", "2022")]
    assert set(cells) == {*held, ("2021", "2022", "all"), ("2022", "2021", "all")}
    assert cells["2021", "2021", "held-out"].accuracy > 0.95
    # 2022 is 0.06 brighter, more than half the step from maize to wheat: all maize is taken for wheat
    (detail,) = [d for r, d in zip(found.rows, found.details, strict=True)
                 if (r.train, r.test, r.scope) == ("2021", "2022", "held-out")]  # fmt: skip
    assert detail.recall == (1, 0, 1)
    assert cells["2021", "2022", "all"].n_test + cells["2021", "2022", "all"].n_out_of_legend == 120


def test_a_crop_absent_from_the_training_year_is_scored_as_novelty_only(store, tmp_path):
    found = run(store, tmp_path / "out")
    by_cell = {(r.train, r.test, r.scope): (r, d) for r, d in zip(found.rows, found.details, strict=True)}
    row, detail = by_cell["2021", "2022", "all"]
    assert row.n_out_of_legend == 15
    assert row.auroc_out_of_legend is not None
    assert detail.classes == (0, 2, 3)
    row, detail = by_cell["2022", "2022", "held-out"]
    assert row.n_out_of_legend == 0
    assert row.auroc_out_of_legend is None
    assert detail.classes == (0, 1, 2, 3)


def test_counts_and_intervals_agree_with_each_other(store, tmp_path):
    found = run(store, tmp_path / "out", protocol="holdout", seeds=(0, 1))
    assert [r.seed for r in found.rows] == [0, 1]
    for row, detail in zip(found.rows, found.details, strict=True):
        confusion = np.array(detail.confusion)
        assert confusion.sum() == row.n_test == sum(detail.reliability["count"])
        assert row.accuracy == pytest.approx(np.trace(confusion) / row.n_test)
        assert row.macro_f1_low <= row.macro_f1 <= row.macro_f1_high
        assert row.interval_unit == "block"
        assert row.n_labelled + row.n_test == 240
        assert detail.facts == {"guard": "kept"}


def test_only_open_blocks_and_the_training_year_are_learnt_from(store, tmp_path):
    trainer = Trainer()
    run(store, tmp_path / "out", fit=trainer, labels=("20%",))
    index = store.index()
    values = store.read().values
    for (_, _, data, _), year in zip(trainer.asked, (2021, 2022), strict=True):
        known = {row.tobytes() for row in values[index["year"] == year]}
        for batch in (data.labelled, data.unlabelled):
            assert {row.tobytes() for row in batch.values.numpy()} <= known
        assert (data.unlabelled.y == -1).all()
        total = len(data.labelled) + len(data.unlabelled)
        assert total < 120
        assert len(data.labelled) == pytest.approx(0.2 * total, abs=2)


def test_further_years_are_used_without_labels_and_outside_the_held_out_blocks(store, tmp_path):
    trainer = Trainer()
    section = DataSection(series="toy", years=(2021, 2022), unlabelled_years=())
    run(store, tmp_path / "a", fit=trainer, data=section)
    alone = len(trainer.asked[0][2].labelled)
    section = DataSection(series="toy", unlabelled_years=(2021, 2022))
    run(store, tmp_path / "b", fit=trainer, data=section)
    data = trainer.asked[2][2]
    assert len(data.labelled) == alone == len(data.unlabelled)


def test_shift_is_the_paired_difference_to_the_same_year(store, tmp_path):
    found = run(store, tmp_path / "out", models=(Contender(name="rf"), Contender(name="tgem")))
    shift, _, gain = found.contrasts
    assert (shift.what, gain.what, gain.model, gain.against) == ("shift", "model", "tgem", "rf")
    assert shift.high < -0.3
    assert shift.cells == 2
    # both names stand for the same trainer here
    assert (gain.difference, gain.low, gain.high, gain.cells) == (0, 0, 0, 4)


def test_an_interrupted_evaluation_continues_where_it_stopped(store, tmp_path):
    whole = run(store, tmp_path / "whole", seeds=(0, 1))
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "part", fit=Trainer(stop_after=3), seeds=(0, 1))
    with pytest.raises(OutputExistsError):
        run(store, tmp_path / "part", seeds=(0, 1))
    trainer = Trainer()
    resumed = run(store, tmp_path / "part", fit=trainer, seeds=(0, 1), resume=True)
    assert len(trainer.asked) == 1
    timeless = {"peak_mb": None, "predict_seconds": 0.0}
    assert [r.model_copy(update=timeless) for r in resumed.rows] == [r.model_copy(update=timeless) for r in whole.rows]
    assert resumed.details == whole.details
    assert resumed.contrasts == whole.contrasts


def test_a_larger_recipe_computes_only_what_is_new_and_options_count(store, tmp_path):
    run(store, tmp_path / "out")
    trainer = Trainer()
    run(store, tmp_path / "out", fit=trainer, seeds=(0, 1), resume=True)
    assert [seed for *_, seed in trainer.asked] == [1, 1]
    run(store, tmp_path / "out", fit=trainer, models=(Contender(name="rf", options={"trees": 7}),), resume=True)
    assert len(trainer.asked) == 4


def test_a_damaged_record_is_computed_again(store, tmp_path):
    run(store, tmp_path / "out")
    damaged = sorted((tmp_path / "out" / "cells").glob("*"))
    damaged[0].write_bytes(damaged[0].read_bytes()[:50])
    trainer = Trainer()
    run(store, tmp_path / "out", fit=trainer, resume=True)
    assert len(trainer.asked) == 1


def test_an_evaluation_is_not_replaced_unasked(store, tmp_path):
    run(store, tmp_path / "out")
    with pytest.raises(OutputExistsError, match="holds an evaluation"):
        run(store, tmp_path / "out")
    trainer = Trainer()
    run(store, tmp_path / "out", fit=trainer, overwrite=True)
    assert len(trainer.asked) == 2


def test_models_are_checked_before_anything_is_trained(store, tmp_path):
    trainer = Trainer()
    for models, message in (
        ((Contender(name="rff"),), "unknown model 'rff'"),
        ((Contender(name="srnn"), Contender(name="dvae")), "srnn is named twice"),
    ):
        with pytest.raises(UsageError, match=message):
            run(store, tmp_path / "out", fit=trainer, models=models)
    assert trainer.asked == []


def test_a_test_set_without_known_crops_is_reported(tmp_path, season, legend):
    west, east = season(2021), season(2021, seed=1)
    west = replace(west, label=np.where(west.label == 0, 2, west.label), region=np.full(120, "west"))
    east = replace(east, label=np.where(east.label == 0, 0, 1), region=np.full(120, "east"))
    made = SeriesStore.create(tmp_path / "two" / "series.zarr", bands=("B04", "B08"), legend=legend)
    made.append(concatenate([west, east]))
    report = Silent()
    found = run(made, tmp_path / "out", protocol="cross-region", report=report)
    assert {(r.train, r.test) for r in found.rows} == {("west", "west"), ("east", "east")}
    assert len(report.warnings) == 4
    assert "no parcel of west has a crop the model knows" in report.warnings[0]


def test_wrong_documents_are_named(store, tmp_path):
    run(store, tmp_path / "out")
    path = tmp_path / "out" / "evaluation.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "evaluation": 99}))
    with pytest.raises(SchemaError, match="not an evaluation of version 2: evaluation"):
        read_evaluation(path)
    path.write_text("{")
    with pytest.raises(CorruptInputError, match="not JSON"):
        read_evaluation(path)


def test_summary_averages_over_seeds(store, tmp_path):
    found = run(store, tmp_path / "out", seeds=(0, 1, 2))
    records = [r for r in summarise(found.rows) if r["scope"] == "held-out"]
    assert len(records) == 4
    for record in records:
        mine = [r.macro_f1 for r in found.rows
                if (r.train, r.test, r.scope) == (record["train"], record["test"], record["scope"])]  # fmt: skip
        assert record["seeds"] == 3
        assert record["macro_f1"] == pytest.approx(np.mean(mine))
        assert record["macro_f1_sd"] == pytest.approx(np.std(mine, ddof=1))


def test_calibration_is_shown_with_and_without_and_tempering_beside(store, tmp_path):
    section = DataSection(series="toy", validation_share=0.3)
    plain = run(store, tmp_path / "plain", protocol="holdout", data=section)
    (row,) = plain.rows
    assert row.calibration == "none"
    assert row.temperature is not None
    assert row.tempered_nll is not None
    wanted = (Contender(name="rf", calibration="temperature"),)
    found = run(store, tmp_path / "out", protocol="holdout", data=section, models=wanted)
    without, corrected = found.rows
    assert (without.calibration, corrected.calibration) == ("none", "temperature")
    assert without.model_copy(update={"predict_seconds": 0, "peak_mb": None}) == row.model_copy(
        update={"predict_seconds": 0, "peak_mb": None}
    )
    assert corrected.nll == pytest.approx(row.tempered_nll, abs=1e-5)
    assert corrected.macro_f1 == without.macro_f1
    assert found.details[1].facts["calibration"]["rows"] > 0
    assert [r.calibration for r in found.uncalibrated().rows] == ["none"]
    assert len(found.uncalibrated().details) == 1


def test_calibration_needs_validation_rows(store, tmp_path):
    with pytest.raises(UsageError, match="needs labelled parcels") as raised:
        run(store, tmp_path / "out", models=(Contender(name="rf", calibration="dirichlet"),))
    assert "--validation" in str(raised.value.hint)


def test_generative_models_are_scored_by_density(store, tmp_path):
    found = run(store, tmp_path / "out", fit=fit_model, protocol="holdout", models=(Contender(name="tgem"),))
    (row,) = found.rows
    # noise of 0.02 on known levels: log2(0.02 √(2πe) / 10⁻⁴) = 9.7 bits a value, and a CRPS of 0.02 / √π
    assert row.bits_per_value == pytest.approx(9.7, abs=0.6)
    assert row.crps == pytest.approx(0.02 / np.sqrt(np.pi), rel=0.4)
    assert row.auroc_out_of_legend is None


def test_site_covariates_are_given_to_all_and_taken_by_those_that_can(store, tmp_path):
    trainer = Trainer()
    models = (Contender(name="rf"), Contender(name="srnn"))
    found = run(store, tmp_path / "out", fit=trainer, protocol="holdout", models=models,
                data=DataSection(series="toy", site=("B04", "lat")))  # fmt: skip
    assert [row.model for row in found.rows] == ["rf", "srnn"]
    for _, spec, data, _ in trainer.asked:
        assert (spec.bands, spec.site) == (("B08",), ("B04", "lat"))
        assert data.labelled.site.shape == (len(data.labelled), 2)
        assert not data.labelled.site.isnan().any()


def test_a_model_with_site_covariates_is_scored_and_reweighed(store, tmp_path):
    model = Contender(name="srnn", options=TINY | {"steps": 2})
    found = run(store, tmp_path / "out", fit=fit_model, protocol="holdout", models=(model,), prior="em",
                data=DataSection(series="toy", site=("lat",)))  # fmt: skip
    (row,) = found.rows
    assert row.crps is not None
    assert row.bits_per_value is not None


def test_a_folder_is_written_by_one_process_at_a_time(store, tmp_path):
    class Another(Trainer):
        def __call__(self, *parts, **how):
            with pytest.raises(UsageError, match="written by another process"):
                run(store, tmp_path / "out", overwrite=True)
            return super().__call__(*parts, **how)

    found = run(store, tmp_path / "out", Another(), protocol="blocks", parts=2)
    assert [row.train for row in found.rows] == ["part 1 of 2", "part 2 of 2"]
