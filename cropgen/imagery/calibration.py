"""Stored numbers to reflectance: scale and offset as stated, as given, or as the numbers themselves betray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cropgen.core.progress import Reporter
from cropgen.imagery.masks import is_valid
from cropgen.imagery.scene import Acquisition, Layer, Window
from cropgen.series.bands import is_reflectance

LEVEL_2A_SCALE = 1e-4
"""Reflectance per stored unit of Sentinel-2 products."""
_LARGEST_REFLECTANCE = 2.0
_SAMPLE = 512

Calibration = Mapping[str, tuple[float, float]]


class Calibrator:
    """Scale and offset of every band of every acquisition.

    Arguments:
        scale, offset: given by the user; they override what the files say, for spectral bands only.
        assumed: the scale of spectral bands whose files state none.
    """

    def __init__(self, scale: float | None, offset: float | None, assumed: float = 1.0) -> None:
        self._scale = scale
        self._offset = offset
        self._assumed = assumed

    def of(self, acquisition: Acquisition, bands: Sequence[str]) -> Calibration:
        """Band → (scale, offset)."""
        return {band: self._one(band, acquisition.layers[band]) for band in bands}

    def _one(self, band: str, layer: Layer) -> tuple[float, float]:
        if not is_reflectance(band):
            return (1.0 if layer.scale is None else layer.scale), layer.offset
        stated = self._assumed if layer.scale is None else layer.scale
        scale = stated if self._scale is None else self._scale
        return scale, layer.offset if self._offset is None else self._offset


def calibrator(
    acquisitions: Sequence[Acquisition],
    bands: Sequence[str],
    scale: float | None,
    offset: float | None,
    report: Reporter,
) -> Calibrator:
    """Settle the scale of bands whose files state none: 0.0001 when the typical value is no reflectance.

    Every assumption is reported.
    """
    unstated = [
        (a, band) for a in acquisitions for band in bands if is_reflectance(band) and a.layers[band].scale is None
    ]
    if scale is not None or not unstated:
        return Calibrator(scale, offset)
    assumed = LEVEL_2A_SCALE if _typical(unstated) > _LARGEST_REFLECTANCE else 1.0
    acquisition, band = unstated[0]
    shift = acquisition.layers[band].offset if offset is None else offset
    report.warn(
        f"{acquisition.key}: {band} states no scale; reflectance = {assumed:g} × value + {shift:g} is "
        "assumed (give --scale and --offset if this is wrong)"
    )
    return Calibrator(scale, offset, assumed)


def _typical(layers: Sequence[tuple[Acquisition, str]]) -> float:
    """Median valid value in the middle of the first scenes that have any there."""
    for acquisition, band in layers:
        layer = acquisition.layers[band]
        rows, columns = layer.grid.shape
        top, left = max(rows - _SAMPLE, 0) // 2, max(columns - _SAMPLE, 0) // 2
        values = layer.read(Window(top, min(top + _SAMPLE, rows), left, min(left + _SAMPLE, columns)))
        valid = values[is_valid(values, layer.nodata)]
        if valid.size:
            return float(np.median(valid))
    return 0.0
