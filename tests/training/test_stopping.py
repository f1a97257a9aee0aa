"""Validation rows end a training that no longer gets better, and the best model is what stays."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import CPU, DATA, SPEC, Noisy, fresh, rows, same, weights

from cropgen.core.errors import UsageError
from cropgen.models.base import Context, GradientOptions
from cropgen.training import stopping
from cropgen.training.ledger import Ledger
from cropgen.training.loop import CHECKPOINT_EVERY, learn
from cropgen.training.stopping import JUDGE_EVERY, Watch, validation_nll

JUDGED = replace(DATA, validation=rows(12, 3, 7, known=True))
WRONG = replace(DATA, validation=replace(rows(12, 3, 7, known=True), y=1 - rows(12, 3, 7, known=True).y))


def patient(patience: int = 3, steps: int = 300, **options: float) -> Noisy:
    return fresh(steps=steps, learning_rate=0.05, patience=patience, **options)


def test_the_likelihood_is_the_mean_over_rows_and_leaves_the_model_training() -> None:
    model = fresh().train()
    labelled = JUDGED.validation
    assert labelled is not None
    model.layers[0](labelled.values.mean(1))
    before = weights(model)
    nll = validation_nll(model, labelled, CPU)
    assert model.training
    assert same(weights(model), before)
    model.eval()
    expected = -model.log_posterior(labelled).detach()[torch.arange(12), labelled.y].mean()
    assert nll == pytest.approx(float(expected), rel=1e-6)


def test_the_watch_keeps_the_best_and_counts_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([0.9, 0.5, 0.7, 0.6])
    monkeypatch.setattr(stopping, "validation_nll", lambda *_: next(told))
    watch, model, states = Watch(2, JUDGED), fresh(), []
    for step in (30, 60, 90, 120):
        assert not watch.over
        model.calls += 1
        states.append(weights(model))
        watch.judge(model, step, CPU)
    assert watch.over
    again = Watch(2, JUDGED)
    again.load(watch.state())
    for each in (watch, again):
        assert each.over
        assert each.recall(model) == {"step": 60, "nll": 0.5}
        assert same(weights(model), states[1])


def test_judgements_are_due_at_intervals_and_at_the_end_only_with_patience() -> None:
    assert [step for step in range(1, 100) if Watch(1, JUDGED).due(step, last=False)] == [30, 60, 90]
    assert Watch(1, JUDGED).due(7, last=True)
    assert not Watch(0, JUDGED).due(JUDGE_EVERY, last=True)
    assert Watch(0, JUDGED).state() == {}
    assert Watch(0, JUDGED).recall(fresh()) == {}


def test_labels_that_contradict_the_training_stop_it_and_the_first_judged_state_is_kept(tmp_path: Path) -> None:
    model, context = patient(), Context(1)
    elapsed = learn(model, WRONG, context, device=CPU, ledger=Ledger(metrics=tmp_path / "m.jsonl"))
    facts = context.facts["early_stopping"]
    assert elapsed.steps == facts["steps"] < 300
    assert facts["steps"] == facts["step"] + 3 * JUDGE_EVERY
    judged = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    told = {line["step"]: line["validation_nll"] for line in judged if "validation_nll" in line}
    assert sorted(told) == list(range(JUDGE_EVERY, facts["steps"] + 1, JUDGE_EVERY))
    assert min(told, key=lambda step: told[step]) == facts["step"]
    assert WRONG.validation is not None
    assert validation_nll(model, WRONG.validation, CPU) == pytest.approx(facts["nll"]) == told[facts["step"]]


def test_without_patience_nothing_changes() -> None:
    plain, judged, unused = fresh(), fresh(), patient(steps=120)
    learn(plain, DATA, Context(2), device=CPU, ledger=Ledger())
    learn(judged, JUDGED, Context(2), device=CPU, ledger=Ledger())
    assert same(weights(plain), weights(judged))
    with pytest.raises(UsageError, match="patience = 3") as caught:
        learn(unused, DATA, Context(2), device=CPU, ledger=Ledger())
    assert "--validation" in (caught.value.hint or "")


@pytest.mark.parametrize("data", [JUDGED, WRONG], ids=["to the end", "stopped"])
@pytest.mark.parametrize("killed", [CHECKPOINT_EVERY + 22, 2 * CHECKPOINT_EVERY + 12])
def test_an_interrupted_training_resumes_bit_for_bit(tmp_path: Path, data: object, killed: int) -> None:
    whole, context = patient(patience=6), Context(2)
    assert isinstance(data, type(DATA))
    steps = learn(whole, data, context, device=CPU, ledger=Ledger("id", metrics=tmp_path / "a.jsonl")).steps

    class Interrupted(Noisy):
        def objective(self, *arguments: object) -> object:
            if int(self.calls) == killed:
                raise KeyboardInterrupt
            return super().objective(*arguments)  # type: ignore[arg-type]

    broken = Interrupted(SPEC, whole.options)  # type: ignore[arg-type]
    ledger = Ledger("id", tmp_path / "b", resume=True, metrics=tmp_path / "b.jsonl")
    with pytest.raises(KeyboardInterrupt):
        learn(broken, data, Context(2), device=CPU, ledger=ledger)
    for _ in range(2):
        resumed, again = patient(patience=6), Context(2)
        assert learn(resumed, data, again, device=CPU, ledger=ledger).steps == steps
        assert same(weights(whole), weights(resumed))
        assert again.facts == context.facts
    lines = [(tmp_path / name).read_text().splitlines() for name in ("a.jsonl", "b.jsonl")]
    assert [{**json.loads(one), "seconds": 0} for one in lines[0]] == [
        {**json.loads(one), "seconds": 0} for one in lines[1]
    ]


def test_a_likelihood_that_is_no_number_counts_as_none() -> None:
    class Broken(Noisy):
        def log_posterior(self, batch: object) -> torch.Tensor:
            return super().log_posterior(batch) * math.nan  # type: ignore[arg-type]

    assert JUDGED.validation is not None
    assert validation_nll(Broken(SPEC, GradientOptions()), JUDGED.validation, CPU) == pytest.approx(30.0)
