"""Seasons drawn from the density of a trained model, as a series store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cropgen.core.errors import UsageError
from cropgen.core.files import atomic_output
from cropgen.core.progress import Reporter
from cropgen.models.base import Classifier, GenerativeModel
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

_AT_A_TIME = 1024


def density_of(model: Classifier, name: str) -> GenerativeModel:
    """The density of a model, or of the generative member of a pool.

    Raises:
        UsageError: it has none.
    """
    density = getattr(model, "generative", model)
    if not isinstance(density, GenerativeModel):
        raise UsageError(
            f"{name} has no density: no season can be drawn from it",
            hint="take a run of a generative model or of a pool, see cropgen models",
        )
    return density


def draw_store(
    model: GenerativeModel, classes: Sequence[int], count: int, path: Path, report: Reporter,
    *, year: int, seed: int, temperature: float, source: dict[str, Any],
) -> None:  # fmt: skip
    """Draw seasons x ~ p(x | y), `count` of each class, and write them with a date in the middle of every slot.

    Equal arguments give equal seasons; they are drawn and written some at a time.

    Arguments:
        classes: positions in the model's legend.
        path: the series store to write.
        year: the season's.
        temperature: scale of the noise; 0 gives what the model expects.
        source: JSON-able facts kept with the store.
    """
    legend, calendar = model.spec.legend, model.spec.calendar
    start = int(np.datetime64(f"{year}-01-01", "D").astype(int))
    day = (start + calendar.start_days() + calendar.slot_days / 2).astype(np.int32)
    generator = torch.Generator().manual_seed(seed)
    y = torch.as_tensor(classes).repeat_interleave(count)
    with atomic_output(path) as part, report.task("Drawing seasons", total=len(y)) as task:
        store = SeriesStore.create(part, bands=model.spec.bands, legend=legend, source=source)
        for rows in torch.arange(len(y)).split(_AT_A_TIME):
            label = y[rows]
            with torch.inference_mode():
                values = model.sample(label, generator, temperature).double().numpy()
            names = [f"{legend.codes[k]}-{int(row) % count + 1}" for row, k in zip(rows, label.tolist(), strict=True)]
            store.append(ParcelSeries.build(
                bands=model.spec.bands, values=values, mask=np.ones(values.shape[:2], bool),
                day=np.tile(day, (len(rows), 1)), parcel_id=names, year=year, label=label.numpy(),
            ))  # fmt: skip
            task.advance(len(rows))
