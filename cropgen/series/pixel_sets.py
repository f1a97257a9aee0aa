"""Pixel sets: the same few pixels of each parcel at every date, for models that look inside a parcel.

A set holds up to S pixels. A parcel of fewer has fewer: its other places are never clear, so that statistics over the
clear pixels are those of the parcel's own. Values are kept as Sentinel-2 products keep them, in ten-thousandths, which
is exact there, a third of the room of single precision on disk and half of it in memory.

Which pixels: the S least of all the parcel's pixels by a hash of parcel id and place on the ground. It is a uniform
sample that depends neither on the order of parcels nor on how scenes are cut into tiles.

Reference: Satellite Image Time Series Classification with Pixel-Set Encoders and Temporal Self-Attention, Sainte Fare
Garnot, Landrieu, Giordano and Chehata, 2020 (pixel sets, shape features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cropgen.core.errors import SchemaError

UNIT = 1e-4
"""Reflectance of a stored 1."""
SHAPE = ("area", "perimeter", "cover", "roughness")
"""What is told of a parcel's outline: hectares; kilometres; its share of the box around it; perimeter by the square
root of the area (4 for a square)."""
USUAL_PIXELS = 64
"""Places in a set where nobody says how many."""
_LARGEST = np.iinfo(np.int16).max
NEEDED = "make the series with pixel sets: cropgen aggregate SCENES PARCELS --pixels 64"


@dataclass(frozen=True)
class PixelSets:
    """Up to S pixels of N parcel seasons at T dates in P named bands.

    Arguments:
        bands: names of the P bands, among those of the series.
        values: (N, T, S, P) int16, reflectance in units of `UNIT`; counts only where `mask`.
        mask: (N, T, S) bool, true where a pixel is clear at a date at which its parcel is observed.
        shape: (N, 4) float32, the features `SHAPE` of the outline; NaN where they are not known.
    """

    bands: tuple[str, ...]
    values: np.ndarray
    mask: np.ndarray
    shape: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.values)
        expected = {"values": (*self.mask.shape, len(self.bands)), "shape": (n, len(SHAPE))}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise SchemaError(f"pixel sets: {name}: expected shape {shape}, got {getattr(self, name).shape}")
        if self.mask.ndim != 3:
            raise SchemaError(f"pixel sets: mask must be (parcels, dates, pixels), got {self.mask.ndim} dimensions")

    @classmethod
    def build(
        cls, *, bands: Sequence[str], values: np.ndarray, mask: np.ndarray, shape: np.ndarray | None = None
    ) -> PixelSets:
        """Pixel sets from reflectance (N, T, S, P); a pixel that is not finite in every band is not clear."""
        values = np.asarray(values, np.float32)
        mask = np.asarray(mask, bool) & np.isfinite(values).all(-1)
        unknown = np.full((len(values), len(SHAPE)), np.nan)
        outline = np.asarray(unknown if shape is None else shape, np.float32)
        return cls(tuple(bands), to_units(np.where(mask[..., None], values, 0)), mask, outline)

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def pixels(self) -> int:
        """S: places in a set."""
        return self.mask.shape[2]

    @property
    def kind(self) -> dict[str, Any]:
        """Bands and size: what the sets of one store have in common."""
        return {"bands": list(self.bands), "pixels": self.pixels}

    def take(self, rows: np.ndarray | slice) -> PixelSets:
        """The sets of the rows selected by an index array, a boolean array or a slice."""
        return replace(self, values=self.values[rows], mask=self.mask[rows], shape=self.shape[rows])

    def at_dates(self, dates: np.ndarray) -> PixelSets:
        """The sets at the dates of an index or boolean array (T,)."""
        return replace(self, values=self.values[:, dates], mask=self.mask[:, dates])

    def within(self, mask: np.ndarray) -> PixelSets:
        """The sets with every pixel masked where `mask` (N, T) is false."""
        return replace(self, mask=self.mask & mask[..., None])

    def select_bands(self, names: Sequence[str]) -> PixelSets | None:
        """The bands among `names` that the sets hold, in the order of `names`; None where they hold none."""
        kept = tuple(name for name in names if name in self.bands)
        if kept == self.bands:
            return self
        return replace(self, bands=kept, values=self.values[..., [self.bands.index(b) for b in kept]]) if kept else None

    def padded(self, extra: int) -> PixelSets:
        """The sets with `extra` masked dates at the end."""
        width = ((0, 0), (0, extra), (0, 0))
        return replace(self, values=np.pad(self.values, (*width, (0, 0))), mask=np.pad(self.mask, width))


def to_units(reflectance: np.ndarray) -> np.ndarray:
    """int16 numbers in units of `UNIT`, cut at ±3.2767."""
    return np.rint(np.clip(reflectance / UNIT, -_LARGEST, _LARGEST)).astype(np.int16)


def require_pixel_sets(held: Sequence[str], bands: Sequence[str], where: str) -> None:
    """Check that a store with pixel sets of the bands `held` has those of `bands`.

    Raises:
        SchemaError: it has not.
    """
    missing = [band for band in bands if band not in held]
    if missing or not held:
        found = f"pixel sets of {', '.join(held)}" if held else "no pixel sets"
        raise SchemaError(f"{where}: expected pixel sets{' of ' * bool(missing)}{', '.join(missing)}, got {found}",
                          hint=NEEDED)  # fmt: skip


def concatenate_sets(parts: Sequence[PixelSets | None]) -> PixelSets | None:
    """Pixel sets of several series, of as many dates each; None where none has any.

    Raises:
        SchemaError: some have none, or their bands or numbers of pixels differ.
    """
    held = [part for part in parts if part is not None]
    if not held:
        return None
    kinds = {(part.bands, part.pixels) for part in held}
    if len(held) < len(parts) or len(kinds) > 1:
        raise SchemaError(
            f"pixel sets of {len(held)} of {len(parts)} series, of {len(kinds)} kinds, cannot be joined",
            hint="give every series pixel sets of the same bands and size, or none",
        )
    values, mask, shape = (np.concatenate([getattr(p, name) for p in held]) for name in ("values", "mask", "shape"))
    return PixelSets(held[0].bands, values, mask, shape)
