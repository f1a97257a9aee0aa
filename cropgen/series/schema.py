"""The container parcels × time × bands, as it is held in memory.

A `ParcelSeries` holds N parcel seasons. A parcel that was observed in two years is two rows with one `parcel_id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from cropgen.core.errors import SchemaError
from cropgen.series.legend import UNKNOWN
from cropgen.series.pixel_sets import PixelSets, concatenate_sets

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ParcelSeries:
    """N parcel seasons of up to T dates in C named bands.

    Arguments:
        bands: names of the C bands, e.g. `("B02", "B03", …)`; indices such as `("NDVI",)` are bands too.
        values: (N, T, C) float32, reflectance 0–1 or an index; 0 wherever `mask` (or `band_mask`) is false; never NaN.
        mask: (N, T) bool, true where the parcel was clearly observed. Padding is false and at the end.
        day: (N, T) int32, days since 1970-01-01 (UTC); ascending among clear dates; padding repeats the last day or 0.
        parcel_id: (N,) unicode, the id of the source.
        year: (N,) int16, the harvest year the label belongs to.
        region: (N,) unicode, any grouping in space that the source names ("" when it names none).
        label: (N,) int32, position in the legend of the store, −1 unknown.
        lon, lat: (N,) float64 degrees (WGS 84) of a point inside the parcel; NaN where there is no geometry.
        band_mask: (N, T, C) bool or None, for sources where single bands are missing on a clear date.
        pixels: (N, T) int32 or None, clear pixels behind each observation.
        pixel_sets: a few pixels of each parcel at the same dates, or None; clear only where `mask` is true.
    """

    bands: tuple[str, ...]
    values: np.ndarray
    mask: np.ndarray
    day: np.ndarray
    parcel_id: np.ndarray
    year: np.ndarray
    region: np.ndarray
    label: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    band_mask: np.ndarray | None = None
    pixels: np.ndarray | None = None
    pixel_sets: PixelSets | None = None

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_content()

    def _check_shapes(self) -> None:
        if self.values.ndim != 3:
            raise SchemaError(f"values must be (parcels, dates, bands), got {self.values.ndim} dimensions")
        n, t, c = self.values.shape
        expected: dict[str, tuple[int, ...]] = {
            "mask": (n, t), "day": (n, t), "band_mask": (n, t, c), "pixels": (n, t),
            "parcel_id": (n,), "year": (n,), "region": (n,), "label": (n,), "lon": (n,), "lat": (n,),
        }  # fmt: skip
        if len(self.bands) != c:
            raise SchemaError(f"{c} bands of values but {len(self.bands)} band names: {', '.join(self.bands)}")
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise SchemaError(f"{name}: expected shape {shape}, got {array.shape}")
        sets = self.pixel_sets
        if sets is None:
            return
        if sets.mask.shape[:2] != (n, t) or sets.bands != tuple(band for band in self.bands if band in sets.bands):
            raise SchemaError(
                f"pixel sets: expected {n} rows, {t} dates and bands among {', '.join(self.bands)} in this order, "
                f"got {sets.mask.shape[0]}, {sets.mask.shape[1]} and {', '.join(sets.bands)}"
            )

    def _check_content(self) -> None:
        if not np.isfinite(self.values).all():
            raise SchemaError("values hold NaN or infinity", hint="mark missing observations in mask and store 0")
        if self.values[~self.mask].any():
            raise SchemaError("values are not 0 at masked dates", hint="use ParcelSeries.build, which clears them")

    @classmethod
    def build(
        cls,
        *,
        bands: Sequence[str],
        values: np.ndarray,
        mask: np.ndarray,
        day: np.ndarray,
        parcel_id: Sequence[str] | np.ndarray,
        year: int | np.ndarray,
        region: str | Sequence[str] | np.ndarray = "",
        label: np.ndarray | None = None,
        lon: np.ndarray | None = None,
        lat: np.ndarray | None = None,
        band_mask: np.ndarray | None = None,
        pixels: np.ndarray | None = None,
        pixel_sets: PixelSets | None = None,
    ) -> ParcelSeries:
        """Make a valid container from what a reader has: types cast, non-finite and masked values cleared to 0.

        A date with a non-finite value in any band becomes masked, unless `band_mask` says band by band what counts.
        """
        values = np.asarray(values, dtype=np.float32)
        mask = np.asarray(mask, dtype=bool)
        finite = np.isfinite(values)
        if band_mask is None:
            mask = mask & finite.all(-1)
            keep = np.broadcast_to(mask[..., None], values.shape)
        else:
            band_mask = np.asarray(band_mask, dtype=bool) & finite & mask[..., None]
            mask = mask & band_mask.any(-1)
            keep = band_mask
        n = values.shape[0]
        nowhere = np.full(n, np.nan)
        return cls(
            bands=tuple(bands),
            values=np.where(keep, values, np.float32(0)),
            mask=mask,
            day=np.asarray(day, dtype=np.int32),
            parcel_id=np.asarray(parcel_id, dtype=np.str_),
            year=np.broadcast_to(np.asarray(year, dtype=np.int16), (n,)).copy(),
            region=np.broadcast_to(np.asarray(region, dtype=np.str_), (n,)).copy(),
            label=np.full(n, UNKNOWN, np.int32) if label is None else np.asarray(label, dtype=np.int32),
            lon=nowhere if lon is None else np.asarray(lon, dtype=np.float64),
            lat=nowhere if lat is None else np.asarray(lat, dtype=np.float64),
            band_mask=band_mask,
            pixels=None if pixels is None else np.asarray(pixels, dtype=np.int32),
            pixel_sets=None if pixel_sets is None else pixel_sets.within(mask),
        )

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def clear_dates(self) -> np.ndarray:
        """(N,) int: clear observations per row."""
        return self.mask.sum(1)

    @property
    def complete(self) -> np.ndarray:
        """(N, T) bool: clear dates on which every band was observed, the only ones that models see."""
        return self.mask if self.band_mask is None else self.mask & self.band_mask.all(-1)

    @property
    def season_day(self) -> np.ndarray:
        """(N, T) int32: days since 1 January of the row's `year` (negative in the autumn before)."""
        start = (self.year.astype(np.int64) - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int32)
        return self.day - start[:, None]

    def take(self, rows: np.ndarray | slice) -> ParcelSeries:
        """The rows selected by an index array, a boolean array or a slice."""
        picked: dict[str, Any] = {}
        for field in fields(self):
            array = getattr(self, field.name)
            if field.name != "bands" and array is not None:
                picked[field.name] = array.take(rows) if isinstance(array, PixelSets) else array[rows]
        return replace(self, **picked)

    def select_bands(self, names: Sequence[str]) -> ParcelSeries:
        """The same rows with the named bands, in that order; pixel sets keep those of them that they hold.

        Raises:
            SchemaError: a band is not there.
        """
        missing = [name for name in names if name not in self.bands]
        if missing:
            raise SchemaError(
                f"bands missing: {', '.join(missing)}; the series has {', '.join(self.bands)}",
                hint="aggregate or import the series with these bands",
            )
        if tuple(names) == self.bands:
            return self
        index = [self.bands.index(name) for name in names]
        band_mask = None if self.band_mask is None else self.band_mask[..., index]
        mask = self.mask if band_mask is None else self.mask & band_mask.any(-1)
        sets = None if self.pixel_sets is None else self.pixel_sets.select_bands(names)
        return replace(
            self,
            bands=tuple(names),
            values=self.values[..., index],
            mask=mask,
            band_mask=band_mask,
            pixel_sets=sets if sets is None or band_mask is None else sets.within(mask),
        )

    def padded(self, dates: int) -> ParcelSeries:
        """The same rows with the date axis extended to `dates` by masked padding."""
        extra = dates - self.values.shape[1]
        if extra < 0:
            raise SchemaError(f"cannot pad {self.values.shape[1]} dates to {dates}")
        if extra == 0:
            return self

        def grow(array: np.ndarray | None, mode: str) -> np.ndarray | None:
            if array is None:
                return None
            width = [(0, 0), (0, extra)] + [(0, 0)] * (array.ndim - 2)
            edge = mode == "edge" and array.shape[1] > 0
            return np.pad(array, width, mode="edge") if edge else np.pad(array, width)

        return replace(
            self,
            **{
                name: grow(getattr(self, name), "edge" if name == "day" else "constant")
                for name in ("values", "mask", "day", "band_mask", "pixels")
            },
            pixel_sets=None if self.pixel_sets is None else self.pixel_sets.padded(extra),
        )


def concatenate(parts: Sequence[ParcelSeries]) -> ParcelSeries:
    """Rows of several containers with the same bands, padded to the longest.

    Raises:
        SchemaError: bands or pixel sets differ, or nothing was given.
    """
    if not parts:
        raise SchemaError("nothing to concatenate")
    bands = parts[0].bands
    for part in parts:
        if part.bands != bands:
            raise SchemaError(f"bands differ: {', '.join(bands)} and {', '.join(part.bands)}")
    dates = max(part.values.shape[1] for part in parts)
    grown = [part.padded(dates) for part in parts]
    merged: dict[str, Any] = {}
    for field in fields(ParcelSeries):
        arrays = [getattr(part, field.name) for part in grown]
        if field.name == "bands":
            merged["bands"] = bands
        elif field.name == "pixel_sets":
            merged["pixel_sets"] = concatenate_sets(arrays)
        elif field.name in ("band_mask", "pixels"):
            merged[field.name] = _concatenate_optional(field.name, arrays, grown)
        else:
            merged[field.name] = np.concatenate(arrays)
    return ParcelSeries(**merged)


def _concatenate_optional(name: str, arrays: list[Any], parts: list[ParcelSeries]) -> np.ndarray | None:
    if all(array is None for array in arrays):
        return None
    if name == "band_mask":
        arrays = [
            np.broadcast_to(p.mask[..., None], p.values.shape) if a is None else a
            for a, p in zip(arrays, parts, strict=True)
        ]
    elif any(array is None for array in arrays):
        return None
    return np.concatenate(arrays)
