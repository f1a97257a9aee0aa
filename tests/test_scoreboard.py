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
