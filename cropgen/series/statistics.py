"""What is in a store, counted: the figures behind `cropgen info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cropgen.core.progress import Reporter, Silent
from cropgen.series.legend import UNKNOWN
from cropgen.series.store import SeriesStore

if TYPE_CHECKING:
    import pandas

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS = 2048


def summarise(store: SeriesStore, report: Reporter | None = None) -> dict[str, Any]:
    """Counts and ranges of a store, in one pass and bounded memory.

    Returns:
        A JSON-able document: rows, parcels, dates, years, regions, extent, `classes` (count and share of the labelled
        rows, over all and per year), `clear_dates` (quantiles per row, mean per row and month), `bands` (minimum,
        quantiles to 1/2048 of the range, mean and maximum of clear observations), `pixel_sets` where there are any.
    """
    index = store.index()
    months, bands = _observations(store, report or Silent())
    years = np.unique(index["year"].to_numpy()).tolist()
    regions = np.unique(index["region"].to_numpy().astype(str), return_counts=True)
    return {
        "path": str(store.path),
        "rows": len(store),
        "parcels": int(index.groupby(["region", "parcel_id"], sort=False).ngroups) if len(index) else 0,
        "dates": store.dates,
        "years": {str(y): int((index["year"] == y).sum()) for y in years},
        "regions": dict(zip(regions[0].tolist(), regions[1].tolist(), strict=True)),
        "extent": _extent(index),
        "crs": store.crs,
        "legend": store.legend.name,
        "classes": _classes(store, index, years),
        "unlabelled": int(np.count_nonzero(index["label"].to_numpy() == UNKNOWN)),
        "clear_dates": {"quantiles": _quantiles(index["clear_dates"].to_numpy()), "months": months},
        "bands": bands,
        **({"pixel_sets": {"pixels": store.pixels, "bands": list(store.pixel_bands)}} if store.pixels else {}),
        "source": store.source,
        "fingerprint": store.fingerprint(),
    }


def _classes(store: SeriesStore, index: pandas.DataFrame, years: list[int]) -> list[dict[str, Any]]:
    label, year = index["label"].to_numpy(), index["year"].to_numpy()
    labelled = label > UNKNOWN
    total = np.bincount(label[labelled], minlength=len(store.legend))
    per_year = {y: np.bincount(label[labelled & (year == y)], minlength=len(store.legend)) for y in years}
    return [
        {
            "code": entry.code,
            "name": entry.name,
            "colour": entry.colour,
            "count": int(total[k]),
            "prior": _share(total, k),
            "years": {str(y): {"count": int(c[k]), "prior": _share(c, k)} for y, c in per_year.items()},
        }
        for k, entry in enumerate(store.legend.classes)
    ]


def _share(counts: np.ndarray, k: int) -> float:
    return float(counts[k] / max(int(counts.sum()), 1))


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(values, q)) for q in _QUANTILES} if len(values) else {}


def _extent(index: pandas.DataFrame) -> list[float] | None:
    place = index[["lon", "lat"]].dropna()
    if place.empty:
        return None
    return [*(float(v) for v in place.min()), *(float(v) for v in place.max())]


def _observations(store: SeriesStore, report: Reporter) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Clear observations per row and calendar month, and the range of each band."""
    months = np.zeros(12, np.int64)
    histogram = _BandHistogram(len(store.bands))
    with report.task("reading series", len(store)) as task:
        for rows in store.chunks(16384):
            series = store.read(rows)
            month = series.day[series.mask].astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
            months += np.bincount(month, minlength=12)
            clear = series.mask[..., None] if series.band_mask is None else series.band_mask
            histogram.add(series.values, np.broadcast_to(clear, series.values.shape))
            task.advance(rows.stop - rows.start)
    rows_seen = max(len(store), 1)
    return {str(m + 1): float(months[m] / rows_seen) for m in range(12)}, histogram.document(store.bands)


class _BandHistogram:
    """Range, mean and quantiles of each band; bins cover −1 … 2 and are exact at the ends."""

    _LOW, _HIGH = -1.0, 2.0

    def __init__(self, bands: int) -> None:
        self._counts = np.zeros((bands, _BINS), np.int64)
        self._total = np.zeros(bands)
        self._low = np.full(bands, np.inf)
        self._high = np.full(bands, -np.inf)

    def add(self, values: np.ndarray, clear: np.ndarray) -> None:
        for band in range(values.shape[-1]):
            seen = values[..., band][clear[..., band]].astype(np.float64)
            if not len(seen):
                continue
            position = np.floor((seen - self._LOW) / (self._HIGH - self._LOW) * _BINS).clip(0, _BINS - 1)
            self._counts[band] += np.bincount(position.astype(np.int64), minlength=_BINS)
            self._total[band] += seen.sum()
            self._low[band] = min(self._low[band], seen.min())
            self._high[band] = max(self._high[band], seen.max())

    def document(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        return [self._band(name, band) for band, name in enumerate(names)]

    def _band(self, name: str, band: int) -> dict[str, Any]:
        count = int(self._counts[band].sum())
        if not count:
            return {"name": name, "observations": 0}
        share = np.cumsum(self._counts[band]) / count
        centres = self._LOW + (np.arange(_BINS) + 0.5) * (self._HIGH - self._LOW) / _BINS
        inner = {f"q{round(100 * q):02d}": float(centres[np.searchsorted(share, q)]) for q in (0.05, 0.5, 0.95)}
        low, high = float(self._low[band]), float(self._high[band])
        inner = {key: min(max(value, low), high) for key, value in inner.items()}
        return {
            "name": name,
            "observations": count,
            "min": low,
            **inner,
            "max": high,
            "mean": float(self._total[band] / count),
        }
