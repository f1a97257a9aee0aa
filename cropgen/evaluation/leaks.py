"""Checks that nothing of the test parcels is learnt from, run on the rows of every training before it begins.

    row                    no row is tested on whose label is learnt from or judged by
    parcel                 no parcel of the held-out blocks is learnt from, in no year, labelled or not
    series                 no series of the held-out blocks is learnt from under another name
    neighbour              no label is learnt from within a stated distance of a held-out parcel
    validation             no validation row is of a held-out parcel, has its series, or is learnt from as well
    validation-neighbour   no validation row lies within that distance of a held-out parcel
    target                 no unlabelled row of the target is tested on, has the series or the place of one that is, or
                           is of its parcel in another year; asked where there are such rows

A test set of scope "all" is a whole year or region, so it holds the parcels learnt from in another year by design: only
the first check applies to it. A published split is taken as it is: only the first check, the disjointness of its
validation rows and the check of the target but for other years apply, because its sides may well hold neighbours, or
one parcel in two years. Two rows have the same
series where all clear values and their days in the year are equal; rows of fewer than 3 clear dates are not compared.
The distance is between the positions of the parcels, in any year; parcels without a position have no neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cropgen.core.errors import CropgenError, DataError
from cropgen.evaluation.document import Check
from cropgen.evaluation.protocols import Fold
from cropgen.series.store import SeriesStore
from cropgen.training.data import TrainingRows

NEIGHBOUR_M = 10.0
SAME_PLACE_M = 0.01
_LEAST_DATES = 3
_EARTH_RADIUS_M = 6_371_008.8
_CHUNK = 4096
ASKS = {
    "row": "no row is tested on whose label is learnt from or judged by",
    "parcel": "no held-out parcel is learnt from in any year, labelled or not",
    "series": "no held-out series is learnt from under another name",
    "neighbour": "no label is learnt from within {metres:g} m of a held-out parcel",
    "validation": "no validation row is held out or learnt from",
    "validation-neighbour": "no validation row lies within {metres:g} m of a held-out parcel",
    "target": "no unlabelled row of the target is a tested parcel, under its own or another name",
}


def check_fold(
    fold: Fold, rows: TrainingRows, index: pd.DataFrame, store: SeriesStore, neighbour_m: float = NEIGHBOUR_M
) -> list[Check]:
    """Every check on the rows of one training.

    Arguments:
        fold: the test sets.
        rows: what is learnt from, rows of the store.
        index: the store's index.
        neighbour_m: positions nearer than this are neighbours; 0: no two are.
    """
    found = find_leaks(fold, rows, index, store, neighbour_m)
    return [_check(name, leaky, index, neighbour_m) for name, leaky in found.items()]


def guard_rows(
    fold: Fold,
    rows: TrainingRows,
    index: pd.DataFrame,
    store: SeriesStore,
    *,
    neighbour_m: float = NEIGHBOUR_M,
    on_leak: Literal["fail", "drop"] = "fail",
) -> tuple[Fold, TrainingRows, list[Check]]:
    """The fold, the rows to learn from and the checks on them; leaking rows are left out first where `on_leak` is
    "drop": of the fold, those of its target.

    Raises:
        DataError: fewer than two classes keep a label.
    """
    if on_leak == "fail":
        return fold, rows, check_fold(fold, rows, index, store, neighbour_m)
    leaks = find_leaks(fold, rows, index, store, neighbour_m)
    if fold.target is not None:
        fold = replace(fold, target=np.setdiff1d(fold.target, leaks["target"]))
    kept = rows.without(np.concatenate(list(leaks.values())))
    classes = len(np.unique(index["label"].to_numpy()[kept.labelled]))
    if classes < 2:
        raise DataError(
            f"expected labels of at least 2 classes, got {classes} once leaking rows were left out",
            hint="choose a smaller --neighbour-m, or more labels",
        )
    checks = check_fold(fold, kept, index, store, neighbour_m)
    return fold, kept, [c.model_copy(update={"left_out": len(leaks[c.name])}) for c in checks]


def find_leaks(
    fold: Fold, rows: TrainingRows, index: pd.DataFrame, store: SeriesStore, neighbour_m: float
) -> dict[str, np.ndarray]:
    """The leaking rows by check: rows that are learnt from or judged by and should not be."""
    tested = _union(test.rows for test in fold.tests)
    held = _union(test.rows for test in fold.tests if test.scope == "held-out")
    learnt = _union((rows.labelled, rows.unlabelled))
    judges = rows.validation
    row = np.intersect1d(np.union1d(rows.labelled, judges), tested)
    parcel = _parcels(index)
    free = {} if fold.target is None else {"target": _tested_target(fold, tested, parcel, index, store)}
    if fold.official:
        return {"row": row, "validation": np.intersect1d(judges, learnt), **free}
    same_parcel = np.isin(parcel, parcel[held])
    same_series = _shared_series(store, index, np.union1d(learnt, judges), held)
    near = _near(index, np.union1d(rows.labelled, judges), held, neighbour_m)
    own = same_parcel[judges] | np.isin(judges, same_series) | np.isin(judges, learnt)
    return {
        "row": row,
        "parcel": learnt[same_parcel[learnt]],
        "series": np.intersect1d(learnt[~same_parcel[learnt]], same_series),
        "neighbour": np.intersect1d(rows.labelled[~same_parcel[rows.labelled]], near),
        "validation": judges[own],
        "validation-neighbour": np.intersect1d(judges[~own], near),
        **free,
    }


def summarise_checks(checks: Iterable[Check]) -> tuple[Check, ...]:
    """One check of each name over many trainings: counts added, the first example kept."""
    merged: dict[str, Check] = {}
    for check in checks:
        so_far = merged.get(check.name)
        merged[check.name] = check if so_far is None else so_far.model_copy(update={
            "passed": so_far.passed and check.passed, "trainings": so_far.trainings + check.trainings,
            "failed": so_far.failed + check.failed, "found": so_far.found + check.found,
            "left_out": so_far.left_out + check.left_out, "example": so_far.example or check.example,
        })  # fmt: skip
    return tuple(merged.values())


def leak_message(failed: Iterable[Check]) -> str:
    """What failed, as one line."""
    return "; ".join(f"{c.name}: {c.asks}, but {c.found} rows break this, such as {c.example}" for c in failed)


def require_no_leak(checks: Iterable[Check], document: Path) -> None:
    """End an evaluation whose checks did not all pass.

    Raises:
        CropgenError: a check failed.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        raise CropgenError(
            f"training rows leak into the test, so not every training was run: {leak_message(failed)}",
            hint=f"leave the leaking rows out with --on-leak drop, or mend the data; the checks are in {document}",
        )


def _check(name: str, leaky: np.ndarray, index: pd.DataFrame, metres: float) -> Check:
    example = None
    if len(leaky):
        row = index.iloc[int(leaky[0])]
        region = f" of {row['region']}" if row.get("region") else ""
        example = f"parcel {row['parcel_id']}{region} in {row['year']}"
    return Check(
        name=name, asks=ASKS[name].format(metres=metres), passed=not len(leaky), trainings=1,
        failed=int(len(leaky) > 0), found=len(leaky), left_out=0, example=example,
    )  # fmt: skip


def _union(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def _parcels(index: pd.DataFrame) -> np.ndarray:
    """(N,) number of the parcel of each row: its id in its region."""
    return index.groupby(["region", "parcel_id"], sort=False).ngroup().to_numpy()


def _tested_target(
    fold: Fold, tested: np.ndarray, parcel: np.ndarray, index: pd.DataFrame, store: SeriesStore
) -> np.ndarray:
    """Ascending rows of the target that are tested on under any name; in a published split, only those of the years
    tested on."""
    target = np.unique(np.zeros(0, np.int64) if fold.target is None else fold.target)
    asked = target
    if fold.official:
        year = index["year"].to_numpy()
        asked = target[np.isin(year[target], year[tested])]
    same = asked[np.isin(parcel[asked], parcel[tested])]
    return _union(
        (np.intersect1d(target, tested), same, _near(index, asked, tested, SAME_PLACE_M),
         _shared_series(store, index, target, tested))
    )  # fmt: skip


def _shared_series(store: SeriesStore, index: pd.DataFrame, learnt: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Ascending rows of `learnt` whose series is that of a row of `held`."""
    enough = index["clear_dates"].to_numpy() >= _LEAST_DATES
    known = set(_digests(store, held[enough[held]]))
    asked = learnt[enough[learnt] & ~np.isin(learnt, held)]
    return asked[np.fromiter((digest in known for digest in _digests(store, asked)), bool, len(asked))]


def _digests(store: SeriesStore, rows: np.ndarray) -> Iterator[bytes]:
    for start in range(0, len(rows), _CHUNK):
        series = store.read(rows[start : start + _CHUNK])
        for values, day, mask in zip(series.values, series.season_day, series.mask, strict=True):
            yield hashlib.blake2b(values[mask].tobytes() + day[mask].tobytes(), digest_size=16).digest()


def _near(index: pd.DataFrame, rows: np.ndarray, held: np.ndarray, metres: float) -> np.ndarray:
    """Ascending rows that lie nearer than `metres` to a row of `held`, by the chord between their positions."""
    from scipy.spatial import KDTree

    lon, lat = (np.deg2rad(index[name].to_numpy(float)) for name in ("lon", "lat"))
    place = _EARTH_RADIUS_M * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    known = np.isfinite(place.sum(1))
    asked, there = rows[known[rows]], held[known[held]]
    if not len(asked) or not len(there) or metres == 0:
        return np.zeros(0, np.int64)
    distance, _ = KDTree(place[there]).query(place[asked], distance_upper_bound=metres)
    return asked[distance < metres]
