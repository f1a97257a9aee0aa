"""Maps of parcels as inline SVG: each class one path, a scale bar, nothing that needs a server."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import matplotlib
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from pyproj import Proj, Transformer

from cropgen.evaluation.plots import CARD, INK, styled, to_svg

VECTOR_LIMIT = 4000
_PIXELS = 1600
_WIDTH = 7.2
_SPANS = (1, 2, 5)
_SCALE_ERROR = 0.02
_POINTS = (0, 4)


@dataclass(frozen=True)
class Ground:
    """Parcels ready to draw: a metric projection and the frame they fill.

    Arguments:
        geometry: (N,) shapely geometries, null where the layer has none.
        bounds: west, south, east, north in metres.
    """

    geometry: np.ndarray
    bounds: tuple[float, float, float, float]


def ground_of(layer: gpd.GeoDataFrame) -> Ground | None:
    """The parcels of a layer in metres; None when it has no geometry or no coordinate system."""
    if layer.crs is None or (layer.geometry.is_empty | layer.geometry.isna()).all():
        return None
    metric = layer.geometry if _true_to_scale(layer) else layer.geometry.to_crs(layer.estimate_utm_crs())
    west, south, east, north = (float(edge) for edge in metric.total_bounds)
    margin = max(0.015 * max(east - west, north - south), 5.0)
    foot = south - margin - 0.05 * max(east - west, 1.0)
    return Ground(metric.to_numpy(), (west - margin, foot, east + margin, north + margin))


def _true_to_scale(layer: gpd.GeoDataFrame) -> bool:
    """Whether the coordinates are metres and areas in the middle of the layer within 2 % of those on the ground, which
    those of a Mercator map are not."""
    crs = layer.crs
    if crs is None or not crs.is_projected or any(axis.unit_conversion_factor != 1 for axis in crs.axis_info):
        return False
    west, south, east, north = layer.total_bounds
    there = Transformer.from_crs(crs, 4326, always_xy=True).transform((west + east) / 2, (south + north) / 2)
    return abs(Proj(crs).get_factors(*there).areal_scale - 1) < _SCALE_ERROR


def draw_map(ground: Ground, category: np.ndarray, colours: list[str], name: str, label: str) -> str:
    """Parcels filled by category.

    Up to 4,000 parcels are drawn as outlines or points that stay sharp at any size; more are drawn as an image.

    Arguments:
        category: (N,) int positions in `colours`; negative ones are not drawn.
        name, label: see `to_svg`.
    """
    west, south, east, north = ground.bounds
    height = float(np.clip(_WIDTH * (north - south) / (east - west), 1.5, 11.0))
    drawn = (category >= 0) & ~shapely.is_missing(ground.geometry) & ~shapely.is_empty(ground.geometry)
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(_WIDTH, height))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        axis.set(xlim=(west, east), ylim=(south, north), aspect="equal")
        if drawn.sum() <= VECTOR_LIMIT:
            for position, colour in enumerate(colours):
                mine = ground.geometry[drawn & (category == position)]
                outline = outline_of(mine)
                if outline is not None:
                    patch = PathPatch(outline, facecolor=colour, edgecolor=CARD, linewidth=0.35, gid=f"class{position}")
                    axis.add_patch(patch)
                _draw_points(axis, mine, colour, f"dots{position}")
        else:
            _draw_image(axis, ground, category, drawn, colours)
        _scale_bar(axis, ground)
        return to_svg(figure, name, label)


def _draw_points(axis: Axes, geometry: np.ndarray, colour: str, name: str) -> None:
    """A dot for each parcel that is known as a point alone."""
    places = shapely.get_coordinates(geometry[np.isin(shapely.get_type_id(geometry), _POINTS)])
    if len(places):
        axis.plot(*places.T, linestyle="", marker="o", markersize=3.5, markeredgewidth=0, color=colour, gid=name)


def outline_of(geometry: np.ndarray) -> Outline | None:
    """One path of all rings, exteriors counter-clockwise and holes clockwise; None without a ring."""
    parts = shapely.get_parts(geometry)
    rings, owner = shapely.get_rings(parts[shapely.get_type_id(parts) == 3], return_index=True)
    if not len(rings):
        return None
    exterior = np.concatenate([[True], owner[1:] != owner[:-1]])
    reverse = shapely.is_ccw(rings) != exterior
    rings[reverse] = shapely.reverse(rings[reverse])
    points, ring = shapely.get_coordinates(rings, return_index=True)
    codes = np.full(len(points), Outline.LINETO, np.uint8)
    codes[np.concatenate([[True], ring[1:] != ring[:-1]])] = Outline.MOVETO
    codes[np.concatenate([ring[1:] != ring[:-1], [True]])] = Outline.CLOSEPOLY
    return Outline(points, codes)


def _draw_image(axis: Axes, ground: Ground, category: np.ndarray, drawn: np.ndarray, colours: list[str]) -> None:
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    west, south, east, north = ground.bounds
    size = _PIXELS / max(east - west, north - south)
    width, height = max(round((east - west) * size), 1), max(round((north - south) * size), 1)
    shapes = zip(ground.geometry[drawn], category[drawn].astype(int) + 1, strict=True)
    place = Affine((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)
    filled = rasterize(shapes, out_shape=(height, width), transform=place, dtype="int32")
    palette = np.array([(0.0, 0.0, 0.0, 0.0), *(to_rgba(colour) for colour in colours)])
    axis.imshow(palette[filled], extent=(west, east, south, north), interpolation="nearest")


def scale_length(width: float) -> float:
    """The largest of 1, 2, 5 × 10^k metres that is at most a fifth of the map's width."""
    limit = width / 5
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in _SPANS if step * power <= limit))


def _scale_bar(axis: Axes, ground: Ground) -> None:
    """A bar at the left of the foot of the map, the arrow to grid north at its right."""
    west, south, east, _ = ground.bounds
    width = east - west
    length = scale_length(width)
    left, base, rise = west + 0.015 * width, south + 0.016 * width, 0.012 * width
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axis.plot([left, left + length], [base, base], color=INK, linewidth=2.0, solid_capstyle="butt")
    for end in (left, left + length):
        axis.plot([end, end], [base, base + rise], color=INK, linewidth=1.0, solid_capstyle="butt")
    axis.text(left + length + 0.012 * width, base, text, ha="left", va="center", fontsize=9, color=INK)
    right = east - 0.022 * width
    axis.annotate(
        "", xy=(right, base + 2.4 * rise), xytext=(right, base - 0.6 * rise),
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    axis.text(right - 0.014 * width, base + 0.4 * rise, "N", ha="right", va="center", fontsize=9, color=INK)
