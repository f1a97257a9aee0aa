"""Which pixels are clear: by the scene classification and the cloud probability that Sen2Cor writes.

Only vegetation, bare soil and water count as clear by default. Unclassified (7) is left out: in it Sen2Cor collects
what its cloud tests left in doubt, mostly haze and cloud edges. Water stays because flooded rice is water in spring.

Clouds are seldom as small as their mask. With a dilation of d metres a pixel is cloudy too when the centre of a pixel
that is cloud, cirrus, cloud shadow or above the probability lies within d of its own, on the mask's own grid. Other
classes that are not clear, such as snow or no data, do not spread.

Reference: Sen2Cor for Sentinel-2, Main-Knorn et al., 2017.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cropgen.core.errors import UsageError
from cropgen.imagery.scene import Acquisition, Grid, Layer, Window, metres_to_units
from cropgen.series.bands import SCENE_CLASSIFICATION

CLASSES = {
    0: "no data", 1: "saturated or defective", 2: "dark area", 3: "cloud shadow", 4: "vegetation", 5: "not vegetated",
    6: "water", 7: "unclassified", 8: "cloud, medium probability", 9: "cloud, high probability", 10: "thin cirrus",
    11: "snow or ice",
}  # fmt: skip
CLEAR = (4, 5, 6)
SPREADING = (3, 8, 9, 10)
"""Classes that a dilation lets grow, unless they are counted as clear."""
CLOUD_PROBABILITY = "cloud probability"
_PROBABILITY_NAME = re.compile(r"(?<![A-Z])(MSK_?CLDPRB|CLDPRB|CLD|CLP|CLOUD[_ -]?PROBABILITY|CLOUD)(?![A-Z])")
_OF_255 = re.compile(r"(?<![A-Z])CLP(?![A-Z])")
"""`CLP` of Sentinel Hub and eo-learn counts to 255, all others to 100."""

_Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Stored values to (clear, spreading)."""


@dataclass(frozen=True)
class CloudMask:
    """What makes a pixel count.

    Arguments:
        classes: clear classes of the scene classification; empty: it is not looked at.
        probability: largest cloud probability, in percent; None: it is not looked at.
        dilation: metres that clouds and their shadows are grown by.
    """

    classes: tuple[int, ...] = CLEAR
    probability: float | None = None
    dilation: float = 0.0

    def names(self, acquisition: Acquisition) -> list[str]:
        """Names of the layers of an acquisition that are looked at."""
        wanted = [SCENE_CLASSIFICATION] if self.classes else []
        name = None if self.probability is None else probability_band(acquisition)
        return wanted if name is None else [*wanted, name]

    def lacking(self, acquisition: Acquisition) -> list[str]:
        """What is looked at and not there."""
        missing = [name for name in self.names(acquisition) if name not in acquisition.layers]
        without = self.probability is not None and probability_band(acquisition) is None
        return [*missing, CLOUD_PROBABILITY] if without else missing

    def clear(self, acquisition: Acquisition, grid: Grid, window: Window) -> np.ndarray | None:
        """Bool (rows, columns) of a window of a grid, looked up at the pixel centres; None: every pixel counts."""
        found: np.ndarray | None = None
        for layer, judge in self._judges(acquisition):
            good = _looked_up(layer, grid, window, judge, metres_to_units(grid.crs, self.dilation))
            found = good if found is None else found & good
        return found

    def _judges(self, acquisition: Acquisition) -> Iterator[tuple[Layer, _Judge]]:
        if self.classes:
            table, growing = clear_table(self.classes), clear_table(set(SPREADING) - set(self.classes))
            yield acquisition.layers[SCENE_CLASSIFICATION], lambda v: (is_clear(v, table), is_clear(v, growing))
        name = None if self.probability is None else probability_band(acquisition)
        if name is not None:
            layer, largest = acquisition.layers[name], _stored_percent(name, self.probability)
            yield layer, lambda v: _by_probability(v, is_valid(v, layer.nodata), largest)


def _stored_percent(name: str, percent: float | None) -> float:
    """A percentage as a band of probabilities states it."""
    return (percent or 0.0) * (2.55 if _OF_255.search(name.upper()) else 1.0)


def _by_probability(stored: np.ndarray, valid: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """(clear, spreading) of stored probabilities, of which some say nothing."""
    return valid & (stored <= largest), valid & (stored > largest)


def probability_band(acquisition: Acquisition) -> str | None:
    """The layer that holds cloud probabilities, by its usual names; None where there is none."""
    return next((name for name in acquisition.layers if _PROBABILITY_NAME.search(name.upper())), None)


def _looked_up(layer: Layer, grid: Grid, window: Window, judge: _Judge, distance: float) -> np.ndarray:
    """Bool (rows, columns) of a window: clear at each pixel centre in the mask's own grid; outside it nothing is."""
    rows = grid.rows_in(layer.grid)[window.top : window.bottom]
    columns = grid.columns_in(layer.grid)[window.left : window.right]
    r, c = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    good = np.zeros(window.shape, bool)
    if len(r) and len(c):
        part = Window(int(rows[r[0]]), int(rows[r[-1]]) + 1, int(columns[c[0]]), int(columns[c[-1]]) + 1)
        clear = _clear_part(layer, part, judge, distance)
        good[r[0] : r[-1] + 1, c[0] : c[-1] + 1] = clear[rows[r] - part.top][:, columns[c] - part.left]
    return good


def _clear_part(layer: Layer, part: Window, judge: _Judge, distance: float) -> np.ndarray:
    """Clear pixels of a part of the mask's grid, spreading ones grown by a distance in units of the grid."""
    a, e = layer.grid.transform[0], -layer.grid.transform[4]
    down, across = int(distance / e + 1e-9), int(distance / a + 1e-9)
    if not (down or across):
        return judge(layer.read(part))[0]
    rows, columns = layer.grid.shape
    wide = Window(
        max(part.top - down, 0), min(part.bottom + down, rows),
        max(part.left - across, 0), min(part.right + across, columns),
    )  # fmt: skip
    clear, spreading = judge(layer.read(wide))
    clear &= ~grown(spreading, distance / e, distance / a)
    top, left = part.top - wide.top, part.left - wide.left
    return clear[top : top + part.shape[0], left : left + part.shape[1]]


def grown(spots: np.ndarray, down: float, across: float) -> np.ndarray:
    """Bool array: pixels whose centre lies within an ellipse around the centre of a spot.

    Arguments:
        spots: (rows, columns) bool.
        down, across: half axes of the ellipse in rows and columns; equal for square pixels.
    """
    found = spots.copy()
    reach = min(int(down + 1e-9), len(spots) - 1)
    wide, width = spots.copy(), 0
    for i in range(reach, -1, -1):
        half = int(across * np.sqrt(max(1 - (i / down) ** 2, 0)) + 1e-9) if i else int(across + 1e-9)
        for step in range(width + 1, half + 1):
            wide[:, step:] |= spots[:, :-step]
            wide[:, :-step] |= spots[:, step:]
        width = half
        found[i:] |= wide[: len(wide) - i]
        found[: len(wide) - i] |= wide[i:]
    return found


def clear_table(classes: Iterable[int]) -> np.ndarray:
    """(256,) bool: which class numbers are clear.

    Raises:
        UsageError: a number is not a class of the scene classification.
    """
    table = np.zeros(256, bool)
    for number in classes:
        if number not in CLASSES:
            listed = ", ".join(f"{k} {name}" for k, name in CLASSES.items())
            raise UsageError(f"{number} is not a scene class", hint=f"classes: {listed}")
        table[number] = True
    return table


def is_clear(scene_class: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Bool array of the shape of `scene_class`; classes stored as floating point may hold NaN, which is not clear."""
    if np.issubdtype(scene_class.dtype, np.floating):
        scene_class = np.nan_to_num(scene_class, nan=0.0)
    return table[np.clip(scene_class, 0, 255).astype(np.uint8)]


def is_valid(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Bool array: stored values that mean something."""
    valid = np.isfinite(values) if np.issubdtype(values.dtype, np.floating) else np.ones(values.shape, bool)
    if nodata is not None and not np.isnan(nodata):
        valid &= values != nodata
    return valid
