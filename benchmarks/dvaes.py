"""What every dynamical variational auto-encoder is worth, and what was asked of the recommended one.

    python benchmarks/dvaes.py            # writes results/dvaes.md again
    python benchmarks/dvaes.py --check    # exit code 1 when it is not what the results say

Trains nothing: the rows of the catalogue and their textbook forms are trained by `accuracy.py`, beginnings of seasons,
sparse series and gaps by `dynamics.py`; `results/dvaes.md` is made from the files of both.
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from statistics import fmean

from accuracy import CONTENDERS
from comparisons import (
    DATA,
    EVERYWHERE,
    GOALS_HEAD,
    LABELS,
    PRESET_HEAD,
    SPLITS,
    START,
    START_HEAD,
    WORDS,
    Row,
    beside_preset,
    beside_start,
    differences,
    differences_head,
    goal,
    nowhere_below,
    section,
    short,
    verdict,
)
from dynamics import FILLERS, PREFIXES
from dynamics_measures import DROPPED
from kept import remake
from scoreboard import chosen, shared

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS / "dvaes.md"
PRESET, FAMILY = "srnn", "dvae"
CAUSAL, DEFAULT = "srnn", "srnn, smoothing"
"""What `dynamics.py` calls the preset as a filter, and the preset as it is."""


def page(board: list[Row], dynamics: list[Row]) -> str:
    """The tables as Markdown."""
    whole = [row for row in board if not row["dates"]]
    names = [name for name, contender in CONTENDERS.items() if contender.family == FAMILY]
    goals = [*asked(whole), *drops(whole), *early(dynamics), sparse(dynamics), *gaps_filled(dynamics)]
    parts = [
        "# Dynamical variational auto-encoders\n",
        "Command: `python benchmarks/dvaes.py`, from the rows of `accuracy.py` and `dynamics.py`.\n",
        WORDS,
        *section("What was asked, and what was found", _ASKED, GOALS_HEAD, 9, goals),
        *section(f"`{PRESET}` above `{START}`", _BESIDE, START_HEAD, 3, beside_start(whole, PRESET)),
        *section("Every row", _ROWS, differences_head(), 1, differences(whole, names, START)),
        *section(f"Is `{PRESET}` the best of them?", _PRESET, PRESET_HEAD, 1, beside_preset(whole, names, PRESET)),
    ]
    return "\n".join(parts)


def asked(rows: list[Row]) -> list[list[str]]:
    """Nowhere below the start by more than a point, and above it from 10 % of the labels on."""
    lines = [nowhere_below(rows, PRESET)]
    for labels, split in product((0.1, 1.0), SPLITS):
        lines.append(goal(rows, PRESET, START, labels, split, 0, strictly=True))
    return lines


def drops(rows: list[Row]) -> list[list[str]]:
    """The place of the preset among single models by what is lost between in and across, at 10 % of the labels."""
    told, first = [], 0
    for data in EVERYWHERE:
        lost: dict[str, dict[str, list[float]]] = {}
        for row in chosen(shared(rows), data=data, labels=LABELS, target_unlabelled=False):
            if row["family"] != "pool":
                lost.setdefault(row["model"], {}).setdefault(row["split"], []).append(row["macro_f1"])
        found = {name: 100 * (fmean(by["in"]) - fmean(by["cross"])) for name, by in lost.items() if len(by) == 2}
        if PRESET in found:
            place = 1 + sum(value < found[PRESET] for value in found.values())
            told.append(f"{short(data)} {found[PRESET]:.1f} ({place} of {len(found)})")
            first += place == 1
    what = f"loss of `{PRESET}` from in to across, 10 % (place among single models, least first)"
    return [[what, "first on 2", ", ".join(told), verdict(first >= 2)]]


def early(rows: list[Row]) -> list[list[str]]:
    """One causal model beside the exact scores of the start and networks trained for each beginning, on Arkansas."""
    lines, seen = [], chosen(rows, measure="early", data="arkansas")
    for split, other, wanted in (
        ("in", START, 0), ("cross", START, 0), ("cross", "tempcnn", 7), ("in", "tempcnn distilled", 0),
    ):  # fmt: skip
        gaps = {}
        for dates in PREFIXES:
            mine, theirs = (
                {row["seed"]: row["macro_f1"] for row in
                 chosen(seen, split=split, contender=name, dates=dates, answer="model")}
                for name in (CAUSAL, other)
            )  # fmt: skip
            if common := mine.keys() & theirs.keys():
                gaps[dates] = 100 * fmean(mine[seed] - theirs[seed] for seed in sorted(common))
        if gaps:
            least = min(gaps, key=lambda dates: gaps[dates])
            what = f"`{CAUSAL}` as a filter − `{other}`, {SPLITS[split]}, least of {_listed(PREFIXES)} dekads"
            lines.append([what, f"≥ {wanted}", f"{gaps[least]:+.1f} ({least}; best {max(gaps.values()):+.1f})",
                          verdict(gaps[least] >= wanted)])  # fmt: skip
    return lines


def sparse(rows: list[Row]) -> list[str]:
    """The most that is lost where 70 % of the dates are dropped."""
    lost = {}
    for data, split in product(DATA, SPLITS):
        whole, thinned = (
            [row["macro_f1"]
             for row in chosen(rows, measure="sparse", data=data, split=split, contender=DEFAULT, dropped=dropped)]
            for dropped in (0.0, DROPPED)
        )  # fmt: skip
        if whole and thinned:
            lost[f"{short(data)}, {SPLITS[split]}"] = 100 * (fmean(whole) - fmean(thinned))
    most = max(lost, key=lambda place: lost[place])
    found = f"{lost[most]:.1f} ({most}); over 6 in {sum(value > 6 for value in lost.values())} of {len(lost)}"
    return [f"loss of `{PRESET}` without 70 % of the dates, most of all places", "≤ 6", found,
            verdict(lost[most] <= 6)]  # fmt: skip


def gaps_filled(rows: list[Row]) -> list[list[str]]:
    """CRPS of hidden dates beside that of what interpolates."""
    lines = []
    for filler in FILLERS:
        worst: tuple[float, str] = (-math.inf, "")
        wins, places = 0, 0
        for data, split in product(DATA, SPLITS):
            mine, theirs = (
                [row["crps"] for row in chosen(rows, measure="gap", data=data, split=split, contender=name)]
                for name in (DEFAULT, filler)
            )  # fmt: skip
            if mine and theirs:
                ratio = fmean(mine) / fmean(theirs)
                wins, places = wins + (ratio < 1), places + 1
                worst = max(worst, (ratio, f"{short(data)}, {SPLITS[split]}"))
        what = f"CRPS of gaps filled, `{PRESET}` ÷ {filler}, most of all places"
        lines.append([what, "< 1", f"{worst[0]:.2f} ({worst[1]}); less in {wins} of {places}", verdict(worst[0] < 1)])
    return lines


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


_ASKED = (
    "Points of macro-F1, means over seeds and, where no place is named, over Arkansas, Fergana and Mato Grosso. "
    "The mean decides what is reached, and its interval says how sure that is. "
    "Filters, sparse series and gaps: more in [dynamics.md](dynamics.md)."
)
_BESIDE = f"`{PRESET}` less `{START}`, its calibration error, and the networks less `{START}`."
_ROWS = f"Macro-F1 less that of `{START}` at 10 % of the labels."
_PRESET = (
    f"Less `{PRESET}`, means over the three tasks at 10 % of the labels, of the rows that have all three, best across "
    "first. Held-out parcels chose nothing here."
)


def main() -> None:
    board, dynamics = (json.loads((RESULTS / f"{name}.json").read_text())["rows"] for name in ("accuracy", "dynamics"))
    remake(PAGE, lambda: page(board, dynamics), __doc__ or "")


if __name__ == "__main__":
    main()
