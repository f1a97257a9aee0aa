"""The columns of a prediction: a public schema with a version.

Names and types change only together with `COLUMNS_VERSION`. All names carry one prefix, `pred_`, so they never meet the
input's own; a layer that was predicted before gets `pred2_`, then `pred3_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from cropgen.series.legend import Legend

COLUMNS_VERSION = 1
PREFIX = "pred_"


@dataclass(frozen=True)
class Column:
    """One column that prediction adds.

    Arguments:
        name: without prefix.
        kind: its Arrow type.
        text: what it holds, for documentation.
    """

    name: str
    kind: pa.DataType
    text: str


COLUMNS: tuple[Column, ...] = (
    Column("crop_code", pa.string(), "code of the most probable crop; null without a series"),
    Column("crop_name", pa.string(), "its name"),
    Column("probability", pa.float64(), "its probability, 0–1"),
    Column("second_crop", pa.string(), "code of the second most probable crop"),
    Column("second_name", pa.string(), "its name"),
    Column("second_probability", pa.float64(), "its probability, 0–1"),
    Column(
        "log_likelihood", pa.float64(), "log p(x) of the clear observations in nats; null for discriminative models"
    ),
    Column("typicality", pa.float64(), "share of reference parcels with as many observations that are less likely"),
    Column("entropy", pa.float64(), "entropy of the class probabilities in nats; 0 is certain"),
    Column("clear_dates", pa.int32(), "clear dates the model saw"),
    Column("flags", pa.string(), "reasons for care, comma-separated; empty when there are none"),
    Column("run_id", pa.string(), "run that made the prediction"),
)

SMOOTHED_COLUMNS: tuple[Column, ...] = (
    Column("smoothed_code", pa.string(), "code of the most probable crop given what is said of the neighbours"),
    Column("smoothed_name", pa.string(), "its name"),
    Column("smoothed_probability", pa.float64(), "its probability, 0–1"),
    Column("neighbours", pa.int32(), "neighbours that were listened to"),
)
"""Columns that are added where predictions are smoothed over neighbours; those above are the same with and without."""

ANOMALY_COLUMN = Column(
    "anomaly", pa.float64(), "how unlike the training the season is by the upper levels of latents, nats of a value"
)
"""Column that is added where it is asked for and the model has levels of latents."""

FLAGS: dict[str, str] = {
    "no_series": "the parcel has no series, so nothing is predicted",
    "no_clear_date": "never clearly seen: the prediction is the most frequent crop",
    "few_dates": "fewer clear dates than asked for",
    "unusual": "the season is unlike those of the training parcels",
    "low_confidence": "the probability is below the one asked for",
}
"""Flags in the order in which they are written."""


def prefix_for(names: Iterable[str], classes: Iterable[str] = ()) -> str:
    """The first of `pred_`, `pred2_`, … with which no column that can be added, whatever its case, is among `names`.

    Arguments:
        classes: the columns of class probabilities, without prefix.
    """
    taken = {name.casefold() for name in names}
    added = [*(c.name for c in (*COLUMNS, *SMOOTHED_COLUMNS, ANOMALY_COLUMN)), *(name.casefold() for name in classes)]
    prefix, number = PREFIX, 1
    while any(prefix + name in taken for name in added):
        number += 1
        prefix = f"pred{number}_"
    return prefix


def prediction_fields(prefix: str, *, smoothed: bool = False, anomaly: bool = False) -> list[pa.Field]:
    """The Arrow fields of all columns, with those of the smoothed prediction and of the anomaly or without."""
    columns = COLUMNS + (ANOMALY_COLUMN,) * anomaly + SMOOTHED_COLUMNS * smoothed
    return [pa.field(prefix + column.name, column.kind) for column in columns]


def class_names(legend: Legend) -> tuple[str, ...]:
    """One column name per class for its probability: `p_` and the code, in letters, digits and underscores.

    Codes that become equal, or differ only in case, get their position appended.
    """
    plain = [f"p_{re.sub(r'[^0-9A-Za-z]+', '_', code).strip('_') or 'class'}" for code in legend.codes]
    folded = [name.casefold() for name in plain]
    return tuple(name if folded.count(name.casefold()) == 1 else f"{name}_{k}" for k, name in enumerate(plain))
