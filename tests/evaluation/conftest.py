from __future__ import annotations

import numpy as np
import pytest

from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.store import SeriesStore

LEGEND = Legend.from_codes("toy", ["barley", "flax", "maize", "wheat"])


def make_season(year: int, parcels: int = 120, *, shift: float = 0.0, seed: int = 0) -> ParcelSeries:
    """Parcels on a 6 km square whose level tells the crop; flax grows in the last quarter of ids only from 2022."""
    generator = np.random.default_rng([seed, 7])
    place = generator.random((parcels, 2)) * 6 / 111.2
    crop = generator.choice([0, 2, 3], size=parcels)
    if year >= 2022:
        crop[-parcels // 8 :] = 1
    noise = np.random.default_rng([seed, year]).normal(0, 0.02, (parcels, 5, 2))
    values = 0.2 + 0.1 * crop[:, None, None] + shift + noise
    day = np.arange(5) * 30 + 40 + (np.datetime64(f"{year}-01-01") - np.datetime64("1970-01-01")).astype(int)
    return ParcelSeries.build(
        bands=("B04", "B08"), values=values, mask=np.ones((parcels, 5), bool), day=np.tile(day, (parcels, 1)),
        parcel_id=np.char.add("p", np.arange(parcels).astype(str)), year=year,
        region=np.where(place[:, 0] > 3 / 111.2, "east", "west"), label=crop, lon=place[:, 0], lat=place[:, 1],
    )  # fmt: skip


@pytest.fixture
def season():
    return make_season


@pytest.fixture
def legend() -> Legend:
    return LEGEND


@pytest.fixture
def store(tmp_path) -> SeriesStore:
    made = SeriesStore.create(tmp_path / "toy" / "series.zarr", bands=("B04", "B08"), legend=LEGEND)
    made.append(concatenate([make_season(2021), make_season(2022, shift=0.06)]))
    return made
