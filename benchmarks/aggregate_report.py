"""What the times of aggregation say: a table, a plot of growth, and an extrapolation to a country."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

FRANCE = {"parcels": 10_000_000, "tiles": 60, "dates": 73}
"""Declared parcels, tiles of a date, and dates of a season at five days."""
_BANDS_10M, _BANDS_20M = 4, 6
_MASK_PIXELS = 0.25
_EURO_PER_CORE_HOUR = 0.05


def write_report(document: dict[str, Any], folder: Path) -> None:
    """Write `aggregate.md` and `aggregate.svg` from the rows that are there."""
    rows = document["rows"]
    names = ("compare", "season", "growth_parcels", "growth_dates")
    parts = {part: [row for row in rows if row["part"] == part] for part in names}
    text = ["# Aggregation", "", f"Machine: {document['machine']}. Written by `benchmarks/aggregate.py`.", ""]
    if parts["compare"]:
        text += ["`decode` is GDAL reading every pixel, `read` is cropgen reading every pixel; neither does more.", ""]
        text += ["## One date: four bands of a tile, 50,000 parcels", "", *_table(parts["compare"]), ""]
        text += [_summary(parts["compare"]), ""]
    if parts["season"]:
        text += ["## A season: thirty dates", "", *_table(parts["season"]), ""]
    if parts["growth_parcels"] and parts["growth_dates"]:
        _plot(parts["growth_parcels"], parts["growth_dates"], folder / "aggregate.svg")
        text += ["## Growth", "", "![time and memory against parcels and dates](aggregate.svg)", ""]
        text += [*_table([*parts["growth_parcels"], *parts["growth_dates"]]), "", "## France", "", *_france(parts), ""]
    (folder / "aggregate.md").write_text("\n".join(text), encoding="utf-8")


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line per row; times also as multiples of GDAL's bare decoding where it was timed beside.

    Own memory is the peak without pages of files, looked at twenty times a second.
    """
    floor = {row["dates"]: row for row in rows if row["method"] == "decode"}
    lines = [
        "| method | parcels | dates | seconds | processor seconds | × decode | × decode, processor | peak MB | own MB |"
    ]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        base = floor.get(row["dates"])
        whole = base is not None and row["method"] != "rasterstats"
        times = [f"{row[key] / base[key]:.2f}" if base and whole else "" for key in ("seconds", "processor_seconds")]
        lines.append(
            f"| {row['method']} | {row['parcels']:,} | {row['dates']} | {row['seconds']:.1f} | "
            f"{row['processor_seconds']:.1f} | {times[0]} | {times[1]} | {row['peak_mb']:,} | "
            f"{row.get('own_mb', row['peak_mb']):,} |"
        )
    return lines


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    """How many times faster than the others; rasterstats in proportion to its sample."""
    by_method = {row["method"]: row for row in rows}
    own, sample = by_method.pop("cropgen"), by_method.pop("rasterstats")
    for bare in ("decode", "read"):
        by_method.pop(bare, None)
    best = min(by_method.values(), key=lambda row: row["seconds"])
    slow = sample["seconds"] / sample["parcels"] * own["parcels"]
    return (
        f"cropgen is {best['seconds'] / own['seconds']:.1f} times as fast as the best of the others ({best['method']}) "
        f"and {slow / own['seconds']:.0f} times as fast as rasterstats, which would need {slow:,.0f} s for all parcels."
    )


def _plot(parcels: Sequence[dict[str, Any]], dates: Sequence[dict[str, Any]], path: Path) -> None:
    mpl.rcParams["svg.hashsalt"] = "aggregate"
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for panel, rows, key, title in (
        (panels[0], parcels, "parcels", "one date"), (panels[1], dates, "dates", "10,000 parcels"),
    ):  # fmt: skip
        x = [row[key] for row in rows]
        panel.loglog(x, [row["seconds"] for row in rows], "o-", color="#1b6ca8", label="seconds")
        panel.loglog(x, [row["processor_seconds"] for row in rows], "o--", color="#6aa6d6", label="processor seconds")
        panel.set(xlabel=key, ylabel="seconds", title=title)
        memory = panel.twinx()
        memory.plot(x, [row["peak_mb"] for row in rows], "s-", color="#b5651d", label="peak MB")
        memory.set(ylabel="peak MB", ylim=(0, 1.8 * max(row["peak_mb"] for row in rows)))
        lines = [*panel.get_lines(), *memory.get_lines()]
        panel.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="upper left")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _france(parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Processor time of a country's season: what a date costs, and what a parcel costs, from the rows on growth."""
    by_dates, by_parcels = parts["growth_dates"], parts["growth_parcels"]
    slope = np.polyfit([r["dates"] for r in by_dates], [r["processor_seconds"] for r in by_dates], 1)
    per_date = float(slope[0])
    most, fewest = by_parcels[-1], by_parcels[0]
    full = by_parcels[-2]
    each = (most["own_mb"] - full["own_mb"]) * 1e6 / (most["parcels"] - full["parcels"])
    per_parcel = (most["processor_seconds"] - fewest["processor_seconds"]) / (most["parcels"] - fewest["parcels"])
    bands = _BANDS_10M + (_BANDS_20M + 1) * _MASK_PIXELS
    units = FRANCE["tiles"] * FRANCE["dates"]
    reading = units * per_date * bands / _BANDS_10M
    written = FRANCE["parcels"] * per_parcel * (_BANDS_10M + _BANDS_20M) / _BANDS_10M
    hours = (reading + written * FRANCE["dates"]) / 3600
    least = (reading + written) / 3600
    euros = hours * _EURO_PER_CORE_HOUR
    return [
        f"A season of France: {FRANCE['parcels']:,} parcels, {FRANCE['tiles']} tiles of a date, {FRANCE['dates']} "
        f"dates, ten bands and the scene classification, which is as much as {bands:.2f} bands of 10 m.",
        "",
        f"- A date of a tile costs {per_date:.1f} s of a core for four bands of 10 m (slope over the dates, 10,000 "
        f"parcels), so {per_date * bands / _BANDS_10M:.1f} s for all; {units:,} acquisitions take "
        f"{reading / 3600:.1f} core hours.",
        f"- A parcel costs {per_parcel * 1e6:.0f} µs of a core with one date (slope over the parcels): its polygon is "
        f"read, burnt and written once, its pixels are summed at every date. If all of it recurred at every date, "
        f"{hours:.0f} core hours would be needed in all; if none did, {least:.1f}.",
        f"- At most {hours:.0f} core hours: {hours / 2:.0f} hours on 2 cores, {hours / 32:.1f} hours on 32, "
        f"about {euros:.2f} euros at {_EURO_PER_CORE_HOUR} euros per core hour. Scenes are assumed to lie on disk: "
        f"reading {units * bands * 10_980**2 * 2 * 0.6 / 1e12:.1f} TB from elsewhere takes longer than computing.",
        f"- Memory of its own: {full['own_mb']:,} MB for {full['parcels']:,} parcels, from when on no more are held at "
        f"a time, and {each:.0f} bytes for each further parcel, {FRANCE['parcels'] * each / 1e9:.1f} GB for those of "
        "the country; all else that is known of parcels lies in files. Pages of these files count in the peak as well, "
        "and are given up where room is short.",
    ]
