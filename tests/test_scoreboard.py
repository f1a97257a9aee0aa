"""The intervals of the benchmarks' tables against those of SciPy."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch):
    """Mean and ends of the interval that the tables tell."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with_interval = importlib.import_module("scoreboard").with_interval

    def numbers(differences: dict[str, list[float]]) -> list[float]:
        return [float(number) for number in re.findall(r"[-+][\d.]+", with_interval(differences, 1, 6))]

    return numbers


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_one_task_is_students_interval(told, seeds: int) -> None:
    found = np.random.default_rng(seeds).normal(size=seeds)
    exact = ttest_1samp(found, 0).confidence_interval()
    assert told({"a": found.tolist()}) == pytest.approx([found.mean(), exact.low, exact.high], abs=1e-6)


def test_two_tasks_are_welchs_interval(told) -> None:
    generator = np.random.default_rng(0)
    few, many = generator.normal(size=3), generator.normal(1, 3, size=10)
    exact = ttest_ind(few, -many, equal_var=False).confidence_interval()
    mean = (few.mean() + many.mean()) / 2
    assert told({"a": few.tolist(), "b": many.tolist()}) == pytest.approx(
        [mean, exact.low / 2, exact.high / 2], abs=1e-6
    )


def test_one_seed_has_no_interval_and_equal_seeds_have_none_to_speak_of(told) -> None:
    assert told({"a": [0.5]}) == [0.5]
    assert told({"a": [0.25, 0.75], "b": [0.5]}) == [0.5]
    assert told({"a": [0.5, 0.5]}) == [0.5, 0.5, 0.5]


def _rows(model: str, family: str, seeds: int, score: float) -> list[dict[str, object]]:
    """A model's rows at 10 % on every task and split: 0.5 with the first three seeds, `score` with the further ones."""
    return [
        {"data": data, "labels": 0.1, "split": split, "dates": 0, "seed": seed, "model": model, "family": family,
         "target_unlabelled": False, **dict.fromkeys(("macro_f1", "accuracy"), 0.5 if seed < 3 else score)}
        for data in ("arkansas", "fergana", "modis") for split in ("in", "cross") for seed in range(seeds)
    ]  # fmt: skip


def test_further_seeds_move_no_mean_that_other_models_are_compared_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    board = importlib.import_module("scoreboard")
    rows = [*_rows("tempcnn", "discriminative", 10, 1.0), *_rows("omniscale", "discriminative", 3, 0.5)]
    assert board.means(board.shared(rows), 0.1, "cross", "macro_f1") == {"tempcnn": 0.5, "omniscale": 0.5}
    assert {row["seed"] for row in board.shared(rows)} == {0, 1, 2}


def test_leading_rows_are_those_of_all_ten_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    board = importlib.import_module("scoreboard")
    assert board.leading(_rows("tgem", "classical-generative", 10, 1.0)) == "", "nothing without a network beside it"
    rows = [
        *_rows("tempcnn", "discriminative", 10, 0.5),
        *_rows("tgem", "classical-generative", 10, 1.0),
        *_rows("ssvae", "vae", 9, 1.0),
    ]
    lines = board.leading(rows).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == ["tgem", "tempcnn"]
    assert lines[0].startswith("| `tgem` | 85.0 | 85.0 | 85.0 | 85.0 | +35.0 [")
