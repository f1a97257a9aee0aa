"""How the real series are split: rows to learn from, held-out blocks, and the halves of another region or period."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import readers

from cropgen.series.splits import holdout

FOLDERS = {
    "arkansas": ("us-cdl-s2-2021-arkansas", readers.arkansas),
    "fergana": ("central-asia-crops", readers.central_asia),
    "bavaria": ("worldcrops-bavaria", readers.bavaria),
    "modis": ("sits-modis", readers.modis),
    "france": ("worldcereal-classification", readers.france),
}
BLOCK_KM = {"arkansas": 5.0, "fergana": 2.0, "modis": 5.0, "france": 5.0, "bavaria": 0.5}
LEAST = 10  # rows of a crop that is learnt from, where rare ones are left out


@cache
def read(data: str, root: str) -> readers.RealData:
    """The real series of a data set (series, legend, geometry)."""
    folder, reader = FOLDERS[data]
    return reader(Path(root) / folder)


def common(series: Any, legend: Any, least: int, chosen: np.ndarray) -> np.ndarray:
    """Rows among the chosen whose crop has at least `least` of them."""
    count = np.bincount(series.label[chosen & (series.label >= 0)], minlength=len(legend))
    return np.flatnonzero(chosen & np.isin(series.label, np.flatnonzero(count >= least)))


def blocks(series: Any, rows: np.ndarray, share: float, seed: int, block_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows kept and rows held out, about `share` of them, no spatial block on both sides."""
    index = pd.DataFrame(
        {"parcel_id": series.parcel_id, "region": series.region, "label": series.label, "lon": series.lon,
         "lat": series.lat}
    )  # fmt: skip
    split = holdout(index.iloc[rows].reset_index(drop=True), share, seed, block_km)
    return rows[split.train], rows[split.test]


def source_and_target(data: str, series: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: zone 0 and zone 1 of Arkansas; 2015–2016 and 2017–2018 of Fergana; harvests to 2015 and of 2016
    of Mato Grosso."""
    source = {
        "arkansas": lambda: series.region == "Z0",
        "fergana": lambda: series.year <= 2016,
        "modis": lambda: series.year <= 2015,
    }[data]()
    return source, ~source
