"""Folds that keep classes apart evenly, and temperatures that make scores honest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.models.layers.held_out import FOLDS, fit_temperature, held_out_scores, stratified_folds


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_every_fold_gets_its_share_of_every_class(classes: list[int]) -> None:
    y = torch.tensor(classes)
    fold = stratified_folds(y, generator())
    for value in y.unique().tolist():
        rows = fold[y == value]
        if len(rows) == 1:
            assert rows.tolist() == [-1]
            continue
        counts = torch.bincount(rows, minlength=FOLDS)
        assert int(counts.max() - counts.min()) <= 1


def test_every_row_is_judged_once_by_a_fit_that_did_not_see_it() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    judged: list[int] = []

    def score(learn: torch.Tensor, judge: torch.Tensor) -> torch.Tensor:
        assert not (learn & judge).any()
        assert (learn | judge).all()
        assert bool(learn[6])
        rows = judge.nonzero()[:, 0]
        judged.extend(rows.tolist())
        return rows[:, None].double()

    scores, answers = held_out_scores(y, score, generator())
    assert sorted(judged) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(y[scores[:, 0].long()], answers)


def test_nothing_is_judged_where_every_class_has_one_row() -> None:
    scores, answers = held_out_scores(torch.arange(4), lambda learn, judge: judge[judge][:, None], generator())
    assert len(scores) == len(answers) == 0


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_known_sharpness(sharpness: float) -> None:
    """Labels drawn from softmax(s) and scores s·sharpness: β is 1/sharpness, up to the grid and the 1 % floor."""
    source = generator()
    honest = 1.5 * torch.randn(6000, 4, generator=source, dtype=torch.float64)
    y = torch.multinomial(torch.softmax(honest, 1), 1, generator=source)[:, 0]
    found = fit_temperature(sharpness * honest, y)
    assert found.beta * sharpness == pytest.approx(1.0, rel=0.3)
    assert found.nll < fit_temperature(sharpness * honest, y, torch.tensor([3.0 / sharpness])).nll
    assert fit_temperature(honest, y, torch.tensor([0.5])).beta == 0.5
