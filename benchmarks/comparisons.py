"""What the pages of `vaes.py` and `dvaes.py` compare alike: a family with its start, its preset and its goals."""

from __future__ import annotations

import math
from itertools import product
from statistics import fmean

from scoreboard import START, Row, above, gaps, means, paired, points, shared, with_interval
from scoreboard import TASKS as DATA
from scoreboard import WORDS as SPLITS
from tables import NAMES, markdown

EVERYWHERE = (*DATA, "demo")
LABELS, BUDGETS = 0.1, (0.01, 0.05, 0.1, 1.0)
SCORES = ("macro_f1", "accuracy")
NETWORKS = ("tempcnn", "tempcnn+fixmatch")
GOALS_HEAD = ["", "wanted", "found", ""]
START_HEAD = ["data", "labels", "split", "seeds", "macro-F1", "accuracy", "ECE, %",
              *(f"`{name}`, macro-F1" for name in NETWORKS)]  # fmt: skip
PRESET_HEAD = ["row", *(f"{score}, {split}" for split in SPLITS.values() for score in ("macro-F1", "accuracy"))]
WORDS = (
    '"in": held-out spatial blocks of the training region or years; "across": one half of another region or later '
    "years. Differences are in points, paired by seed, with 95 % intervals over seeds.\n"
)


def section(title: str, words: str, head: list[str], numeric: int, lines: list[list[str]]) -> list[str]:
    """A table under its title; nothing where it has no line."""
    return [f"## {title}\n\n{words}\n", markdown(head, lines, numeric) + "\n"] if lines else []


def short(data: str) -> str:
    """The name of a data set in a table."""
    return NAMES.get(data, "demo region").partition(",")[0]


def scored(rows: list[Row], name: str, data: str, labels: float, split: str) -> list[Row]:
    """A model's rows, one of each seed; "… + target rows" is the model that saw the target without labels."""
    model, _, target = name.partition(" + ")
    place = (model, bool(target), data, labels, split)
    fields = ("model", "target_unlabelled", "data", "labels", "split")
    return [row for row in rows if tuple(row[field] for field in fields) == place]


def beside_start(rows: list[Row], preset: str) -> list[list[str]]:
    """The preset of a family, and the networks, above the Gaussian that the family begins at."""
    lines = []
    for labels, data, split in product(BUDGETS, EVERYWHERE, SPLITS):
        mine, start, *others = (scored(rows, name, data, labels, split) for name in (preset, START, *NETWORKS))
        told = [above(mine, start, score) for score in SCORES]
        if not all(told):
            continue
        ece = f"{100 * fmean(row['ece'] for row in mine):.1f}"
        nets = [above(other, start, "macro_f1") for other in others]
        lines.append([short(data), f"{100 * labels:g} %", SPLITS[split], str(len(mine)), *told, ece, *nets])
    return lines


def beside_preset(rows: list[Row], names: list[str], preset: str) -> list[list[str]]:
    """Every other row that all three tasks have less the preset, the best across first."""
    known = means(shared(rows), LABELS, "cross", "macro_f1")
    ranked = sorted((name for name in names if name in known and name != preset), key=lambda name: -known[name])
    return [
        [f"`{name}`", *(with_interval(paired(rows, name, preset, LABELS, split, score))
                        for split, score in product(SPLITS, SCORES))]
        for name in ranked
    ]  # fmt: skip


def differences_head() -> list[str]:
    """The head of `differences`."""
    return ["row", *(f"{short(data)}, {SPLITS[split]}" for data, split in product(DATA, SPLITS)), "train, s"]


def differences(rows: list[Row], names: list[str], second: str) -> list[list[str]]:
    """Macro-F1 of models above another on every task and split at 10 % of the labels, and the time of a training.

    Of the seeds that all models have, so that the lines compare.
    """
    rows, lines = shared(rows), list[list[str]]()
    for name in names:
        places = [(data, LABELS, split) for data, split in product(DATA, SPLITS)]
        mine = [scored(rows, name, *place) for place in places]
        told = [above(one, scored(rows, second, *place), "macro_f1") for one, place in zip(mine, places, strict=True)]
        seconds = [row["seconds"] for one in mine for row in one]
        lines += [[f"`{name}`", *told, f"{fmean(seconds):.0f}"]] if any(told) else []
    return lines


def nowhere_below(rows: list[Row], preset: str) -> list[str]:
    """The cell where the preset is least above the start, as a goal."""
    least, told = math.inf, ""
    for labels, data, split in product(BUDGETS, EVERYWHERE, SPLITS):
        mine, start = (scored(rows, name, data, labels, split) for name in (preset, START))
        found = gaps(mine, start, "macro_f1")
        if found and 100 * fmean(found) < least:
            least = 100 * fmean(found)
            told = f"{with_interval({data: found})} ({short(data)}, {SPLITS[split]}, {100 * labels:g} %)"
    return [f"`{preset}` − `{START}`, least of all places", "≥ −1", told, verdict(least >= -1)]


def goal(
    rows: list[Row], first: str, second: str, labels: float, split: str, *wanted: float, strictly: bool = False
) -> list[str]:
    """A line of what was asked of two models: points of macro-F1, and of accuracy where two numbers are wanted.

    The mean decides, over seeds and then tasks; its interval says how sure that is.
    """
    found = [paired(rows, first, second, labels, split, score) for score in SCORES[: len(wanted)]]
    means_found = [points(differences) for differences in found]
    holds = all(value > least or (value == least and not strictly)
                for value, least in zip(means_found, wanted, strict=True))  # fmt: skip
    return [
        f"`{first}` − `{second}`, {SPLITS[split]}, {100 * labels:g} %",
        f"{'>' if strictly else '≥'} {' / '.join(f'{least:g}' for least in wanted)}",
        " / ".join(with_interval(differences) for differences in found),
        verdict(holds),
    ]


def verdict(holds: bool) -> str:
    return "reached" if holds else "not reached"
