"""Errors of forecasts: one step ahead and free running, against a model that says what it is told to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation import figures
from cropgen.evaluation.document import Dynamics, Exhibits, read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.exhibits import _dynamics
from cropgen.evaluation.horizon import horizon
from cropgen.evaluation.tables import dynamics_table
from cropgen.models.base import InputSpec, Mixture
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS = 4
FOLLOWED = Dynamics(
    model="srnn", variant="", train="2021", labels="100%", parcels=9, day=(15, 45, 75),
    one_step=(None, 0.03, 0.04), free_running=(None, 0.06, 0.08), kl=(0.5, None, 0.25),
)  # fmt: skip


class LastSeen:
    """Expects the last value it was shown, in two classes half a step below and above it; 0 before the first."""

    spec = InputSpec(("B04",), Calendar("month", 3, SLOTS), Legend.from_codes("crops", ["1", "2"]))

    def predictive(self, batch: Batch, slots: torch.Tensor) -> Mixture:
        last = torch.zeros(len(batch))
        for date in range(batch.mask.shape[1]):
            last = torch.where(batch.mask[:, date], batch.values[:, date, 0], last)
        middle = last[:, None, None, None].expand(-1, 1, len(slots), 1)
        return Mixture(
            torch.full((len(batch), 2), 0.5), torch.cat([middle - 0.5, middle + 0.5], 1), middle[:, 0] * 0 + 1
        )


def test_errors_by_hand() -> None:
    values = torch.tensor([[0.0, 1.0, 3.0, 6.0], [1.0, 1.0, 2.0, 2.0]])[..., None]
    mask = torch.tensor([[True, True, True, True], [True, True, False, True]])
    slot = torch.arange(SLOTS).expand(2, -1)
    batch = Batch(values * mask[..., None], mask, 30.0 * slot, slot, torch.tensor([0, 1]))
    model: Any = LastSeen()
    found = horizon(model, batch, 2)
    assert found is not None
    nan = float("nan")
    np.testing.assert_allclose(found.one_step, [nan, nan, 2.0, np.sqrt((3**2 + 1**2) / 2)], rtol=1e-6)
    np.testing.assert_allclose(found.free_running, [nan, nan, 2.0, np.sqrt((5**2 + 1**2) / 2)], rtol=1e-6)


def test_slots_nobody_saw_and_models_without_a_closed_form() -> None:
    mask = torch.tensor([[True, True, False, True]])
    slot = torch.arange(SLOTS)[None]
    batch = Batch(torch.ones(1, SLOTS, 1) * mask[..., None], mask, 30.0 * slot, slot, torch.tensor([0]))
    model: Any = LastSeen()
    found = horizon(model, batch, 1)
    assert found is not None
    np.testing.assert_allclose(found.free_running, [float("nan"), 0.0, float("nan"), 0.0], atol=1e-7)
    model.predictive = lambda batch, slots: None
    assert horizon(model, batch, 1) is None


@pytest.mark.slow
def test_an_evaluation_tells_how_a_dynamical_model_follows_the_season(store, tmp_path):
    """Of the dynamical model alone; the first third of the slots are the warm-up."""
    options = {"steps": 2, "hidden": 4, "smoothing": 4, "latent": 2, "copies": 40}
    recipe = EvaluateRecipe(
        protocol="holdout", seeds=(0,), data=DataSection(series="toy", calendar="month"),
        models=(Contender(name="lda"), Contender(name="srnn", options=options)),
    )  # fmt: skip
    document = read_evaluation(evaluate(recipe, store.path, tmp_path / "out"))
    (seen,) = document.exhibits.dynamics
    assert (seen.model, seen.train) == ("srnn", "all")
    assert 0 < seen.parcels <= 60
    warm_up = round(len(seen.day) / 3)
    for errors in (seen.one_step, seen.free_running):
        assert all(error is None for error in errors[:warm_up])
        assert all(error is not None and 0 < error < 1 for error in errors[warm_up:])
    assert seen.one_step[warm_up] == seen.free_running[warm_up]
    assert all(kl is not None and kl >= 0 for kl in seen.kl)


def test_errors_of_several_trainings_are_put_together() -> None:
    training: Any = SimpleNamespace(fold=SimpleNamespace(train="2021"), labels="10%")
    arrays = [
        {"dynamics_day": np.array([15.0, 45.0]), "dynamics_one_step": np.array([np.nan, error]),
         "dynamics_free_running": np.array([np.nan, np.nan]), "dynamics_kl": np.array([kl, np.nan]),
         "dynamics_parcels": np.array(5), "dynamics_slot_days": np.array(30.4)}
        for error, kl in ((0.1, 1.0), (0.7, 2.0))
    ]  # fmt: skip
    record: Any = None
    found = _dynamics("srnn", "", [(training, record, each) for each in arrays])
    assert found.one_step == (None, 0.5)
    assert found.free_running == (None, None)
    assert found.kl == (1.5, None)
    assert (found.parcels, found.train) == (10, "2021")


def test_trainings_on_calendars_of_other_spans_are_matched_by_day() -> None:
    def done(train: str, day: list[float], error: list[float], slot: float = 30.4) -> Any:
        training: Any = SimpleNamespace(fold=SimpleNamespace(train=train), labels="10%")
        arrays = {f"dynamics_{name}": np.array(error) for name in ("one_step", "free_running", "kl")}
        return training, None, arrays | {
            "dynamics_day": np.array(day), "dynamics_parcels": np.array(5), "dynamics_slot_days": np.array(slot)
        }  # fmt: skip

    found = _dynamics("srnn", "", [
        done("2021", [45.0, 75.0, 105.0], [np.nan, 0.1, 0.2]),
        done("2022", [15.0, 45.0, 75.0], [np.nan, 0.4, 0.7]),
        done("2023", [45.0, 60.0], [0.9, 0.9], slot=15.2),
    ])  # fmt: skip
    assert found.day == (15.0, 45.0, 75.0, 105.0)
    assert found.one_step == found.free_running == (None, 0.4, 0.5, 0.2)
    assert found.kl == (None, 0.4, 0.4, 0.2)
    assert (found.parcels, found.train) == (10, "2021, 2022")


def test_a_page_shows_how_a_season_is_followed() -> None:
    """Roots of mean squares by hand, the KL summed over the season; nothing where no model is dynamical."""
    document: Any = SimpleNamespace(exhibits=Exhibits(dynamics=(FOLLOWED,)))
    shown = dynamics_table(document)
    assert shown is not None
    assert [cell.text for cell in shown.rows[0]] == ["srnn", "100%", "0.0354", "0.0707", "0.750", "9"]
    (panel,) = figures.dynamics(document, 0)
    assert "KL, nats" in panel
    assert "error, reflectance" in panel
    document.exhibits = Exhibits()
    assert dynamics_table(document) is None
    assert not list(figures.dynamics(document, 0))
