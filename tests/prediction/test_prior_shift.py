"""Shares that changed are found and corrected; shares that did not are left alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CropgenError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.checkpoint import load_model
from cropgen.prediction.geopackage import LAYER, PROBABILITIES
from cropgen.prediction.infer import infer
from cropgen.prediction.predict import PredictOptions, predict
from cropgen.prediction.prior_shift import (
    PriorShift,
    class_prior,
    estimate_prior,
    estimate_streaming,
    read_prior,
    uniform_prior,
)
from cropgen.series.batches import make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.store import SeriesStore
from cropgen.training.fit import fit_model
from tests.models.dvaes.crops import TINY
from tests.prediction.conftest import BANDS, CLOUDY, LEGEND, PARCELS, Region, observed

TRAINED = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])


def calibrated(share: np.ndarray, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact posteriors of Gaussian classes under the training shares, under `share`, and the classes of the rows."""
    draw = np.random.default_rng(seed)
    y = draw.choice(3, rows, p=share)
    x = MEANS[y] + draw.standard_normal((rows, 2))
    density = np.exp(-0.5 * ((x[:, None] - MEANS) ** 2).sum(-1))

    def posterior(prior: np.ndarray) -> np.ndarray:
        joint = density * prior
        return joint / joint.sum(1, keepdims=True)

    return posterior(TRAINED), posterior(share), y


@pytest.mark.parametrize("share", [(0.1, 0.2, 0.7), (0.45, 0.45, 0.1), (0.02, 0.9, 0.08)])
def test_known_shares_are_recovered(share: tuple[float, ...]) -> None:
    new = np.array(share)
    assumed, exact, y = calibrated(new, 20_000)
    found = estimate_prior(assumed, TRAINED)
    np.testing.assert_allclose(found, new, atol=0.015)
    np.testing.assert_allclose(PriorShift(TRAINED, new).apply(assumed), exact, atol=1e-12)
    corrected = PriorShift(TRAINED, found).apply(assumed)
    assert (corrected.argmax(1) == y).mean() > (assumed.argmax(1) == y).mean() + 0.005


def test_calibrated_posteriors_without_a_shift_stay() -> None:
    assumed, _, _ = calibrated(TRAINED, 40_000)
    found = estimate_prior(assumed, TRAINED)
    np.testing.assert_allclose(found, TRAINED, atol=0.01)
    np.testing.assert_allclose(PriorShift(TRAINED, found).apply(assumed), assumed, atol=0.01)


def test_it_is_a_fixed_point_and_climbs_the_likelihood() -> None:
    assumed, _, _ = calibrated(np.array([0.2, 0.2, 0.6]), 3_000)
    found = estimate_prior(assumed, TRAINED)
    np.testing.assert_allclose(PriorShift(TRAINED, found).apply(assumed).mean(0), found, atol=1e-5)

    def likelihood(share: np.ndarray) -> float:
        return float(np.log((assumed * share / TRAINED).sum(1)).mean())

    best = likelihood(found)
    for other in (TRAINED, uniform_prior(3), np.array([0.2, 0.2, 0.6])):
        assert likelihood(other) <= best + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 10**6))
def test_shares_and_posteriors_are_distributions(rows: int, classes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    posterior, trained = draw.dirichlet(np.full(classes, 0.3), rows), draw.dirichlet(np.ones(classes))
    trained = np.maximum(trained, 1e-3) / np.maximum(trained, 1e-3).sum()
    found = estimate_prior(posterior, trained)
    assert found.sum() == pytest.approx(1)
    corrected = PriorShift(trained, found).apply(posterior)
    assert (corrected >= 0).all()
    np.testing.assert_allclose(corrected.sum(1), 1)
    np.testing.assert_allclose(PriorShift(found + 1e-9, trained).apply(corrected).sum(1), 1)
    np.testing.assert_allclose(PriorShift(trained, trained).apply(posterior), posterior, atol=1e-12)


def test_parts_give_what_the_whole_gives() -> None:
    assumed, _, _ = calibrated(np.array([0.2, 0.2, 0.6]), 70_000)
    whole = estimate_prior(assumed, TRAINED)
    parts = estimate_streaming((assumed[a : a + 999] for a in range(0, 70_000, 999)), TRAINED)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    with pytest.raises(DataError, match="no parcel with a clear date"):
        estimate_streaming(iter([np.zeros((0, 3))]), TRAINED)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with pytest.raises(CropgenError, match="cannot keep class probabilities in"):
        estimate_streaming(iter([np.full((2, 3), 1 / 3)]), TRAINED)


def test_the_distance_of_shares() -> None:
    assert PriorShift(TRAINED, TRAINED).distance == 0
    assert PriorShift(TRAINED, np.array([0.2, 0.3, 0.5])).distance == pytest.approx(0.3)


def test_shares_far_from_the_training_are_warned_of(region: Region, tmp_path: Path) -> None:
    for kept, far in ((slice(0, None), False), (slice(0, None, 3), True)):
        series = SeriesStore.open(region.store).read(slice(0, PARCELS)).take(np.arange(PARCELS)[kept])
        series = series.take(series.label == 0) if far else series
        path = tmp_path / f"{far}.zarr"
        SeriesStore.create(path, bands=series.bands, legend=LEGEND).append(series)
        layer = tmp_path / f"{far}_2021.gpkg"
        chosen = region.parcels[region.parcels["parcel_id"].isin(series.parcel_id.tolist())]
        pyogrio.write_dataframe(chosen, layer, geometry_type="Unknown")
        report = Silent()
        predict(region.run, layer, path, tmp_path / f"{far}.gpkg", PredictOptions(prior="em"), report)
        assert any("differ by" in line for line in report.warnings) == far


def test_an_absent_class_gets_no_probability() -> None:
    shift = PriorShift(TRAINED, np.array([0.0, 0.4, 0.6]))
    corrected = shift.apply(np.array([[0.8, 0.1, 0.1], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(corrected, [[0, 4 / 13, 9 / 13], [0, 0.4, 0.6]])


@pytest.mark.parametrize("name", ["run", "discriminative"])
def test_the_prior_of_a_model_is_that_of_its_labels(region: Region, name: str) -> None:
    np.testing.assert_allclose(class_prior(load_model(getattr(region, name))), np.array([30, 30, 29]) / 89, atol=0.02)


@pytest.mark.parametrize("name", ["srnn", "pool"])
def test_the_prior_of_a_model_with_site_covariates_is_that_of_an_unknown_site(name: str) -> None:
    series = observed(2021, seed=0)
    spec = InputSpec(BANDS, Calendar.fitted(series, "month"), LEGEND, site=("lat",))
    batch = replace(spec.batch(series), site=torch.linspace(45, 47, PARCELS)[:, None])
    members = {"generative": "srnn", "generative_options": TINY | {"steps": 2}, "discriminative_options": {"steps": 2}}
    options = members if name == "pool" else TINY | {"steps": 2}
    model = fit_model(name, options, spec, TrainingData(batch), seed=0).model
    cloudy = replace(batch.take(torch.tensor([CLOUDY])), site=torch.full((1, 1), torch.nan))
    np.testing.assert_allclose(class_prior(model), infer(model, cloudy).probability[0], atol=1e-6)


def test_shares_are_read_by_code_or_name(tmp_path: Path) -> None:
    path = tmp_path / "shares.csv"
    path.write_text("crop_code,area\n0010,30\nmaïs,50\nx,20\n", encoding="utf-8")
    np.testing.assert_allclose(read_prior(path, LEGEND), [0.3, 0.5, 0.2])
    path.write_text("Name,Share\n4-1,0.25\n", encoding="utf-8")
    np.testing.assert_allclose(read_prior(path, LEGEND), [0, 1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop_code,share\nrye,1\n", "rye is not a crop of the model"),
        ("crop,value\nx,1\n", "expected a column share or prior, got crop, value"),
        ("crop_code,share\nx,much\n", "must hold numbers"),
        ("crop_code,share\nx,-1\n", "must hold numbers"),
        ("crop_code,share\nx,0\n", "must hold numbers"),
        ("", "is not csv"),
    ],
)
def test_unusable_shares_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "shares.csv"
    path.write_text(text)
    with pytest.raises(SchemaError, match=message):
        read_prior(path, LEGEND)
    with pytest.raises(MissingInputError):
        read_prior(tmp_path / "none.csv", LEGEND)
    with pytest.raises(SchemaError, match="is not csv"):
        read_prior(tmp_path, LEGEND)


def test_crops_of_one_name_are_added_up_and_named_by_code(region: Region, tmp_path: Path) -> None:
    alike = Legend("alike", tuple(replace(crop, name="other") for crop in LEGEND.classes[:2]) + LEGEND.classes[2:])
    run = Path(shutil.copytree(region.run, tmp_path / "run"))
    description = json.loads((run / "model.json").read_text())
    description["spec"]["legend"] = alike.to_json()
    (run / "model.json").write_text(json.dumps(description))
    done = predict(run, region.layer, region.store, tmp_path / "map.gpkg", PredictOptions(prior="uniform"))
    codes = pyogrio.read_dataframe(tmp_path / "map.gpkg", layer="predictions")["pred_crop_code"].value_counts()
    assert done.crops == {"other": codes["0010"] + codes["4-1"], "fallow": codes["x"]}
    assert done.shares == pytest.approx({"other": 2 / 3, "fallow": 1 / 3}, abs=1e-6)
    shares = tmp_path / "shares.csv"
    shares.write_text("crop_code,share\nother,1\n")
    with pytest.raises(SchemaError, match="other is the name of 2 crops of the model: 0010, 4-1"):
        read_prior(shares, alike)
    shares.write_text("crop_code,share\n4-1,1\n")
    np.testing.assert_allclose(read_prior(shares, alike), [0, 1, 0])


def predicted(region: Region, path: Path, prior: str | Path | None) -> tuple[dict[str, float], gpd.GeoDataFrame]:
    done = predict(region.run, region.layer, region.store, path, PredictOptions(prior=prior))
    return done.shares, pyogrio.read_dataframe(path, layer=PROBABILITIES)


def probabilities(side: gpd.GeoDataFrame) -> np.ndarray:
    return side[["p_0010", "p_4_1", "p_x"]].to_numpy(np.float64)


def test_predictions_are_reweighed(region: Region, tmp_path: Path) -> None:
    kept, plain = predicted(region, tmp_path / "plain.gpkg", None)
    assert kept == {}
    trained = class_prior(load_model(region.run))
    file = tmp_path / "shares.csv"
    file.write_text("crop_code,share\n0010,8\n4-1,1\nx,1\n")
    for prior, expected in (("uniform", [1 / 3] * 3), (file, [0.8, 0.1, 0.1])):
        path = tmp_path / f"{Path(prior).stem}.gpkg"
        shares, side = predicted(region, path, prior)
        assert shares == pytest.approx(dict(zip(LEGEND.names, expected, strict=True)), abs=1e-6)
        corrected = PriorShift(trained, np.array(expected)).apply(probabilities(plain))
        np.testing.assert_allclose(probabilities(side), corrected, atol=1e-6)
        layer = pyogrio.read_dataframe(path, layer=LAYER).iloc[:-1]
        np.testing.assert_allclose(layer["pred_probability"], corrected.max(1), atol=1e-6)
        assert pyogrio.read_info(path, layer=LAYER)["layer_metadata"]["CROPGEN_PRIOR"] == Path(prior).name


def test_estimated_shares_are_those_of_the_parcels(region: Region, tmp_path: Path) -> None:
    shares, side = predicted(region, tmp_path / "em.gpkg", "em")
    model = load_model(region.run)
    series = SeriesStore.open(region.store).read(slice(0, PARCELS)).take(np.arange(PARCELS) != CLOUDY)
    posterior = infer(model, make_batch(series, model.spec.calendar)).probability
    expected = estimate_prior(posterior, class_prior(model))
    np.testing.assert_allclose(list(shares.values()), expected, atol=1e-4)
    cloudy = side.set_index("parcel_id").loc[f"p{CLOUDY:03d}", ["p_0010", "p_4_1", "p_x"]]
    np.testing.assert_allclose(cloudy.to_numpy(float), expected, atol=1e-4)


def test_parcels_without_series_are_said_before_shares(region: Region, tmp_path: Path) -> None:
    layer = tmp_path / "strangers_2021.gpkg"
    strangers = region.parcels.iloc[:4].assign(parcel_id=["a", "b", "c", "d"])
    pyogrio.write_dataframe(strangers, layer, geometry_type="Unknown")
    with pytest.raises(DataError, match=r"no parcel of .* has a series"):
        predicted(Region(**{**vars(region), "layer": layer}), tmp_path / "out.gpkg", "em")
    assert not (tmp_path / "out.gpkg").exists()
