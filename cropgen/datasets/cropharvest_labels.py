"""The labels of CropHarvest, and the rows its three test tasks learn from.

`labels.geojson` has a feature per point: dataset and index name its array, `is_crop` is known of all, `label` and its
FAO group `classification_label` of a third, `is_test` marks points inside the test regions, and `export_end_date` is
the last day of the series. A class is written

    crop/maize    a crop of known type        crop      a crop, type unknown
    non-crop/water                            non-crop
    not/maize     a test pixel that is no maize, crop or not

A task learns from the points of its country: those of the crop sought, all other known crops, and as many points
without a crop, taken in the publisher's order, which the seed 42 decides.

Reference: CropHarvest: A global dataset for crop-type classification, G. Tseng, I. Zvonkov, C. L. Nakalembe, H. Kerner,
2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.files import require_input
from cropgen.series.hcat import with_hcat
from cropgen.series.legend import CropClass, Legend, spread_colour

Grouping = Literal["types", "groups", "crop"]
DAYS = 360
_SEED = 42
_COLUMNS = (
    "index", "dataset", "is_crop", "is_test", "lat", "lon", "label", "classification_label", "export_end_date",
)  # fmt: skip
_GROUP_OF = {"maize": "cereals", "coffee": "beverage_spice"}
_AGAIN = "fetch it again"


@dataclass(frozen=True)
class Task:
    """A test task.

    Arguments:
        tests: prefix of its files of test pixels.
        target: the crop sought; None: any crop.
        box: west, south, east, north of the country, degrees.
    """

    tests: str
    target: str | None
    box: tuple[float, float, float, float]


TASKS = {
    "kenya": Task("Kenya_maize", "maize", (33.89, -4.69, 41.89, 5.49)),
    "brazil": Task("Brazil_coffee", "coffee", (-74.00, -33.74, -34.81, 5.26)),
    "togo": Task("togo-eval", None, (-0.17, 6.09, 1.78, 11.12)),
}


@dataclass(frozen=True)
class Labels:
    """The table of labels, one row per point in the order of the file.

    Arguments:
        table: id (index_dataset), dataset, crop (bool), test (bool), lon, lat, type and group (text, "" unknown), year,
            end (days since 1970-01-01).
        grouping: what the classes are.
    """

    table: pd.DataFrame
    grouping: Grouping

    @classmethod
    def read(cls, path: Path, grouping: Grouping) -> Labels:
        """Read the table.

        Raises:
            MissingInputError, CorruptInputError, SchemaError: it is missing, no GeoJSON, or lacks a column.
        """
        require_input(path, "labels")
        try:
            raw = pyogrio.read_dataframe(path, read_geometry=False)
        except (DataSourceError, DataLayerError, ValueError) as error:
            raise CorruptInputError(f"{path} cannot be read: {str(error).splitlines()[0]}", hint=_AGAIN) from error
        if missing := [c for c in _COLUMNS if c not in raw]:
            raise SchemaError(f"{path}: column {missing[0]} missing; it has {', '.join(raw.columns)}", hint=_AGAIN)
        end = pd.to_datetime(raw["export_end_date"], errors="coerce", utc=True, format="mixed")
        if end.isna().any():
            raise SchemaError(f"{path}: {int(end.isna().sum())} points have no export_end_date", hint=_AGAIN)
        day = end.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
        table = pd.DataFrame(
            {
                "id": raw["index"].astype("int64").astype(str) + "_" + raw["dataset"].astype(str),
                "dataset": raw["dataset"].astype(str),
                "crop": raw["is_crop"].astype(float) > 0, "test": raw["is_test"].astype(float) > 0,
                "lon": raw["lon"].astype(float), "lat": raw["lat"].astype(float),
                "type": _plain(raw["label"]), "group": _plain(raw["classification_label"]),
                "end": day.astype(np.int64), "year": season(day),
            }
        )  # fmt: skip
        return cls(table, grouping)

    @cached_property
    def codes(self) -> np.ndarray:
        """(N,) the class of each point."""
        side = np.where(self.table["crop"], "crop", "non-crop").astype(object)
        if self.grouping == "crop":
            return side
        named = self.table["type" if self.grouping == "types" else "group"].to_numpy(object)
        named = np.where(np.isin(named, ("non_crop", "other")) & ~self.table["crop"], "", named)
        return np.where(named == "", side, side + "/" + named)

    @cached_property
    def legend(self) -> Legend:
        """Every class of the file and of the test pixels."""
        tests = [c for task in TASKS.values() for c in self.test_codes(task) if c is not None]
        codes = sorted({*self.codes.tolist(), *tests})
        entries = (CropClass(c, c.rpartition("/")[2].replace("_", " "), spread_colour(i)) for i, c in enumerate(codes))
        named = (CropClass(c.code, f"not {c.name}" if c.code.startswith("not/") else c.name, c.colour) for c in entries)
        return with_hcat(Legend(f"cropharvest-{self.grouping}", tuple(named)))

    def test_codes(self, task: Task) -> tuple[str | None, str | None]:
        """The classes of a test pixel that is not, and that is, what a task seeks."""
        if task.target is None:
            return "non-crop", "crop"
        if self.grouping == "types":
            return f"not/{task.target}", f"crop/{task.target}"
        return None, "crop" if self.grouping == "crop" else f"crop/{_GROUP_OF[task.target]}"

    def learnt(self, task: Task) -> list[str]:
        """Ids of the points a task learns from, whether their arrays exist or not."""
        t = self.table
        west, south, east, north = task.box
        inside = ~t["test"] & t["lon"].between(west, east) & t["lat"].between(south, north)
        if task.target is None:
            return t["id"][inside].tolist()
        sought = inside & (t["type"] == task.target)
        others = t["id"][inside & t["crop"] & (t["type"] != "") & ~sought].tolist()
        empty = t["id"][inside & ~t["crop"]].tolist()
        return [*t["id"][sought], *others, *shuffled(empty, _SEED)[: len(others)]]


def season(end: np.ndarray | np.datetime64) -> np.ndarray:
    """(N,) int16: the year that the middle of a series ending at `end` lies in, a date or days since 1970-01-01."""
    middle = end.astype("datetime64[D]") - np.timedelta64(DAYS // 2, "D")
    return np.asarray(middle.astype("datetime64[Y]").astype(np.int64) + 1970, np.int16)


def shuffled(items: Sequence[str], seed: int) -> list[str]:
    """The publisher's order: items taken alternately from the front and the back part, `seed` places in.

    The place is reduced to the length of what is left once it exceeds it, and keeps its sign.
    """
    left, order = list(items), []
    place = -seed if seed % 2 == 0 else seed
    while left:
        if abs(place) >= len(left):
            reduced = min(place % len(left), len(left) - 1)
            place = -reduced if place < 0 else reduced
        order.append(left.pop(place))
        place = -place
    return order


def _plain(column: pd.Series) -> pd.Series:
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip().str.casefold()
    return text.str.replace(r"[^\w-]+", "_", regex=True)
