"""Figures as inline SVG: drawn without global state, equal bytes for equal input, coloured by the page's theme.

Colours of the page (ink, rules, accents) are drawn as sentinel colours and replaced by CSS variables, so one figure
serves light, dark and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, MUTED, RULE, CARD = "#0f1a17", "#66736e", "#d8ddd8", "#fdfdfc"
ACCENT, WARM = "#1c6b52", "#b5532b"
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", CARD: "card", ACCENT: "accent", WARM: "warm"}
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.0,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": RULE,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.linewidth": 0.8,
    "xtick.major.size": 0.0, "ytick.major.size": 0.0, "lines.solid_capstyle": "round", "path.simplify": False,
}  # fmt: skip


def styled(name: str) -> matplotlib.RcParams:
    """Settings of a figure; `name` seeds the identifiers inside its SVG."""
    return matplotlib.RcParams({**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": name})


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element for a page.

    Arguments:
        name: unique on the page; identifiers inside are prefixed with it.
        label: what a screen reader says.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r' d="([^"]+)"', lambda m: f' d="{_rounded(m[1])}"', text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def themed(colour: str) -> str:
    """A colour as the page writes it: a variable for those of the theme."""
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour


def _rounded(path: str) -> str:
    """Path data on one line with two decimals."""
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), " ".join(path.split()))


@dataclass(frozen=True)
class Curve:
    """Reliability of one set of answers: bins with their counts."""

    name: str
    colour: str
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def reliability_panels(panels: Sequence[tuple[str, Sequence[Curve]]], name: str) -> str:
    """One panel per model: stated probability against the share that was right, with the diagonal of honesty.

    The area of a point grows with the parcels behind it; bins with fewer than 5 parcels are left out.
    """
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(2.5 * columns + 0.3, 2.6 * lines + 0.25), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axis, (title, curves) in zip(axes, panels, strict=False):
            _reliability(axis, title, curves)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("stated probability", color=MUTED, fontsize=9)
        figure.supylabel("share that was right", color=MUTED, fontsize=9)
        return to_svg(figure, name, "Reliability: stated probability against the share that was right")


def _reliability(axis: Axes, title: str, curves: Sequence[Curve]) -> None:
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    for curve in curves:
        shown = curve.count >= 5
        size = 6 + 70 * np.sqrt(curve.count[shown] / max(curve.count.max(), 1))
        axis.plot(curve.confidence[shown], curve.accuracy[shown], color=curve.colour, linewidth=1.4)
        axis.scatter(
            curve.confidence[shown], curve.accuracy[shown], s=size, color=curve.colour, alpha=0.85, linewidths=0
        )
    axis.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    axis.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    for ruler in (axis.xaxis, axis.yaxis):
        ruler.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


@dataclass(frozen=True)
class Mark:
    """A score with its interval."""

    value: float
    low: float
    high: float


def score_chart(models: Sequence[str], groups: Sequence[tuple[str, str, Sequence[Mark | None]]], name: str) -> str:
    """Models in rows, macro-F1 along the axis, one colour per setting.

    Arguments:
        models: names, the best first.
        groups: (setting, colour, a mark per model).
    """
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(7.2, 0.55 + 0.42 * len(models)), layout="constrained")
        axis = figure.subplots()
        offsets = np.linspace(-0.14, 0.14, len(groups)) if len(groups) > 1 else np.zeros(1)
        for offset, (_, colour, marks) in zip(offsets, groups, strict=True):
            for row, mark in enumerate(marks):
                if mark is not None:
                    axis.plot([mark.low, mark.high], [row + offset] * 2, color=colour, linewidth=2.2, alpha=0.45)
                    axis.plot(mark.value, row + offset, "o", color=colour, markersize=5.5)
        axis.set_yticks(range(len(models)), models, color=INK)
        axis.set_ylim(len(models) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("macro-F1")
        axis.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], min_n_ticks=3))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        return to_svg(figure, name, "Macro-F1 of the models with 95 % intervals")


def learning_curves(steps: np.ndarray, terms: dict[str, np.ndarray], name: str) -> str:
    """The parts of the training objective over gradient steps, one small panel each."""
    with matplotlib.rc_context(styled(name)):
        columns = min(len(terms), 3 if len(terms) in (3, 6) else 4 if len(terms) % 5 else 5)
        lines = -(-len(terms) // columns)
        figure = Figure(figsize=(9.4, 1.55 * lines + 0.2), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
        for axis, (term, values) in zip(axes, terms.items(), strict=False):
            axis.plot(steps, values, color=ACCENT, linewidth=0.8, alpha=0.35)
            axis.plot(steps, smooth(values), color=ACCENT, linewidth=1.6)
            axis.set_title(term.replace("_", " ").replace(".", ": "), loc="left", fontsize=8.5, color=INK)
            axis.locator_params(nbins=4)
        for axis in axes[len(terms) :]:
            axis.set_visible(False)
        figure.supxlabel("gradient steps", color=MUTED, fontsize=9)
        return to_svg(figure, name, "Training objective over gradient steps")


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over about a tenth of the values, the window shrinking at both ends."""
    half = max(len(values) // 20, 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    reach = np.minimum(half, np.minimum(place, len(values) - 1 - place))
    return (total[place + reach + 1] - total[place - reach]) / (2 * reach + 1)
