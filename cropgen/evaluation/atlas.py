"""The part of the report about predictions: the map, how sure it is, and where it is known to be right or wrong."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.files import require_input
from cropgen.core.run import RunFolder
from cropgen.evaluation.maps import Ground, draw_map, ground_of
from cropgen.prediction.geopackage import LAYER, LEGEND
from cropgen.series.columns import as_text, find_column
from cropgen.series.legend import CropClass, Legend, spread_colour

CONFIDENCE_EDGES = (0.5, 0.7, 0.9)
CONFIDENCE_COLOURS = ("#9c4a00", "#e0a458", "#7fb3d5", "#0b5f8a")
CHECK_COLOURS = ("#2a7fb0", "#d35400", "#a9b4ba", "#cdd1d0")
_SHOWN = ("crop_code", "crop_name", "probability", "flags", "run_id")
_PREDICTED = re.compile(r"pred(\d*)_crop_code")


@dataclass(frozen=True)
class Share:
    """One line of a map's key."""

    name: str
    colour: str
    parcels: int
    share: float
    hectares: float | None


@dataclass(frozen=True)
class Plate:
    """A map with its key."""

    title: str
    caption: str
    svg: str
    key: tuple[Share, ...]


@dataclass(frozen=True)
class Atlas:
    """Everything the report shows of one predictions file."""

    file: str
    run_id: str
    parcels: int
    predicted: int
    hectares: float | None
    plates: tuple[Plate, ...]
    flags: tuple[tuple[str, int], ...]


def read_predictions(path: Path) -> gpd.GeoDataFrame:
    """A layer that `cropgen predict` wrote.

    Raises:
        MissingInputError: there is no such file.
        CorruptInputError: it cannot be read.
        SchemaError: it holds no predictions, or not all of their columns that are shown.
    """
    require_input(path, "predictions")
    try:
        layer = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path, layer=LAYER)
    except (OSError, ValueError, DataSourceError, DataLayerError) as error:
        raise CorruptInputError(f"{path} cannot be read as predictions: {error}", hint="predict again") from error
    prefix = prediction_prefix(list(layer.columns)) or "pred_"
    missing = [name for name in _SHOWN if f"{prefix}{name}" not in layer.columns]
    if missing:
        raise SchemaError(
            f"{path} holds no column {prefix}{missing[0]}; found {', '.join(map(str, layer.columns[:20]))}",
            hint="give a file made by cropgen predict",
        )
    return layer


def prediction_prefix(columns: list[str]) -> str | None:
    """The prefix of the newest prediction in a layer; None when it has none."""
    numbers = [int(found[1] or 1) for c in columns if (found := _PREDICTED.fullmatch(str(c)))]
    return None if not numbers else "pred_" if max(numbers) == 1 else f"pred{max(numbers)}_"


def _text(layer: gpd.GeoDataFrame, column: str) -> np.ndarray:
    return as_text(pd.Series(layer[column]))


def make_atlas(path: Path, runs: list[RunFolder], legends: list[Legend], library: Path | None = None) -> Atlas:
    """Draw the maps of a predictions file.

    Arguments:
        runs: run folders; the one that made the predictions tells which parcels were learnt from.
        library: folder of further runs, where that one is looked up if it is not among them.
        legends: where colours and names of classes are looked up, after the file's own.
    """
    layer = read_predictions(path)
    prefix = prediction_prefix(list(layer.columns)) or ""
    code = _text(layer, f"{prefix}crop_code")
    known = code != ""
    ids = {str(run) for run in layer[f"{prefix}run_id"].dropna().unique()}
    ground = ground_of(layer)
    hectares = None if ground is None else _hectares(ground)
    plates = [_crop_plate(code, _crops(path, code, layer, prefix, legends), ground, hectares)]
    if ground is not None:
        plates.append(_confidence_plate(layer[f"{prefix}probability"].to_numpy(float), ground, hectares))
        truth = _truth(layer, code)
        if truth is not None:
            given = {run.run_id: run for run in runs}
            makers = [given.get(i, RunFolder(library / i) if library else None) for i in sorted(ids)]
            learnt, told = _learnt(layer, makers)
            plates.append(_error_plate(code, truth, learnt, ground, hectares, told=told))
    flags = layer[f"{prefix}flags"].fillna("").astype(str)
    named = sorted({flag for text in flags.unique() for flag in text.split(",") if flag})
    return Atlas(
        file=path.name,
        run_id=", ".join(sorted(ids)),
        parcels=len(layer),
        predicted=int(known.sum()),
        hectares=None if hectares is None else float(hectares[known].sum()),
        plates=tuple(plates),
        flags=tuple((name, int(flags.str.split(",").map(lambda found, n=name: n in found).sum())) for name in named),
    )


def _hectares(ground: Ground) -> np.ndarray | None:
    """(N,) area of the parcels; None where all are points."""
    area = np.nan_to_num(gpd.GeoSeries(ground.geometry).area.to_numpy()) / 1e4
    return area if area.any() else None


def _crops(
    path: Path, code: np.ndarray, layer: gpd.GeoDataFrame, prefix: str, legends: list[Legend]
) -> dict[str, CropClass]:
    """Name and colour of every code predicted."""
    found: dict[str, CropClass] = {}
    if path.suffix == ".gpkg" and LEGEND in pyogrio.list_layers(path)[:, 0]:
        table = pyogrio.read_dataframe(path, layer=LEGEND)
        found = {c: CropClass(c, n, h) for c, n, h in zip(table["code"], table["name"], table["colour"], strict=True)}
    for legend in legends:
        found = {c.code: c for c in legend.classes} | found
    names = dict(zip(code, layer[f"{prefix}crop_name"].fillna(""), strict=True))
    for position, unseen in enumerate(sorted(set(code) - set(found) - {""})):
        found[unseen] = CropClass(unseen, str(names[unseen]) or unseen, spread_colour(position))
    return found


def _key(category: np.ndarray, names: list[str], colours: list[str], hectares: np.ndarray | None) -> tuple[Share, ...]:
    total = max(int((category >= 0).sum()), 1)
    return tuple(
        Share(
            name,
            colour,
            int((category == k).sum()),
            float((category == k).sum() / total),
            None if hectares is None else float(hectares[category == k].sum()),
        )
        for k, (name, colour) in enumerate(zip(names, colours, strict=True))
    )


def _plate(
    title: str, caption: str, ground: Ground | None, category: np.ndarray, names: list[str], colours: list[str],
    hectares: np.ndarray | None,
) -> Plate:  # fmt: skip
    name = re.sub(r"\W+", "-", title.lower())
    svg = "" if ground is None else draw_map(ground, category, colours, name, title)
    return Plate(title, caption, svg, _key(category, names, colours, hectares))


def _crop_plate(
    code: np.ndarray, crops: dict[str, CropClass], ground: Ground | None, hectares: np.ndarray | None
) -> Plate:
    found, number = np.unique(code[code != ""], return_counts=True)
    ordered = [crops[c] for c in found[np.argsort(-number, kind="stable")]]
    position = {crop.code: k for k, crop in enumerate(ordered)}
    category = np.array([position.get(c, -1) for c in code], np.int64)
    caption = "Most probable crop of every parcel."
    return _plate(
        "Predicted crop", caption, ground, category, [c.name for c in ordered], [c.colour for c in ordered], hectares
    )


def _confidence_plate(probability: np.ndarray, ground: Ground, hectares: np.ndarray | None) -> Plate:
    category = np.where(np.isnan(probability), -1, np.searchsorted(CONFIDENCE_EDGES, probability, side="right"))
    edges = [0, *(round(100 * edge) for edge in CONFIDENCE_EDGES), 100]
    names = [f"{low}–{high} %" for low, high in pairwise(edges)]
    caption = "Probability of the crop shown, as the model states it."
    return _plate("Stated probability", caption, ground, category, names, list(CONFIDENCE_COLOURS), hectares)


def _truth(layer: gpd.GeoDataFrame, code: np.ndarray) -> np.ndarray | None:
    """Codes the layer itself carries, "" where it has none; None when they are not of the legend predicted in."""
    own = [c for c in map(str, layer.columns) if not re.match(r"pred\d*_", c) and c != layer.geometry.name]
    column = find_column(own, "label", None, where="predictions")
    if column is None:
        return None
    truth = _text(layer, column)
    stated = truth != ""
    return truth if stated.any() and np.isin(truth[stated], np.unique(code)).mean() >= 0.5 else None


def _learnt(layer: gpd.GeoDataFrame, runs: list[RunFolder | None]) -> tuple[np.ndarray, bool]:
    """(N,) bool: the parcel's label was used in training, in the same year where the layer names one; and whether that
    is known of every run."""
    columns = [str(c) for c in layer.columns]
    name, year = find_column(columns, "id", None, where=""), find_column(columns, "year", None, where="")
    learnt = np.zeros(len(layer), bool)
    known = [run for run in runs if run is not None and run.labels.is_file()]
    if name is None:
        return learnt, False
    for run in known:
        used = json.loads(run.labels.read_text(encoding="utf-8"))
        keys, mine = np.array(used["parcel_id"], np.str_), _text(layer, name)
        if year is not None:
            keys = np.char.add(np.char.add(keys, "\t"), np.array(used["year"]).astype(str))
            mine = np.char.add(np.char.add(mine, "\t"), _text(layer, year))
        learnt |= np.isin(mine, keys)
    return learnt, len(known) == len(runs)


def _error_plate(
    code: np.ndarray, truth: np.ndarray, learnt: np.ndarray, ground: Ground, hectares: np.ndarray | None, *, told: bool
) -> Plate:
    category = np.select([(code == "") | (truth == ""), learnt, code == truth], [3, 2, 0], 1)
    checked = int((category <= 1).sum())
    right = int((category == 0).sum())
    caption = (
        f"Against the labels the parcels came with: {100 * right / checked:.1f} % of {checked:,} parcels right."
        if checked
        else "Every parcel with a label was learnt from; none is left to check."
    ).replace(",", "\u202f")
    if not told:
        caption += " Which parcels were learnt from is not known here, so they may count as right."
    names = ["right", "wrong", "learnt from", "not checked"]
    return _plate("Right and wrong", caption, ground, category, names, list(CHECK_COLOURS), hectares)
