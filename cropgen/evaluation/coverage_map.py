"""A map of how often parcels were clearly observed: a styled GeoPackage, a picture, or a page with both and figures.

The GeoPackage holds each parcel season with its clear dates, its longest gap in days and its clear dates by month. The
picture is a grid of the parcels' places: a cell shows the mean clear dates of the parcels in it. All are streamed:
memory does not grow with the number of parcels.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import shapely
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from pyproj import CRS

from cropgen.core.errors import DataError, UsageError
from cropgen.core.files import atomic_output, guard_output, write_text
from cropgen.core.progress import Reporter, Silent
from cropgen.prediction.geopackage import GeoPackageWriter, LayerForm
from cropgen.prediction.style import categorised_qml
from cropgen.series.coverage import seen_dates
from cropgen.series.geometry_parts import GEOMETRY, read_rows
from cropgen.series.legend import CropClass, Legend
from cropgen.series.store import SeriesStore

SUFFIXES = (".gpkg", ".html", ".png")
LAYER = "coverage"
_RAMP = ("#7f2704", "#d95f0e", "#fdae6b", "#fde68a", "#c7e29b", "#7bbf6a", "#2c7a3f", "#0b3d1e")
_STAMP = "2000-01-01T00:00:00.000Z"
_PART = 4096
_CELLS = 360
_MONTHS = ("J", "F", "M", "A", "M", "J", "J", "A", "S", "O", "N", "D")


def write_coverage(
    store: SeriesStore,
    facts: dict[str, Any],
    path: Path,
    report: Reporter | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a map of the coverage of a store.

    Arguments:
        facts: what `cropgen.series.coverage.coverage` says of the store.
        path: its extension decides: .gpkg, .html or .png.

    Raises:
        UsageError: another extension.
        DataError: no parcel has a place.
        OutputExistsError: `path` exists and `overwrite` is false.
        CropgenError: it cannot be written.
    """
    report = report or Silent()
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"map {path}: expected {', '.join(SUFFIXES)}", hint="for example --map coverage.gpkg")
    guard_output(path, overwrite=overwrite)
    steps = edges_of(facts["quantiles"])
    if path.suffix.lower() == ".gpkg":
        with atomic_output(path) as part:
            _write_layer(store, part, steps, report)
        return
    png = picture(_grid(store, report), facts, steps, store.path.parent.name)
    if path.suffix.lower() == ".png":
        with atomic_output(path) as part:
            part.write_bytes(png)
        return
    write_text(path, _page(png, facts, store))


def edges_of(quantiles: dict[str, int]) -> tuple[int, ...]:
    """Bounds between the classes of clear dates: whole numbers, ascending; class k holds edges[k] to edges[k + 1] − 1.

    Class 0 is "never seen"; the others divide evenly what 90 % of the parcels have.
    """
    low, high = quantiles.get("0.05", 0), quantiles.get("0.95", 0)
    inner = np.linspace(max(low, 1), max(high, low, 1) + 1, len(_RAMP) - 2)
    return tuple(np.unique([0, 1, *np.rint(inner).astype(int).tolist()]).tolist())


def _legend(edges: tuple[int, ...]) -> Legend:
    """The classes as the style of the layer needs them; the last is open."""
    names = [f"{a}" if b == a + 1 else f"{a}–{b - 1}" for a, b in itertools.pairwise(edges)]
    colours = _colours(len(edges))
    classes = [*names, f"{edges[-1]} and more"]
    return Legend("clear dates", tuple(CropClass(n, n, c) for n, c in zip(classes, colours, strict=True)))


def _colours(count: int) -> tuple[str, ...]:
    """`count` colours out of the ramp, its first always the first."""
    place = np.rint(np.linspace(0, len(_RAMP) - 1, max(count, 2))).astype(int)[:count]
    return tuple(_RAMP[k] for k in place)


def _write_layer(store: SeriesStore, path: Path, edges: tuple[int, ...], report: Reporter) -> None:
    shaped = store.crs is not None and any((store.path / GEOMETRY).glob("[0-9]*.parquet"))
    legend = _legend(edges)
    kind = "Unknown" if shaped else "Point"
    schema = pa.schema(
        [
            pa.field("parcel_id", pa.string()), pa.field("year", pa.int32()), pa.field("region", pa.string()),
            pa.field("clear_dates", pa.int32()), pa.field("longest_gap", pa.int32()), pa.field("class", pa.string()),
            *(pa.field(f"month_{m:02d}", pa.int32()) for m in range(1, 13)),
            pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"}),
        ]
    )  # fmt: skip
    crs = CRS.from_user_input(store.crs if shaped else "EPSG:4326").to_wkt()
    form = LayerForm(schema, None, "geometry", kind, crs, {}, _STAMP, LAYER)
    writer = GeoPackageWriter(path, form)
    with report.task("writing coverage", len(store)) as task:
        writer.write_layer(_batches(store, schema, legend, edges, shaped, task))
    writer.write_style("clear dates", categorised_qml(legend, "class", "Point" if not shaped else "Polygon"),
                       "clear dates of each parcel")  # fmt: skip


def _batches(
    store: SeriesStore, schema: pa.Schema, legend: Legend, edges: tuple[int, ...], shaped: bool, task: Any
) -> Iterator[pa.RecordBatch]:
    for seen in seen_dates(store, _PART):
        rows, dates, months = seen.rows, seen.dates, seen.months
        shapes = _shapes(store, rows, shaped)
        which = np.searchsorted(np.asarray(edges), dates, side="right") - 1
        columns = [
            pa.array(store.column("parcel_id", rows).tolist()), pa.array(seen.year.astype(np.int32)),
            pa.array(seen.region.tolist()), pa.array(dates.astype(np.int32)),
            pa.array(seen.longest_gap.astype(np.int32)), pa.array([legend.codes[k] for k in which]),
            *(pa.array(months[:, m].astype(np.int32)) for m in range(12)),
            pa.array(shapely.to_wkb(shapes).tolist(), pa.binary()),
        ]  # fmt: skip
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        task.advance(rows.stop - rows.start)


def _shapes(store: SeriesStore, rows: slice, shaped: bool) -> np.ndarray:
    """(N,) polygons of some rows, or points inside the parcels where the store has no polygons; None where unknown."""
    if shaped:
        held = read_rows(store.path, rows)
        return np.full(rows.stop - rows.start, None, dtype=object) if held is None else held.to_numpy()
    lon, lat = store.column("lon", rows), store.column("lat", rows)
    places = [shapely.Point(x, y) if np.isfinite(x) and np.isfinite(y) else None for x, y in zip(lon, lat, strict=True)]
    return np.asarray(places, dtype=object)


@dataclass(frozen=True)
class Grid:
    """Mean clear dates of the parcels of each cell.

    Arguments:
        mean: (H, W) float, NaN without parcels; the first row is the southernmost.
        extent: west, east, south, north in degrees.
    """

    mean: np.ndarray
    extent: tuple[float, float, float, float]


def _grid(store: SeriesStore, report: Reporter) -> Grid:
    west, east, south, north = np.inf, -np.inf, np.inf, -np.inf
    for rows in store.chunks(1 << 16):
        lon, lat = store.column("lon", rows), store.column("lat", rows)
        known = np.isfinite(lon) & np.isfinite(lat)
        if known.any():
            west, east = min(west, lon[known].min()), max(east, lon[known].max())
            south, north = min(south, lat[known].min()), max(north, lat[known].max())
    if not np.isfinite(west):
        raise DataError(f"{store.path}: no parcel has a place, so there is no map", hint="aggregate over polygons")
    wide = max((east - west) * np.cos(np.deg2rad((south + north) / 2)), north - south, 1e-3)
    margin_x, margin_y = (0.03 * wide / np.cos(np.deg2rad((south + north) / 2)), 0.03 * wide)
    extent = (west - margin_x, east + margin_x, south - margin_y, north + margin_y)
    cells = min(_CELLS, max(12, int(0.6 * np.sqrt(len(store)))))
    return Grid(_means(store, extent, cells, report), extent)


def _means(store: SeriesStore, extent: tuple[float, float, float, float], cells: int, report: Reporter) -> np.ndarray:
    west, east, south, north = extent
    step = max((east - west) * np.cos(np.deg2rad((south + north) / 2)), north - south) / cells
    high = max(int(np.ceil((north - south) / step)), 1)
    wide = max(int(np.ceil((east - west) * np.cos(np.deg2rad((south + north) / 2)) / step)), 1)
    total, number = np.zeros(high * wide), np.zeros(high * wide)
    with report.task("drawing coverage", len(store)) as task:
        for seen in seen_dates(store):
            lon, lat = store.column("lon", seen.rows), store.column("lat", seen.rows)
            known = np.isfinite(lon) & np.isfinite(lat)
            x = np.clip((lon[known] - west) / (east - west) * wide, 0, wide - 1).astype(np.int64)
            y = np.clip((lat[known] - south) / (north - south) * high, 0, high - 1).astype(np.int64)
            total += np.bincount(y * wide + x, weights=seen.dates[known], minlength=high * wide)
            number += np.bincount(y * wide + x, minlength=high * wide)
            task.advance(seen.rows.stop - seen.rows.start)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).reshape(high, wide)


def picture(grid: Grid, facts: dict[str, Any], edges: tuple[int, ...], title: str) -> bytes:
    """Map and months as a PNG image; equal facts give equal bytes."""
    west, east, south, north = grid.extent
    aspect = 1 / np.cos(np.deg2rad((south + north) / 2))
    height = float(np.clip(6.2 * aspect * (north - south) / (east - west), 3.4, 9.0))
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "font.size": 9.0, "axes.spines.top": False}):
        figure = Figure(figsize=(10.0, height + 0.9), dpi=140, layout="constrained")
        board, side = figure.subplots(1, 2, width_ratios=(6.2, 3.2))
        norm = BoundaryNorm([*edges, edges[-1] + max(edges[-1] - edges[-2], 1)], len(edges), extend="neither")
        drawn = board.imshow(
            grid.mean, origin="lower", extent=grid.extent, aspect=aspect, interpolation="nearest",
            cmap=ListedColormap(list(_colours(len(edges)))), norm=norm,
        )  # fmt: skip
        board.set(xlabel="longitude °", ylabel="latitude °", facecolor="#eef0ee")
        board.spines[["right"]].set_visible(False)
        board.set_title(f"{title}: clear dates per parcel, {facts['rows']:,} parcel seasons", loc="left")
        bar = figure.colorbar(drawn, ax=board, orientation="horizontal", shrink=0.8, pad=0.02, aspect=40)
        bar.set_ticks(list(edges), labels=[str(edge) for edge in edges])
        bar.set_label("mean clear dates of the parcels in a cell")
        _draw_months(side, facts)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_months(axis: Any, facts: dict[str, Any]) -> None:
    means = [facts["months"][str(m)] for m in range(1, 13)]
    axis.bar(range(12), means, color="#2c7a3f", width=0.75)
    axis.set_xticks(range(12), _MONTHS)
    axis.set_title("clear dates per parcel and month", loc="left")
    axis.spines[["right"]].set_visible(False)
    axis.margins(x=0.02)


def _page(png: bytes, facts: dict[str, Any], store: SeriesStore) -> str:
    head = ("region", "year", "parcels", "never seen", "5 %", "median", "95 %", "longest gap, days")
    rows = [
        (group["region"] or "–", group["year"], f"{group['rows']:,}", f"{group['unseen']:,}",
         *(group["quantiles"].get(q, 0) for q in ("0.05", "0.5", "0.95")), group["longest_gap"])
        for group in facts["region_years"]
    ]  # fmt: skip
    table = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    filled = (
        f"<p>{facts['filled']:,} dates were filled in by a transform and do not count.</p>" if facts["filled"] else ""
    )
    title, image = escape(store.path.parent.name), base64.b64encode(png).decode()
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Coverage of {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#0f1a17}}
img{{max-width:100%}}table{{border-collapse:collapse}}td,th{{padding:.25rem .8rem;border-bottom:1px solid #d8ddd8;
text-align:right}}td:first-child,th:first-child{{text-align:left}}</style></head>
<body><h1>Coverage of {title}</h1>
<p>{facts["rows"]:,} parcel seasons, of which {facts["unseen"]:,} were never clearly seen.</p>{filled}
<img alt="Map of clear dates per parcel, and clear dates per month" src="data:image/png;base64,{image}">
<h2>Regions and years</h2><table><tr>{"".join(f"<th>{name}</th>" for name in head)}</tr>{table}</table></body></html>
"""
