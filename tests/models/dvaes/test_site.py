"""Covariates of the site are part of the control: the models are conditioned on them and never model them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from cropgen.core.errors import SchemaError
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.catalog import CATALOG, find, load
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.models.layers.dynamical import DynamicalModel
from cropgen.models.layers.place import Place
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.training.fit import fit_model
from tests.models.dvaes.crops import DATA, SPEC, TEST, TINY, tied

ROWS = [entry.name for entry in CATALOG if entry.family == "dvae"]
SITES = replace(SPEC, site=("elevation", "slope"))
SITE = torch.tensor([[100.0, 2.0], [700.0, 9.0]]).repeat(5, 1)[: len(TEST)].double()


def informed(name: str, *, disturbed: bool) -> DynamicalModel:
    """A small model given two covariates, at its start or away from it."""
    kind = load(find(name))
    torch.manual_seed(0)
    model = kind(SITES, kind.Settings.model_validate(TINY)).double().eval()
    assert isinstance(model, DynamicalModel)
    assert model.place is not None
    model.tied.load_state_dict(tied().state_dict())
    model.place.learn(TrainingData(replace(TEST, site=SITE)))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters() if disturbed else ():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.15)
    return model


@pytest.mark.parametrize("name", ROWS)
def test_every_row_begins_at_the_tied_gaussian_and_may_leave_it_by_the_site(name: str) -> None:
    there, elsewhere = replace(TEST, site=SITE), replace(TEST, site=SITE.roll(1, 0))
    start = informed(name, disturbed=False)
    expected = start.tied.log_joint(*start.tied.grid(TEST))
    torch.testing.assert_close(start.log_joint(there), expected, rtol=0, atol=1e-9)
    model = informed(name, disturbed=True)
    scores = model.log_joint(there)
    assert (scores - model.log_joint(elsewhere)).abs().max() > 1e-3
    torch.testing.assert_close(model.log_joint(there.take(torch.tensor([3, 0]))), scores[[3, 0]], rtol=0, atol=1e-10)
    assert model.sample(TEST.y, torch.Generator().manual_seed(0)).isfinite().all()


def test_an_unknown_covariate_is_that_of_the_average_site() -> None:
    model = informed("srnn", disturbed=True)
    assert model.place is not None
    average = replace(TEST, site=model.place.centre.double().expand(len(TEST), -1))
    unknown = replace(TEST, site=torch.full_like(SITE, torch.nan))
    torch.testing.assert_close(model.log_joint(unknown), model.log_joint(average), rtol=0, atol=0)


def test_covariates_are_standardised_by_what_is_known_of_the_parcels_learnt_from() -> None:
    nan = float("nan")
    labelled = replace(
        TEST.take(torch.arange(3)), site=torch.tensor([[1.0, 5.0, nan], [nan, 5.0, nan], [3.0, 5.0, nan]])
    )
    unlabelled = replace(TEST.take(torch.arange(1)), site=torch.tensor([[8.0, 5.0, nan]]))
    place = Place(3)
    place.learn(TrainingData(labelled, unlabelled))
    spread = ((9 + 1 + 16) / 3) ** 0.5
    asked = torch.tensor([[4.0, 5.0, 1.0], [4.0 + spread, 9.0, 2.0], [-1000.0, nan, nan]])
    torch.testing.assert_close(place(asked), torch.tensor([[0.0, 0, 0], [1, 0, 0], [-3, 0, 0]]))


def late_by_height(count: int, seed: int, *, known: bool) -> tuple[Batch, Tensor]:
    """Two crops, the second a slot later; at the higher site both are later still: without it they look alike."""
    rng = np.random.default_rng(seed)
    y, high = rng.integers(0, 2, count), rng.integers(0, 2, count)
    green = np.exp(-0.5 * ((np.arange(6) - 1.0 - (y + high)[:, None]) / 0.9) ** 2)
    values = np.stack([0.15 - 0.1 * green, 0.2 + 0.3 * green], -1) + rng.normal(0, 0.03, (count, 6, 2))
    mask = torch.from_numpy(rng.random((count, 6)) > 0.2)
    day = torch.from_numpy(np.broadcast_to(SPEC.calendar.start_days() + 9.0, mask.shape).astype(np.float32))
    seen = torch.from_numpy(values.astype(np.float32)) * mask[..., None]
    slot = torch.arange(6).expand(count, -1)
    batch = Batch(seen, mask, day, slot, torch.from_numpy(y if known else np.full(count, -1)),
                  site=torch.from_numpy(400.0 + 300.0 * high[:, None]).float())  # fmt: skip
    return batch, torch.from_numpy(y)


@pytest.mark.slow
def test_a_site_that_shifts_the_season_is_learnt() -> None:
    two = InputSpec(SPEC.bands, SPEC.calendar, Legend.from_codes("two", ["1", "2"]))
    data = TrainingData(late_by_height(200, 0, known=True)[0])
    test, truth = late_by_height(300, 2, known=False)
    options = {"hidden": 16, "latent": 3, "smoothing": 8, "copies": 512, "steps": 200, "learning_rate": 1e-2,
               "decide": "bayes"}  # fmt: skip
    right, nats = {}, {}
    for site in ((), ("elevation",)):
        model = cast(DynamicalModel, fit_model("srnn", options, replace(two, site=site), data, seed=0).model)
        with torch.inference_mode():
            right[site] = float((model.log_posterior(test).argmax(1) == truth).float().mean())
            nats[site] = float(model.log_likelihood(test).mean())
    assert right["elevation",] > right[()] + 0.1, right
    assert nats["elevation",] > nats[()] + 0.1, nats


def test_a_model_with_covariates_is_saved_whole_and_reads_them_off_a_series(tmp_path: Path) -> None:
    spec = InputSpec(("B04", "B08"), Calendar("month", 2, 6), SPEC.legend, site=("elevation", "lat"))
    assert InputSpec.from_json(spec.to_json()) == spec
    assert "site" not in SPEC.to_json()
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random((12, 6, 2)), np.full((12, 6, 1), 250.0)], 2)
    series = ParcelSeries.build(
        bands=("B04", "B08", "elevation"), values=values, mask=np.ones((12, 6), bool),
        day=np.tile(np.datetime64("2021-03-05").astype(int) + 30 * np.arange(6), (12, 1)),
        parcel_id=[str(i) for i in range(12)], year=2021, label=np.arange(12) % 3, lat=np.linspace(44, 47, 12),
    )  # fmt: skip
    batch = spec.batch(series)
    assert batch.values.shape[-1] == 2
    np.testing.assert_allclose(batch.site, np.stack([np.full(12, 250.0), np.linspace(44, 47, 12)], 1))
    data = TrainingData(batch)
    model = fit_model("srnn", {**TINY, "steps": 3}, spec, data, seed=0).model
    save_model(tmp_path, model, "srnn")
    again = load_model(tmp_path)
    assert again.spec == spec
    assert torch.equal(again.log_posterior(batch), model.log_posterior(batch))
    with pytest.raises(SchemaError, match="site covariates missing: elevation"):
        spec.batch(series.select_bands(("B04", "B08")))


def test_other_models_and_models_without_covariates_are_as_they_were() -> None:
    plain = build_model("srnn", TINY, SPEC)
    assert not [key for key in plain.state_dict() if key.startswith("place")]
    with_site = TrainingData(replace(DATA.labelled, site=torch.ones(len(DATA.labelled), 2)))
    fitted = [fit_model("tgem", {}, SPEC, data, seed=0).model for data in (TrainingData(DATA.labelled), with_site)]
    rows = DATA.labelled
    assert torch.equal(fitted[0].log_posterior(rows), fitted[1].log_posterior(rows))
