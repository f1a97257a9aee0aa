"""How to predict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cropgen.prediction.judge import Thresholds
from cropgen.prediction.neighbours import Field


@dataclass(frozen=True)
class PredictOptions:
    """How to predict.

    Arguments:
        year: year of the parcels; None: their year column, else the year in the file name, else the store's only one.
        id_column: column of the parcel id, several joined by +, or `row-number`; None takes what a known register or
            the usual names say, else counts rows from 0.
        layer: layer of the input, where it holds several.
        until: `MM-DD`; later observations are not used.
        prior: class shares the probabilities are reweighed for: `em` estimates them from the parcels, which are then
            classified twice; `uniform`; or a csv file of shares. None keeps those of the training.
        smoothing: random field by which the crops are also given as smoothed over neighbours; parcels are then
            classified twice. None gives them by themselves only.
        anomaly_level: finest levels of latents that the column `anomaly` does not listen to; None adds no such column.
        thresholds: when parcels are flagged.
        overwrite: replace an output that exists.
    """

    year: int | None = None
    id_column: str | None = None
    layer: str | None = None
    until: str | None = None
    prior: str | Path | None = None
    smoothing: Field | None = None
    anomaly_level: int | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    overwrite: bool = False
