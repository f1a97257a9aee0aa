"""Which pixels are clear: by the scene classification that Sen2Cor writes.

Only vegetation, bare soil and water count as clear by default. Unclassified (7) is left out: in it Sen2Cor collects
what its cloud tests left in doubt, mostly haze and cloud edges. Water stays because flooded rice is water in spring.

Reference: Sen2Cor for Sentinel-2, Main-Knorn et al., 2017.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cropgen.core.errors import UsageError

CLASSES = {
    0: "no data", 1: "saturated or defective", 2: "dark area", 3: "cloud shadow", 4: "vegetation", 5: "not vegetated",
    6: "water", 7: "unclassified", 8: "cloud, medium probability", 9: "cloud, high probability", 10: "thin cirrus",
    11: "snow or ice",
}  # fmt: skip
CLEAR = (4, 5, 6)


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
