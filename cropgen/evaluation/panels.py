"""Small figures that stand side by side on a wide page and one below the other on a phone: curves over labels, over the
season and over coverage, how crops grow, and single series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from cropgen.evaluation.document import Dynamics, Mistake, Phenology
from cropgen.evaluation.plots import ACCENT, INK, LINES, MARKERS, TITLE, WARM, WIDE_TITLE, styled, to_svg

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_DAYS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_APART = 4.0
"""Least space between two labels of an axis, in pixels of the figure."""
_DASHES = ("-", "--", "-.", ":")
GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}


@dataclass(frozen=True)
class Style:
    """How one model is drawn in every panel of a chapter."""

    name: str
    colour: str
    marker: str
    dash: str

    @property
    def glyph(self) -> str:
        return GLYPHS[self.marker]


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name; beyond eight, colours come again with another dash."""
    kinds = len(LINES)
    return {
        name: Style(name, LINES[k % kinds], MARKERS[k % kinds], _DASHES[(k // kinds) % len(_DASHES)])
        for k, name in enumerate(dict.fromkeys(names))
    }


@dataclass(frozen=True)
class Track:
    """A line of a panel with its band, each (M,) over the same places."""

    style: Style
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def track_panel(
    title: str, tracks: Sequence[Track], name: str, *, across: str, up: str, ticks: Sequence[tuple[float, str]] = (),
    logarithmic: bool = False, markers: bool = True,
) -> str:  # fmt: skip
    """Shares along some quantity, one line per model.

    Arguments:
        across, up: labels of the axes.
        ticks: places on the horizontal axis and what stands there; empty: shares in per cent.
    """
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(3.5, 2.75), layout="constrained")
        axis = figure.subplots()
        for track in tracks:
            _draw(axis, track, markers=markers)
        if logarithmic:
            axis.set_xscale("log")
        if ticks:
            axis.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
        else:
            axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axis.set(xlabel=across, ylabel=up)
        axis.set_title(fill(title, WIDE_TITLE), loc="left", fontsize=9.5, fontweight="bold")
        _part_labels(figure, axis)
        return to_svg(figure, name, f"{title}: {up} over {across}")


def _part_labels(figure: Figure, axis: Axes) -> None:
    """Of labels below the axis that would touch, the right one stays; the place of the other is still marked."""
    figure.draw_without_rendering()
    boxes = sorted(
        ((label.get_window_extent(), label) for label in axis.get_xticklabels()), key=lambda pair: -pair[0].x1
    )
    left = np.inf
    for box, label in boxes:
        if box.x1 + _APART > left:
            label.set_visible(False)
        else:
            left = box.x0


def _draw(axis: Axes, track: Track, *, markers: bool) -> None:
    style = track.style
    if track.low is not None and track.high is not None:
        axis.fill_between(track.x, track.low, track.high, color=style.colour, alpha=0.1, linewidth=0)
    axis.plot(
        track.x, track.y, color=style.colour, linewidth=1.6, linestyle=style.dash,
        marker=style.marker if markers else None, markevery=None if markers else 4, markersize=4.5,
    )  # fmt: skip


def _season_axis(axis: Axes, day: Sequence[float], quantity: str) -> None:
    """Months along the axis, few enough to stand apart."""
    first, last = min(day), max(day)
    starts = [365 * turn + start for turn in (-1, 0, 1) for start in _MONTH_DAYS]
    inside = [(start, _MONTHS[k % 12]) for k, start in enumerate(starts) if first - 12 <= start <= last + 12]
    every = max(-(-len(inside) // 5), 1)
    axis.set_xticks([start for start, _ in inside[::every]], [text for _, text in inside[::every]])
    axis.set_ylabel(quantity)
    axis.yaxis.set_major_locator(MaxNLocator(4))


def phenology_panel(crop: str, seen: Phenology, name: str) -> str:
    """Median and quartiles of a crop through the season, observed and drawn from the model."""
    day = np.array(seen.day)
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(2.9, 2.2), layout="constrained")
        axis = figure.subplots()
        for lines, colour, dash, marker in ((seen.observed, ACCENT, "-", "o"), (seen.generated, WARM, "--", "s")):
            low, middle, high = (np.array([np.nan if v is None else v for v in line]) for line in lines)
            known = np.isfinite(middle)
            axis.fill_between(day[known], low[known], high[known], color=colour, alpha=0.16, linewidth=0)
            axis.plot(
                day[known], middle[known], color=colour, linewidth=1.6, linestyle=dash, marker=marker, markersize=3
            )
        _season_axis(axis, seen.day, seen.quantity)
        axis.set_title(fill(crop, TITLE), loc="left", fontsize=9.5, fontweight="bold", color=INK)
        return to_svg(figure, name, f"{seen.quantity} of {crop} through the season, observed and drawn from the model")


def dynamics_panel(title: str, seen: Dynamics, name: str) -> str:
    """Errors of what is foreseen through the season, and below it where the season told the latent state something."""
    day = np.array(seen.day)
    one_step, free_running, kl = (
        np.array([np.nan if v is None else v for v in line]) for line in (seen.one_step, seen.free_running, seen.kl)
    )
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(3.5, 3.1), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
        for errors, colour, dash, marker in ((one_step, ACCENT, "-", "o"), (free_running, WARM, "--", "s")):
            known = np.isfinite(errors)
            upper.plot(
                day[known], errors[known], color=colour, linewidth=1.6, linestyle=dash, marker=marker, markersize=3
            )
        upper.set_ylim(bottom=0)
        upper.set_ylabel("error, reflectance")
        upper.yaxis.set_major_locator(MaxNLocator(4))
        known = np.isfinite(kl)
        lower.bar(day[known], kl[known], width=0.7 * np.diff(day).min(initial=30), color=ACCENT)
        _season_axis(lower, seen.day, "KL, nats")
        upper.set_title(fill(title, WIDE_TITLE), loc="left", fontsize=9.5, fontweight="bold", color=INK)
        return to_svg(figure, name, f"errors of {title} one step ahead and free running, and KL, through the season")


def mistake_panel(case: Mistake, usual: Sequence[tuple[str, Phenology | None]], name: str) -> str:
    """The series of a parcel before the usual course (quartiles) of its true crop and of the one answered."""
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(2.9, 2.1), layout="constrained")
        axis = figure.subplots()
        days = [*map(float, case.day)]
        for (_, course), colour in zip(usual, (ACCENT, WARM), strict=True):
            if course is not None:
                low, _, high = (np.array([np.nan if v is None else v for v in line]) for line in course.observed)
                known = np.isfinite(low)
                axis.fill_between(np.array(course.day)[known], low[known], high[known], color=colour, alpha=0.25, lw=0)
                days += course.day
        axis.plot(case.day, case.value, color=INK, linewidth=1.3, marker="o", markersize=3.5)
        _season_axis(axis, days, case.quantity)
        (true, _), (said, _) = usual
        return to_svg(figure, name, f"{case.quantity} of parcel {case.parcel_id}: {true}, taken for {said}")
