"""Differences are paired, drawn over seeds and ground, and tested by swapping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cropgen.evaluation.contrasts import Sheet, contrasts
from cropgen.metrics.classification import confusion_matrix, macro_f1

ROWS = 400


def sheet(model: str, right: float, *, seed: int = 0, train: str = "2021", test: str = "2021", **changes: Any) -> Sheet:
    generator = np.random.default_rng([seed, 1])
    true = generator.integers(0, 3, ROWS)
    noise = np.random.default_rng([seed, len(model), int(100 * right)])
    answer = np.where(noise.random(ROWS) < right, true, noise.integers(0, 3, ROWS))
    base: dict[str, Any] = {
        "train": train, "test": test, "labels": "10%", "seed": seed, "model": model, "rows": np.arange(ROWS),
        "true": true, "predicted": answer, "ground": np.arange(ROWS) // 10, "classes": np.arange(3),
    }  # fmt: skip
    return Sheet(**(base | changes))


def macro(one: Sheet) -> float:
    return float(macro_f1(confusion_matrix(one.true, one.predicted, 3)))


def test_models_are_compared_with_the_first_over_all_seeds() -> None:
    sheets = [sheet(model, right, seed=s) for s in range(3) for model, right in (("rf", 0.6), ("tgem", 0.8))]
    (found,) = contrasts(sheets, 3)
    assert (found.what, found.model, found.against) == ("model", "tgem", "rf")
    assert (found.cells, found.seeds, found.interval_unit) == (3, 3, "block")
    expected = np.mean([macro(second) - macro(first) for first, second in zip(sheets[::2], sheets[1::2], strict=True)])
    assert found.difference == pytest.approx(expected)
    assert 0 < found.low < found.difference < found.high
    assert found.p_value == pytest.approx(1 / 1001)


def test_seeds_that_disagree_widen_the_interval() -> None:
    steady = [sheet(m, r, seed=s) for s in range(4) for m, r in (("rf", 0.7), ("tgem", 0.75))]
    fickle = [sheet(m, r, seed=s) for s in range(4) for m, r in (("rf", 0.7), ("tgem", 0.5 if s % 2 else 0.95))]
    (narrow,), (wide,) = contrasts(steady, 3), contrasts(fickle, 3)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_the_drop_across_years_has_an_interval() -> None:
    sheets = [sheet("rf", 0.9 if a == b else 0.6, train=a, test=b) for a in ("2021", "2022") for b in ("2021", "2022")]
    (found,) = contrasts(sheets, 3)
    assert found.what == "shift"
    assert found.cells == 2
    assert found.seeds == 1
    assert found.low < found.difference < found.high < 0


def test_few_blocks_are_resampled_parcel_by_parcel() -> None:
    few = np.arange(ROWS) // 100
    (found,) = contrasts([sheet("rf", 0.6, ground=few), sheet("tgem", 0.8, ground=few)], 3)
    assert found.interval_unit == "parcel"
    assert found.low < found.difference < found.high


def test_only_parcels_of_classes_that_both_know_are_compared() -> None:
    first, second = sheet("rf", 0.6), sheet("tgem", 0.8, classes=np.array([0, 1]))
    (found,) = contrasts([first, second], 3)
    keep = first.true < 2
    one, two = (
        float(macro_f1(confusion_matrix(s.true[keep], s.predicted[keep], 3))) for s in (second, first)
    )  # fmt: skip
    assert found.difference == pytest.approx(one - two)
    assert contrasts([first, sheet("tgem", 0.8, classes=np.array([7]))], 3) == ()


def test_the_first_model_named_is_the_one_compared_with_though_it_failed_somewhere() -> None:
    parts = [sheet(model, right, train=part, test=part) for part, model, right in (
        ("part 1", "tgem", 0.8), ("part 2", "rf", 0.6), ("part 2", "tgem", 0.8))]  # fmt: skip
    (found,) = contrasts(parts, 3, [("lda", ""), ("rf", ""), ("tgem", "")])
    assert (found.model, found.against, found.cells) == ("tgem", "rf", 1)
