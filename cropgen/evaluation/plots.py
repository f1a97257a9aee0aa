"""Figures as inline SVG: drawn without global state, equal bytes for equal input, coloured by the page's theme.

Colours of the page (ink, rules, accents) are drawn as sentinel colours and replaced by CSS variables, so one figure
serves light, dark and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, MUTED, RULE, CARD = "#0f1a17", "#66736e", "#d8ddd8", "#fdfdfc"
ACCENT, WARM = "#0b5f8a", "#b8500f"
LINES = (ACCENT, WARM, "#00745b", "#8f3f7b", "#7d6608", "#3b3f90", "#4d5a63", "#7a2d2e")
TITLE, WIDE_TITLE = 26, 32
"""Letters to a line above a panel of 2.9 and of 3.5 inches."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", CARD: "card", ACCENT: "accent", WARM: "warm"}
_VARIABLES |= {colour: f"line{k}" for k, colour in enumerate(LINES) if k >= 2}
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.0,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": RULE,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.linewidth": 0.8,
    "xtick.major.size": 0.0, "ytick.major.size": 0.0, "lines.solid_capstyle": "round", "path.simplify": False,
    "text.parse_math": False,
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
    spoken = escape(label).replace("\\", r"\\")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<svg ", f'<svg role="img" aria-label="{spoken}" ', text, count=1)
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


def reliability_panel(title: str, curves: Sequence[Curve], name: str) -> str:
    """Stated probability against the share that was right, with the diagonal of honesty.

    The area of a point grows with the parcels behind it; bins with fewer than 5 parcels are left out.
    """
    with matplotlib.rc_context(styled(name)):
        figure = Figure(figsize=(2.9, 3.0), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        for position, curve in enumerate(curves):
            shown = curve.count >= 5
            x, y = curve.confidence[shown], curve.accuracy[shown]
            size = 6 + 70 * np.sqrt(curve.count[shown] / max(curve.count.max(), 1))
            axis.plot(x, y, color=curve.colour, linewidth=1.4, linestyle="-" if position == 0 else "--")
            axis.scatter(x, y, s=size, color=curve.colour, alpha=0.85, linewidths=0, marker=MARKERS[position])
        axis.set(xlim=(0, 1.04), ylim=(0, 1.04), xticks=[0, 0.5, 1], yticks=[0.5, 1], aspect="equal")
        axis.set_title(fill(title, TITLE), loc="left", fontsize=9.5, fontweight="bold")
        axis.set(xlabel="stated probability", ylabel="share that was right")
        for ruler in (axis.xaxis, axis.yaxis):
            ruler.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        return to_svg(figure, name, f"Reliability of {title}: stated probability against the share that was right")


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
        names = [fill(model, 22) for model in models]
        tallest = max((name.count("\n") + 1 for name in names), default=1)
        figure = Figure(figsize=(4.6, 0.55 + max(0.42, 0.16 * tallest + 0.04) * len(models)), layout="constrained")
        axis = figure.subplots()
        offsets = np.linspace(-0.14, 0.14, len(groups)) if len(groups) > 1 else np.zeros(1)
        for place, (offset, (_, colour, marks)) in enumerate(zip(offsets, groups, strict=True)):
            for row, mark in enumerate(marks):
                if mark is not None:
                    axis.plot([mark.low, mark.high], [row + offset] * 2, color=colour, linewidth=2.2, alpha=0.45)
                    axis.plot(mark.value, row + offset, MARKERS[place], color=colour, markersize=5.5)
        axis.set_yticks(range(len(models)), names, color=INK, fontsize=8.5)
        axis.set_ylim(len(models) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("macro-F1")
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        return to_svg(figure, name, "Macro-F1 of the models with 95 % intervals")


def learning_curves(steps: np.ndarray, terms: dict[str, np.ndarray], name: str) -> str:
    """The parts of the training objective over gradient steps, one small panel each."""
    with matplotlib.rc_context(styled(name)):
        columns = min(len(terms), 2)
        lines = -(-len(terms) // columns)
        figure = Figure(figsize=(4.8, 1.45 * lines + 0.3), layout="constrained")
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
