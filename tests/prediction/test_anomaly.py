"""The column `anomaly`: what the upper levels of latents say of a season, beside a prediction that stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch

from cropgen.core.errors import UsageError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model, save_model
from cropgen.models.layers.vae.level_bounds import LevelledModel
from cropgen.prediction.columns import ANOMALY_COLUMN
from cropgen.prediction.options import PredictOptions
from cropgen.prediction.predict import predict
from cropgen.series.batches import make_batch
from cropgen.series.calendar import Calendar
from tests.cli.conftest import call
from tests.prediction.conftest import BANDS, CLOUDY, LEGEND, PARCELS, Region, observed

SMALL: dict[str, object] = {"levels": 2, "latent": 1, "hidden": 4, "samples": 2, "copies": 64, "steps": 1}
NAME = f"pred_{ANOMALY_COLUMN.name}"


def kept(region: Region, folder: Path) -> tuple[Path, LevelledModel]:
    """A run of a ladder whose levels say something."""
    series = observed(2021, 0)
    spec = InputSpec(BANDS, Calendar.fitted(series, "month"), LEGEND)
    torch.manual_seed(0)
    model = cast(LevelledModel, build_model("sdn-vae", SMALL, spec))
    model.prepare(TrainingData(make_batch(series, spec.calendar)), Context())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_model(folder / "ladder", model.eval(), "sdn-vae")
    return folder / "ladder", model


def test_the_column_is_the_score_of_the_model_and_the_others_stay(region: Region, tmp_path: Path) -> None:
    run, model = kept(region, tmp_path)
    tables = {}
    for level in (None, 1):
        path = tmp_path / f"{level}.parquet"
        predict(run, region.layer, region.store, path, PredictOptions(anomaly_level=level))
        tables[level] = gpd.read_parquet(path).set_index("parcel_id")
    plain, asked = tables[None], tables[1]
    assert [name for name in asked.columns if name not in plain.columns] == [NAME]
    pd.testing.assert_frame_equal(pd.DataFrame(asked[plain.columns]), pd.DataFrame(plain))
    with torch.inference_mode():
        expected = model.anomaly_score(make_batch(observed(2021, 0), model.spec.calendar).without_labels(), 1)
    seen = np.arange(PARCELS) != CLOUDY
    found = asked[NAME].reindex([f"p{i:03d}" for i in range(PARCELS)]).to_numpy(np.float64)
    np.testing.assert_allclose(found[seen], expected.numpy()[seen], rtol=1e-4)
    assert np.isnan(found[CLOUDY]), "a season that was never seen is neither usual nor unusual"
    assert asked[NAME].reindex(["stranger"]).isna().all()


def test_what_a_model_cannot_tell_is_refused_at_once(region: Region, tmp_path: Path) -> None:
    run, _ = kept(region, tmp_path)
    output = tmp_path / "map.gpkg"
    with pytest.raises(UsageError, match="expected 0 to 2, the levels of this run's model, got 3"):
        predict(run, region.layer, region.store, output, PredictOptions(anomaly_level=3))
    with pytest.raises(UsageError, match="has no levels of latents"):
        predict(region.run, region.layer, region.store, output, PredictOptions(anomaly_level=1))
    assert not output.exists()


@pytest.mark.slow
def test_it_is_an_option_of_predict(region: Region, tmp_path: Path) -> None:
    run, _ = kept(region, tmp_path)
    words = ("predict", region.layer, "--run", run, "--data", region.store, "--workspace", tmp_path)
    done = call(*words, "--anomaly-level", "2", "-o", tmp_path / "map.parquet")
    assert done.code == 0, done.err
    scores = gpd.read_parquet(tmp_path / "map.parquet")[NAME].to_numpy(np.float64)
    assert int(np.isfinite(scores).sum()) == PARCELS - 1
    refused = call(*words, "--anomaly-level", "3", "-o", tmp_path / "more.parquet")
    assert refused.code == 2
    assert "expected 0 to 2" in refused.err
