from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from shapely.geometry import MultiPolygon, Polygon, box

from cropgen.evaluation import maps
from cropgen.evaluation.document import Phenology
from cropgen.evaluation.maps import Ground, draw_map, ground_of, outline_of, scale_length
from cropgen.evaluation.panels import Track, phenology_panel, styles, track_panel
from cropgen.evaluation.plots import (
    ACCENT,
    LINES,
    Curve,
    Mark,
    learning_curves,
    reliability_panel,
    score_chart,
    smooth,
    themed,
)


def charts():
    half = np.linspace(0.05, 0.95, 10)
    curve = Curve("same", ACCENT, half, half**2, np.arange(10) * 3)
    yield reliability_panel('a "$x$" <b>', [curve, curve], "reliability")
    yield score_chart(["rf", "tgem"], [("same", ACCENT, [Mark(0.5, 0.4, 0.6), None])], "scores")
    yield learning_curves(np.arange(1, 40), {"loss": np.linspace(2, 1, 39), "kl_y": np.ones(39)}, "learning")
    yield draw_map(Ground(np.array([box(0, 0, 10, 10)]), (0, -2, 11, 11)), np.array([0]), ["#aa0000"], "map", "Map")


@pytest.mark.parametrize("place", range(4))
def test_figures_are_whole_reproducible_and_need_nothing_else(place):
    svg = list(charts())[place]
    assert svg == list(charts())[place]
    ElementTree.fromstring(svg)
    assert 'role="img"' in svg
    assert not re.search(r'(?:href|src)="(?!#|data:)', svg)
    assert "<metadata" not in svg
    assert ACCENT not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(ids)


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ((13, 14, 60, 150, 300, 600), (1, 2, 3, 4, 5)),
        ((600, 13, 14, 60, 150, 300), (0, 2, 3, 4, 5)),
        ((1, 10, 100), (0, 1, 2)),
        ((1, 100, 101, 102), (0, 3)),
    ],
)
def test_labels_that_would_touch_below_an_axis_are_left_out(places, shown):
    track = Track(styles(["rf"])["rf"], np.sort(np.array(places)), np.linspace(0.4, 0.6, len(places)))
    ticks = [(place, f"s{k}") for k, place in enumerate(places)]
    svg = track_panel("labels", [track], "labels", across="labels used", up="macro-F1", ticks=ticks, logarithmic=True)
    assert sorted(re.findall(r">(s\d)<", svg)) == [f"s{k}" for k in shown]


@pytest.mark.parametrize("name", ["temporary grassland and grass-clover mixtures, mown at least twice", "x" * 90])
def test_names_of_any_length_stay_inside_a_panel(name):
    """A panel of 290 pixels cuts off what stands right of it; a letter of a title is about 8 pixels wide."""
    line = (0.1, 0.2, 0.3)
    seen = Phenology(
        model="tgem", variant="", train="all", labels="10%", crop=0, quantity="NDVI", parcels=9, day=(10, 40, 70),
        observed=(line,) * 3, generated=(line,) * 3,
    )  # fmt: skip
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", phenology_panel(name, seen, "growth"))
    title = [text for text in texts if text in name]
    assert "".join(title).replace(" ", "") == name.replace(" ", "")
    assert max(map(len, title)) <= 28


def test_names_of_many_lines_do_not_overlap_in_the_chart_of_scores():
    def height(name):
        svg = score_chart([f"{name} {k}" for k in range(4)], [("same", ACCENT, [Mark(0.5, 0.4, 0.6)] * 4)], "scores")
        return float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[0])

    assert height("rf") == height("pool (steps=200)")
    # 8.5 points to a line of 22 letters, and a fifth between lines
    assert height("pool (" + "word=value, " * 12 + ")") > 4 * 7 * 8.5 * 1.2


def test_theme_colours_become_variables():
    assert themed(ACCENT) == "var(--accent)"
    assert themed("#123456") == "#123456"


def test_smoothing_keeps_lines_and_means():
    line = np.linspace(3, 7, 101)
    assert np.allclose(smooth(line), line)
    noisy = np.random.default_rng(0).normal(size=2000)
    assert smooth(noisy).std() < 0.2 * noisy.std()
    assert smooth(np.array([4.0])).tolist() == [4.0]


@given(st.floats(1, 1e7))
def test_scale_bars_are_round_and_fit(width):
    length = scale_length(width)
    assert width / 15 < length <= width / 5 * (1 + 1e-9)
    assert f"{length:e}"[0] in "125"


def test_outlines_leave_holes_open():
    ring = Polygon(box(0, 0, 10, 10).exterior, [box(4, 4, 6, 6).exterior])
    outline = outline_of(np.array([ring, MultiPolygon([box(20, 0, 22, 2), box(24, 0, 26, 2)])]))
    assert (outline.codes == Outline.MOVETO).sum() == 4
    assert (outline.codes == Outline.CLOSEPOLY).sum() == 4
    inside = [(1, 1), (21, 1), (25, 1)]
    assert outline.contains_points(inside).all()
    assert not outline.contains_points([(23, 1), (-1, 5)]).any()
    shoelace = sum(
        0.5 * np.sum(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1]) for p in outline.to_polygons(closed_only=True)
    )
    assert shoelace == pytest.approx(96 + 8)
    assert outline_of(np.array([None, Polygon()])) is None


def test_many_parcels_become_an_image(monkeypatch):
    monkeypatch.setattr(maps, "VECTOR_LIMIT", 2)
    cells = np.array([box(x, 0, x + 1, 1) for x in range(4)])
    svg = draw_map(Ground(cells, (0, -1, 4, 1)), np.array([0, 1, 0, -1]), ["#ff0000", "#0000ff"], "map", "Map")
    assert "data:image/png;base64," in svg
    assert "class0" not in svg


def test_maps_are_metric():
    import geopandas

    layer = geopandas.GeoDataFrame(geometry=[box(12, 48, 12.01, 48.01)], crs=4326)
    west, _, east, _ = ground_of(layer).bounds
    assert east - west == pytest.approx(745, rel=0.15)
    assert ground_of(layer.set_crs(None, allow_override=True)) is None
    assert ground_of(geopandas.GeoDataFrame(geometry=[None], crs=4326)) is None


@pytest.mark.parametrize("crs", [4326, 3857, 2263, 25832])
def test_areas_are_those_on_the_ground_whatever_the_projection(crs):
    """Web Mercator doubles areas at 48° N, and EPSG:2263 counts in feet."""
    import geopandas

    field = geopandas.GeoSeries([box(500000, 5300000, 500100, 5300200)], crs=32633).to_crs(crs)
    ground = ground_of(geopandas.GeoDataFrame(geometry=field))
    assert ground.geometry[0].area == pytest.approx(20000, rel=0.02)


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", LINES)
def test_lines_stand_out_from_the_paper(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5
