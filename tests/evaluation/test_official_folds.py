from __future__ import annotations

import numpy as np
import pytest

from cropgen.core.errors import UsageError
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.official import official_folds
from cropgen.evaluation.plan import plan, protocol_view
from cropgen.evaluation.score import Answers, macro_f1_over_legend
from cropgen.series.official import OfficialProtocol, split_path
from cropgen.series.schema import concatenate
from cropgen.series.splits import Split
from cropgen.series.store import SeriesStore

PROTOCOLS = [
    {"name": "toy-fold1", "title": "west to east", "train": {"regions": ["west"]}, "test": {"regions": ["east"]}},
    {"name": "toy-shots", "title": "listed", "test": {"years": [2022]}, "split": "shots"},
    {"name": "toy-wheat", "title": "wheat or not", "train": {"years": [2021]}, "test": {"years": [2022]},
     "merge": {"wheat": ["wheat"], "other": ["*"]}, "classes": ["barley", "maize", "wheat"]},
]  # fmt: skip


@pytest.fixture
def published(tmp_path, season, legend) -> SeriesStore:
    made = SeriesStore.create(
        tmp_path / "published" / "series.zarr", bands=("B04", "B08"), legend=legend, source={"protocols": PROTOCOLS}
    )
    made.append(concatenate([season(2021), season(2022)]))
    Split(np.arange(60), np.arange(200, 240), {}, np.arange(60, 80)).save(split_path(made.path, "shots"))
    return made


def recipe(protocol, **changes):
    base = {
        "protocol": protocol, "models": (Contender(name="rf", options={"trees": 5}),), "seeds": (0,),
        "data": DataSection(series="toy"),
    }  # fmt: skip
    return EvaluateRecipe(**{**base, **changes})


def test_sides_become_a_fold(published):
    index = published.index()
    (fold,) = official_folds(published, OfficialProtocol.from_json(PROTOCOLS[0]), index, 1.0, 3)
    assert (fold.train, fold.seed, fold.official) == ("west", 3, True)
    assert np.array_equal(fold.open_rows, index["region"] == "west")
    (test,) = fold.tests
    assert (test.name, test.scope) == ("east", "held-out")
    assert np.array_equal(test.rows, np.flatnonzero(index["region"] == "east"))
    with pytest.raises(UsageError, match="every parcel of east is tested on"):
        list(official_folds(published, OfficialProtocol.from_json(PROTOCOLS[0]), index, 1.0, 3, target=True))


def test_listed_rows_and_what_of_the_test_year_is_left_for_adaptation(published):
    shots = OfficialProtocol.from_json(PROTOCOLS[1])
    (fold,) = official_folds(published, shots, published.index(), 1.0, 0, target=True)
    assert np.flatnonzero(fold.open_rows).tolist() == list(range(60))
    assert fold.validation.tolist() == list(range(60, 80))
    assert fold.target.tolist() == list(range(120, 200))
    assert fold.tests[0].rows.tolist() == list(range(200, 240))


def test_merged_classes_reach_the_document(published, tmp_path):
    found = read_evaluation(evaluate(recipe("toy-wheat"), published.path, tmp_path / "out"))
    assert [c["code"] for c in found.legend["classes"]] == ["wheat", "other"]
    (row,) = found.rows
    (detail,) = found.details
    label = published.index()["label"].to_numpy()
    assert (row.train, row.test, row.n_labelled) == ("2021", "2022", 120)
    # flax, absent from the published classes, is neither learnt nor scored
    assert row.n_test == 105 == (label[120:] != 1).sum()
    assert row.macro_f1_legend == pytest.approx(row.macro_f1)
    assert np.array(detail.confusion).sum(1).tolist() == [(label[120:] == 3).sum(), np.isin(label[120:], (0, 2)).sum()]


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_over_the_legend_is_that_of_scikit_learn(seed):
    from sklearn.metrics import f1_score

    draw = np.random.default_rng(seed)
    classes, true = np.array([0, 2, 3]), draw.integers(5, size=60)
    answers = Answers(
        rows=np.arange(60), true=true, log_posterior=np.log(draw.dirichlet(np.ones(3), 60)), classes=classes,
        block=np.arange(60), novelty=np.zeros(60), novelty_score="entropy", observed=np.ones(60, int),
    )  # fmt: skip
    predicted = classes[answers.log_posterior.argmax(1)]
    expected = f1_score(true, predicted, labels=range(7), average="macro", zero_division=0)
    assert macro_f1_over_legend(answers, 7) == pytest.approx(expected)


def test_unknown_names_and_choices_that_exclude_each_other(published, tmp_path, store):
    with pytest.raises(UsageError, match="unknown protocol 'toy-fold9'; this data set brings toy-fold1") as wrong:
        protocol_view(recipe("toy-fold9"), published)
    assert wrong.value.hint == "did you mean toy-fold1?"
    with pytest.raises(UsageError, match="brings none of its own") as wrong:
        protocol_view(recipe("toy-fold1"), store)
    assert "leave-one-year-out" in wrong.value.hint
    with pytest.raises(UsageError, match="says itself which years"):
        evaluate(recipe("toy-fold1", data=DataSection(series="toy", years=(2021,))), published.path, tmp_path / "out")


def test_validation_rows_that_were_published_tune(published, tmp_path):
    protocol = {**PROTOCOLS[1], "name": "toy-tuned", "test": {}}
    store = SeriesStore.create(
        tmp_path / "other" / "series.zarr", bands=("B04", "B08"), legend=published.legend,
        source={"protocols": [protocol]},
    )  # fmt: skip
    store.append(published.read())
    Split(np.arange(60), np.arange(200, 240), {}, np.arange(60, 80)).save(split_path(store.path, "shots"))
    tuned = recipe("toy-tuned", tune=2, models=(Contender(name="rf"),))
    assert len(list(plan(tuned, store, store.index()))) == 1
    found = read_evaluation(evaluate(tuned, store.path, tmp_path / "out"))
    (tuning,) = found.tuning
    assert tuning.n_validation == 20
    assert len(tuning.trials) == 2


def listed(published, tmp_path, validation) -> SeriesStore:
    """A store that publishes a list of rows: the first 60, all of 2021, are learnt from, where flax does not grow."""
    protocol = {"name": "toy-listed", "title": "listed", "split": "rows"}
    store = SeriesStore.create(
        tmp_path / "listed" / "series.zarr", bands=("B04", "B08"), legend=published.legend,
        source={"protocols": [protocol]},
    )  # fmt: skip
    store.append(published.read())
    Split(np.arange(60), np.arange(130, 180), {}, np.asarray(validation)).save(split_path(store.path, "rows"))
    return store


FLAX = np.arange(226, 240)
IMPATIENT = (Contender(name="tempcnn", options={"steps": 30, "patience": 1}),)


def test_parcels_of_a_crop_that_is_not_learnt_judge_nothing(published, tmp_path):
    store = listed(published, tmp_path, np.arange(180, 240))
    assert (store.index()["label"].to_numpy()[FLAX] == 1).all()
    found = read_evaluation(evaluate(recipe("toy-listed", models=IMPATIENT), store.path, tmp_path / "out"))
    (row,) = found.rows
    assert row.n_labelled == 60
    assert row.temperature is not None


def test_labels_are_taken_for_validation_only_where_no_published_row_can_judge(published, tmp_path):
    section = DataSection(series="toy", validation_share=0.3, validation_block_km=0.5)
    for number, (validation, labelled) in enumerate([(np.arange(180, 240), {60}), (FLAX, set(range(30, 55)))]):
        store = listed(published, tmp_path / str(number), validation)
        asked = recipe("toy-listed", models=IMPATIENT, data=section)
        (row,) = read_evaluation(evaluate(asked, store.path, tmp_path / f"out{number}")).rows
        assert row.n_labelled in labelled
        assert row.temperature is not None
    with pytest.raises(UsageError, match="validation"):
        evaluate(recipe("toy-listed", models=IMPATIENT), store.path, tmp_path / "none")
