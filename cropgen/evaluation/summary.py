"""Short forms: what an evaluation was about, and its scores averaged over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cropgen.evaluation.document import Row
from cropgen.series.store import SeriesStore

_AVERAGED = (
    "macro_f1", "macro_f1_low", "macro_f1_high", "macro_f1_equal_priors", "accuracy", "accuracy_low", "accuracy_high",
    "balanced_accuracy", "kappa", "nll", "brier", "ece", "classwise_ece", "aurc", "seconds", "predict_seconds",
    "n_labelled", "n_unlabelled", "n_target", "n_test",
)  # fmt: skip
_WHERE_KNOWN = (
    "macro_f1_legend", "tempered_nll", "bits_per_value", "crps", "auroc_out_of_legend", "aupr_out_of_legend",
)  # fmt: skip
_IDENTITY = (
    "data", "protocol", "train", "test", "scope", "labels", "model", "variant", "family", "until", "cut",
    "target_unlabelled", "calibration",
)  # fmt: skip


def describe(name: str, store: SeriesStore, index: pd.DataFrame) -> dict[str, Any]:
    """The parcels of an evaluation.

    Arguments:
        index: the rows of the store's index that the evaluation uses.

    Returns:
        Counts, years, regions, bands, labelled parcels per year and class, clear dates (5 %, 50 % and 95 % quantile).
    """
    label, year = index["label"].to_numpy(), index["year"].to_numpy()
    known = label >= 0
    return {
        "name": name,
        "parcel_seasons": len(index),
        "labelled": int(known.sum()),
        "years": np.unique(year).tolist(),
        "regions": np.unique(index["region"].to_numpy().astype(str)).tolist(),
        "bands": list(store.bands),
        "labels_per_year": {
            str(y): np.bincount(label[known & (year == y)], minlength=len(store.legend)).tolist()
            for y in np.unique(year).tolist()
        },
        "clear_dates": np.quantile(index["clear_dates"].to_numpy(), (0.05, 0.5, 0.95)).tolist(),
    }


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Average over seeds: one record per data set, protocol, training set, test set, scope, label share, model,
    variant, calibration, and what was seen of the season and of the target.

    Returns:
        Records of what identifies them, `seeds` (their number), the mean of every score, `macro_f1_sd` (standard
        deviation over seeds, 0 for one); scores that some rows lack are averaged over the seeds that have them.
        Interval ends are averaged too: the width stays that of one split, because splits of different seeds share
        parcels.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in _IDENTITY), []).append(row)
    return [dict(zip(_IDENTITY, key, strict=True)) | _averages(group) for key, group in groups.items()]


def _averages(group: list[Row]) -> dict[str, Any]:
    known = {name: [v for row in group if (v := getattr(row, name)) is not None] for name in _WHERE_KNOWN}
    peaks = [row.peak_mb for row in group if row.peak_mb is not None]
    return {
        "seeds": len(group),
        **{name: float(np.mean([getattr(row, name) for row in group])) for name in _AVERAGED},
        "macro_f1_sd": float(np.std([row.macro_f1 for row in group], ddof=1)) if len(group) > 1 else 0.0,
        **{name: float(np.mean(values)) if values else None for name, values in known.items()},
        "peak_mb": max(peaks, default=None),
    }
