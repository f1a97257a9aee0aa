"""Tables written, imported and read again."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cropgen.core.progress import Silent
from cropgen.series.mapping import TableMapping
from cropgen.series.store import SeriesStore
from cropgen.series.tables import import_table


def run(table, tmp_path, parcels=None, report=None, **mapping):
    output = tmp_path / "out" / "series.zarr"
    done = import_table(table, output, TableMapping(**mapping), parcels, report or Silent(), overwrite=True)
    store = SeriesStore.open(output)
    return store.read(), done, store


def dates_of(series, row=0):
    return [str(np.datetime64(int(d), "D")) for d in series.day[row][series.mask[row]]]


LONG = pd.DataFrame(
    {
        "parcel_id": ["b", "a", "a", "b", "a"],
        "date": ["2021-05-01", "2021-06-01", "2021-05-01", "2021-04-01", "2022-05-01"],
        "B4": [500, 300, 100, 400, 900],
        "B08_mean": [1000, 3000, 2000, 65535, 4000],
        "crop": ["wheat", "maize", "maize", "wheat", "rye"],
    }
)


def save(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False, sep=";" if "semicolon" in path.name else ",")
    return path
