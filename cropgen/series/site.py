"""Site covariates: what is known of the place of a parcel and does not change over its season.

lon, lat          degrees (WGS 84) of the point inside the parcel
any other name    a channel of the series that is the same at every date, such as `elevation` and `slope`
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cropgen.core.errors import SchemaError
from cropgen.series.schema import ParcelSeries

POSITION = ("lon", "lat")


def site_covariates(series: ParcelSeries, names: Sequence[str]) -> np.ndarray:
    """(N, S) float32 site covariates by name; a channel's mean over the dates it is known at, NaN where never known.

    Raises:
        SchemaError: a name is neither a position nor a channel of the series.
    """
    missing = [name for name in names if name not in POSITION and name not in series.bands]
    if missing:
        raise SchemaError(
            f"site covariates missing: {', '.join(missing)}; the series has {', '.join(series.bands)}",
            hint="name lon, lat or channels of the series; cropgen aggregate --dem FILE adds elevation and slope",
        )
    columns = [getattr(series, name) if name in POSITION else _of_channel(series, name) for name in names]
    return np.stack(columns, 1).astype(np.float32) if columns else np.zeros((len(series), 0), np.float32)


def _of_channel(series: ParcelSeries, name: str) -> np.ndarray:
    place = series.bands.index(name)
    known = series.mask if series.band_mask is None else series.band_mask[..., place]
    number = known.sum(1)
    total = (series.values[..., place].astype(np.float64) * known).sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
