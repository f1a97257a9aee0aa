"""What is in a store, counted: the figures behind `cropgen info`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cropgen.core.progress import Reporter, Silent
from cropgen.series.legend import UNKNOWN
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

if TYPE_CHECKING:
    import pandas

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS = 2048


def summarise(store: SeriesStore, report: Reporter | None = None) -> dict[str, Any]:
    """Counts and ranges of a store, in bounded memory: in one pass, or two where a band leaves −1 … 2.

    Returns:
        A JSON-able document: rows, parcels, dates, years, regions, extent, `classes` (count and share of the labelled
        rows, over all and per year), `clear_dates` (quantiles per row, mean per row and month), `bands` (minimum,
        quantiles to 1/2048 of −1 … 2, or of the band's own range where it leaves that, mean and maximum of clear
        observations), `pixel_sets` where there are any.
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
    bands = [_BandHistogram() for _ in store.bands]
    for series in _parts(store, report):
        month = series.day[series.mask].astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
        months += np.bincount(month, minlength=12)
        for place, band in enumerate(bands):
            band.add(_seen(series, place))
    wide = {place: band.over_its_range() for place, band in enumerate(bands) if band.leaves_bins}
    if wide:
        for series in _parts(store, report):
            for place, band in wide.items():
                band.add(_seen(series, place))
    rows_seen = max(len(store), 1)
    found = [wide.get(place, band).document(store.bands[place]) for place, band in enumerate(bands)]
    return {str(m + 1): float(months[m] / rows_seen) for m in range(12)}, found


def _parts(store: SeriesStore, report: Reporter) -> Iterator[ParcelSeries]:
    with report.task("reading series", len(store)) as task:
        for rows in store.chunks(16384):
            yield store.read(rows)
            task.advance(rows.stop - rows.start)


def _seen(series: ParcelSeries, band: int) -> np.ndarray:
    """Clear values (M,) float64 of a band."""
    clear = series.mask if series.band_mask is None else series.band_mask[..., band]
    return series.values[..., band][clear].astype(np.float64)


class _BandHistogram:
    """Range, mean and quantiles of a band; bins cover −1 … 2, or what is stated, and are exact at the ends."""

    def __init__(self, low: float = -1.0, high: float = 2.0) -> None:
        self._from, self._to = low, high
        self._counts = np.zeros(_BINS, np.int64)
        self._total = 0.0
        self._low, self._high = np.inf, -np.inf

    @property
    def leaves_bins(self) -> bool:
        """Whether a value lies where there is no bin."""
        return self._low < self._from or self._high > self._to

    def over_its_range(self) -> _BandHistogram:
        """An empty histogram with bins over the range of this one."""
        return _BandHistogram(self._low, self._high)

    def add(self, seen: np.ndarray) -> None:
        if not len(seen):
            return
        width = (self._to - self._from) or 1.0
        position = np.floor((seen - self._from) / width * _BINS).clip(0, _BINS - 1)
        self._counts += np.bincount(position.astype(np.int64), minlength=_BINS)
        self._total += float(seen.sum())
        self._low, self._high = min(self._low, float(seen.min())), max(self._high, float(seen.max()))

    def document(self, name: str) -> dict[str, Any]:
        count = int(self._counts.sum())
        if not count:
            return {"name": name, "observations": 0}
        share = np.cumsum(self._counts) / count
        centres = self._from + (np.arange(_BINS) + 0.5) * (self._to - self._from) / _BINS
        inner = {f"q{round(100 * q):02d}": float(centres[np.searchsorted(share, q)]) for q in (0.05, 0.5, 0.95)}
        inner = {key: min(max(value, self._low), self._high) for key, value in inner.items()}
        return {
            "name": name,
            "observations": count,
            "min": self._low,
            **inner,
            "max": self._high,
            "mean": self._total / count,
        }
