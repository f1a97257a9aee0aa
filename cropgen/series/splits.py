"""Which rows are learnt from and which are tested on: selections, nested label subsets, spatial blocks.

Every draw depends on its seed and on the rows alone, so a split can be repeated, saved and compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cropgen.core.errors import CorruptInputError, DataError, SchemaError, UsageError
from cropgen.core.files import require_input, write_text
from cropgen.series.legend import UNKNOWN

if TYPE_CHECKING:
    import pandas

SPLIT_SCHEMA = 1
_KM_PER_DEGREE = 111.195


@dataclass(frozen=True)
class Selection:
    """Years, regions and classes to keep; an empty tuple keeps all.

    Arguments:
        years: harvest years.
        regions: region names.
        classes: positions in the legend of the store; rows with an unknown label are dropped when given.
    """

    years: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()


def select_rows(index: pandas.DataFrame, selection: Selection) -> np.ndarray:
    """Ascending positions (M,) int64 of the rows of an index that a selection keeps.

    Raises:
        DataError: a year or region occurs nowhere; the message lists those that do.
    """
    keep = np.ones(len(index), bool)
    wanted = (("year", selection.years), ("region", selection.regions), ("label", selection.classes))
    for column, values in wanted:
        if not values:
            continue
        present = index[column].to_numpy()
        absent = [v for v in values if column != "label" and not (present == v).any()]
        if absent:
            known = ", ".join(str(v) for v in np.unique(present.astype(str))) or "none"
            raise DataError(f"no parcels of {column} {absent[0]}; there are: {known}", hint=f"choose another {column}")
        keep &= np.isin(present, list(values))
    return np.flatnonzero(keep)


@dataclass(frozen=True)
class LabelShare:
    """How many labels are used: a share of all, or a number per class."""

    share: float | None = None
    per_class: int | None = None

    def count(self, rows: int, minimum: int) -> int:
        """Labels taken of a class of `rows`; a share is never less than `minimum`."""
        if self.per_class is not None:
            return self.per_class
        return max(round((self.share or 0.0) * rows), minimum)

    @classmethod
    def parse(cls, text: str) -> LabelShare:
        """Read `10%`, `0.1` or `50/class`.

        Raises:
            UsageError: it is none of these, or the share is not in (0, 1].
        """
        plain = text.strip()
        try:
            if plain.endswith("/class"):
                count = int(plain.removesuffix("/class"))
                if count >= 1:
                    return cls(per_class=count)
            else:
                share = float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
                if 0 < share <= 1:
                    return cls(share=share)
        except ValueError:
            pass
        raise UsageError(
            f"label share: expected a share such as 10% or 0.1, or a number such as 50/class, got {text!r}",
            hint="a share is above 0 and at most 100% (1.0)",
        )


def label_subset(label: np.ndarray, fraction: str, seed: int, minimum: int = 2) -> np.ndarray:
    """Rows whose labels are used: a stratified draw, nested over fractions for one seed.

    Each class is shuffled once by the seed and the first max(minimum, round(share × n)) rows are taken (or the number
    asked for per class), so a smaller share is contained in a larger one.

    Arguments:
        label: (N,) int class of each row, negative where unknown.
        fraction: `10%`, `0.1` or `50/class`.
        seed: decides the draw; the order within a class does not depend on the other classes.
        minimum: rows that a share keeps of each class at least (all, where a class has fewer).

    Returns:
        (M,) int64 ascending positions in `label`.

    Raises:
        UsageError: `fraction` cannot be read.
    """
    share = LabelShare.parse(fraction)
    taken = []
    for value in np.unique(label[label > UNKNOWN]):
        rows = np.flatnonzero(label == value)
        order = np.random.default_rng([seed, int(value)]).permutation(len(rows))
        taken.append(rows[order[: share.count(len(rows), minimum)]])
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)


def spatial_blocks(lon: np.ndarray, lat: np.ndarray, size_km: float, seed: int = 0) -> np.ndarray:
    """Number the square blocks of a grid over the ground that hold the points.

    The grid is metric to first order: degrees of longitude are scaled by the cosine of the mean latitude. Its origin
    is shifted by a seeded fraction of a block, so seeds cut the region differently.

    Arguments:
        lon, lat: (N,) float degrees; NaN where the place is unknown.
        size_km: side of a block.

    Returns:
        (N,) int64 block of each point, 0 … blocks−1; points without a place are blocks of their own.
    """
    if not size_km > 0:
        raise UsageError(f"block size: expected more than 0 km, got {size_km}", hint="a few kilometres are usual")
    known = np.isfinite(lon) & np.isfinite(lat)
    block = np.full(len(lon), -1, np.int64)
    if known.any():
        shift = np.random.default_rng([seed, 0x5B10C]).random(2)
        middle = np.deg2rad(lat[known].mean())
        east = (lon[known] - lon[known].min()) * np.cos(middle) * _KM_PER_DEGREE / size_km
        north = (lat[known] - lat[known].min()) * _KM_PER_DEGREE / size_km
        cell = np.floor(np.stack([east, north], 1) + shift).astype(np.int64)
        block[known] = np.unique(cell, axis=0, return_inverse=True)[1].reshape(-1)
    block[~known] = block.max(initial=-1) + 1 + np.arange((~known).sum())
    return block


@dataclass(frozen=True)
class Split:
    """Disjoint sets of rows.

    Arguments:
        train, test: ascending positions in the index that was split.
        facts: JSON-able description of how it was made.
        validation: ascending positions kept for choices; usually none.
    """

    train: np.ndarray
    test: np.ndarray
    facts: dict[str, Any]
    validation: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        document = {
            "cropgen_split": SPLIT_SCHEMA, "facts": self.facts,
            "train": self.train.tolist(), "test": self.test.tolist(), "validation": self.validation.tolist(),
        }  # fmt: skip
        write_text(path, json.dumps(document) + "\n")

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read what `save` wrote.

        Raises:
            MissingInputError, CorruptInputError, SchemaError: it is not there, not JSON, or not a split.
        """
        try:
            document = json.loads(require_input(path, "split").read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorruptInputError(f"{path} is not JSON: {error}", hint="make the split again") from error
        known = isinstance(document, dict) and document.get("cropgen_split") == SPLIT_SCHEMA
        if not known or not {"train", "test", "facts"} <= set(document):
            raise SchemaError(f"{path} is not a split of schema {SPLIT_SCHEMA}", hint="make the split again")
        train, test, validation = (np.asarray(document.get(k, []), np.int64) for k in ("train", "test", "validation"))
        return cls(train, test, document["facts"], validation)


def holdout(index: pandas.DataFrame, fraction: float, seed: int, block_km: float) -> Split:
    """Hold out whole spatial blocks; no block, and no parcel in any year, is on both sides.

    Blocks are drawn in a seeded order until they hold at least `fraction` of the labelled rows (of all rows, where
    none is labelled); one block always stays for training. All years of a parcel go where its first row goes.

    Arguments:
        index: parcel_id, label, lon, lat per row, as `SeriesStore.index` gives.
        fraction: share of the rows to test on.
        seed: decides the grid's origin and the order of blocks.
        block_km: side of a block.

    Raises:
        DataError: all parcels lie in one block.
    """
    block = parcel_blocks(index, block_km, seed)
    held = held_out_blocks(block, index["label"].to_numpy() > UNKNOWN, fraction, seed, block_km)
    test = np.isin(block, held)
    facts = {
        "kind": "holdout", "fraction": fraction, "seed": seed, "block_km": block_km,
        "blocks": int(block.max()) + 1, "test_blocks": len(held),
    }  # fmt: skip
    return Split(np.flatnonzero(~test), np.flatnonzero(test), facts)


def held_out_blocks(block: np.ndarray, labelled: np.ndarray, fraction: float, seed: int, block_km: float) -> np.ndarray:
    """The blocks that `holdout` draws, in the order they are drawn.

    Arguments:
        block: (N,) int, block of each row; the rows may be some of those the blocks were made of.
        labelled: (N,) bool, rows that count towards the fraction; all do where none is.
        fraction, seed: as of `holdout`.
        block_km: side of a block, for the message.

    Raises:
        DataError: all rows lie in one block.
    """
    names, place = np.unique(block, return_inverse=True)
    count = len(names)
    if count < 2:
        raise DataError(
            f"all {len(block)} rows lie in one block of {block_km} km, so nothing can be held out",
            hint="choose smaller blocks",
        )
    weight = np.bincount(place, weights=labelled if labelled.any() else None, minlength=count).astype(float)
    order = np.random.default_rng([seed, 0x401D]).permutation(count)
    held = np.cumsum(weight[order])
    drawn = min(int(np.searchsorted(held, fraction * held[-1])) + 1, count - 1)
    return names[order[:drawn]]


def parcel_blocks(index: pandas.DataFrame, block_km: float, seed: int) -> np.ndarray:
    """(N,) block of each row, rows of one parcel id in one region sharing a block."""
    import pandas

    block = spatial_blocks(index["lon"].to_numpy(), index["lat"].to_numpy(), block_km, seed)
    keys = ["region", "parcel_id"] if "region" in index else ["parcel_id"]
    parcel = index.groupby(keys, sort=False).ngroup().to_numpy()
    first = pandas.Series(block).groupby(parcel).first().to_numpy()
    return np.unique(first[parcel], return_inverse=True)[1]
