"""Features of a season for classifiers that see one vector: gap-filled bands and vegetation indices.

Each slot of the calendar gives its bands, linearly interpolated over gaps, and, where the bands exist,
NDVI = (B08 − B04)/(B08 + B04) and NDWI = (B08 − B11)/(B08 + B11).

Reference: NDWI: A Normalized Difference Water Index for Remote Sensing of Vegetation Liquid Water from Space, Gao,
1996.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.core.errors import DataError
from cropgen.models.base import InputSpec
from cropgen.models.layers.grid import grid_view
from cropgen.series.augment import fill_gaps
from cropgen.series.batches import Batch

_INDICES = (("B08", "B04"), ("B08", "B11"))
LEAST_SPREAD = 1e-6


def season_features(batch: Batch, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Features (B, F) float32, slot by slot, and (B,) bool, false for rows without a clear date."""
    starts = torch.from_numpy(spec.calendar.start_days()).to(batch.day.device)
    values, mask, _ = grid_view(batch, starts)
    filled = fill_gaps(values, mask)
    columns = [filled]
    for high, low in _INDICES:
        if high in spec.bands and low in spec.bands:
            a, b = (filled[..., spec.bands.index(name)] for name in (high, low))
            total = a + b
            ratio = torch.where(total.abs() > 1e-6, (a - b) / torch.where(total == 0, 1, total), 0)
            columns.append(ratio.clamp(-1, 1)[..., None])
    return torch.cat(columns, -1).flatten(1).float(), mask.any(1)


def scale_of(spread: Tensor) -> Tensor:
    """What features of these standard deviations are divided by: 1 for one that is constant where it was learnt from.

    A small number in its place would make the least change of that feature outweigh all others.
    """
    return torch.where(spread > LEAST_SPREAD, spread, 1.0)


def labelled_features(batch: Batch, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Features (N, F) and classes (N,) of the rows with a known class and a clear date.

    Raises:
        DataError: there is none.
    """
    x, seen = season_features(batch, spec)
    usable = seen & batch.y_mask
    if not usable.any():
        raise DataError(
            "no labelled parcel with a clear date", hint="check the labels, the clear classes and the cloud mask"
        )
    return x[usable], batch.y[usable]


def require_classes(y: Tensor, spec: InputSpec) -> None:
    """Refuse labels of a single class.

    Raises:
        DataError: fewer than two classes occur in y (N,).
    """
    present = y.unique()
    if len(present) < 2:
        names = ", ".join(spec.legend.names[int(k)] for k in present)
        raise DataError(f"expected labels of at least 2 classes, got only {names}", hint="label parcels of other crops")


def require_every_class(y: Tensor, spec: InputSpec) -> None:
    """Refuse labels among which a class of the model does not occur.

    Arguments:
        y: (N,) classes of the labelled rows with a clear date.

    Raises:
        DataError: naming the classes without any.
    """
    absent = [name for k, name in enumerate(spec.legend.names) if not (y == k).any()]
    if absent:
        raise DataError(
            f"no labelled parcel with a clear date for {', '.join(absent)}",
            hint="label some parcels of these crops, or leave the crops out of the legend",
        )


def class_log_prior(y: Tensor, classes: int) -> Tensor:
    """(K,) log of the share of each class among labels y (N,), a class without any counted as one."""
    count = torch.bincount(y, minlength=classes).double().clamp(min=1)
    return (count / count.sum()).log()
