"""The tables of `results/accuracy.md`, made from the rows of `results/accuracy.json`.

python benchmarks/scoreboard.py            # writes accuracy.md again
python benchmarks/scoreboard.py --check    # exit code 1 when it is not what the rows say
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

from accuracy import CONTENDERS, CONTROL, LEADING, LEADING_SEEDS, SEEDS, TARGET
from kept import page_from

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "accuracy.json"
TITLES = {
    "arkansas": "Arkansas, Sentinel-2, zone 0 → zone 1",
    "fergana": "Fergana, 16-day NDVI, 2015–2016 → 2017–2018",
    "modis": "Mato Grosso, MODIS, harvests to 2015 → 2016",
    "france": "France 2023, Sentinel-2 every ten days, 12 crops",
    "bavaria": "Bavaria 2018, Sentinel-2 with clouds, 8 crops",
    "demo": "demo region, 2021 → 2022",
}
TASKS = ("arkansas", "fergana", "modis")
STRONGEST = {"tempcnn", "tempcnn+fixmatch", "tgem", "realnvp", "ssvae", "srnn", "pool"}
GENERATIVE = ("classical-generative", "flow", "vae", "dvae")
DISCRIMINATIVE = ("discriminative",)
NETWORKS = ("tempcnn", "tempcnn distilled")
CONTROLS = {"control, no density": CONTROL, "control, two networks": "tempcnn2"}
OPPONENT = "tempcnn+fixmatch"
"""Of the networks, the one that the comparison was planned against."""
START, RESIDUAL = "tgem", ("realnvp", "ssvae", "srnn")
SPLITS, WORDS = ("in", "cross"), {"in": "in", "cross": "across"}
SCORES = {"macro_f1": "F1", "accuracy": "acc."}
GOALS = (
    (0.01, False, "pool", 4.0, 0.0),
    (0.1, False, "pool", 3.0, 0.0),
    (0.1, True, "pool", 8.0, 3.0),
    (1.0, True, "pool", 5.0, 2.0),
)
Row = dict[str, Any]


def table(head: list[str], lines: list[list[str]], numeric: int) -> str:
    """Markdown; columns from `numeric` on are right-aligned."""
    rule = ["---:" if i >= numeric else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def named(row: Row) -> str:
    return row["model"] + (TARGET if row["target_unlabelled"] else "")


def spread(values: list[float], factor: float = 100.0, digits: int = 1) -> str:
    mean = f"{factor * fmean(values):.{digits}f}"
    return f"{mean} ± {factor * stdev(values):.{digits}f}" if len(values) > 1 else mean


def training(row: Row) -> tuple[Any, ...]:
    """What tells a row's training: a season cut at prediction alone shares that of the whole seasons."""
    dates = 0 if CONTENDERS[row["model"]].early == "cut" else row["dates"]
    return (*(row[name] for name in ("data", "labels", "seed", "model", "target_unlabelled")), dates)


def chosen(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def shared(rows: list[Row]) -> list[Row]:
    """The rows of seeds that every model is run with: what their means compare."""
    return [row for row in rows if row["seed"] in SEEDS[row["labels"]]]


def means(rows: list[Row], labels: float, split: str, score: str) -> dict[str, float]:
    """Mean score over tasks of every model that has all tasks, seeds averaged first."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in chosen(rows, labels=labels, split=split, dates=0):
        if row["data"] in TASKS:
            found.setdefault(named(row), {}).setdefault(row["data"], []).append(row[score])
    return {name: fmean(fmean(v) for v in tasks.values()) for name, tasks in found.items() if len(tasks) == len(TASKS)}


def paired(rows: list[Row], first: str, second: str, labels: float, split: str, score: str) -> dict[str, list[float]]:
    """Differences first − second by task, one per seed that both have."""
    found: dict[str, dict[tuple[str, int], float]] = {first: {}, second: {}}
    for row in chosen(rows, labels=labels, split=split, dates=0):
        if named(row) in found and row["data"] in TASKS:
            found[named(row)][row["data"], row["seed"]] = row[score]
    common = found[first].keys() & found[second].keys()
    return {
        task: [found[first][key] - found[second][key] for key in sorted(common) if key[0] == task]
        for task in TASKS
        if any(key[0] == task for key in common)
    }


def points(differences: dict[str, list[float]]) -> float:
    """Mean over tasks of the mean over seeds, in points."""
    return 100 * fmean(fmean(d) for d in differences.values())


def with_interval(differences: dict[str, list[float]], scale: float = 100, digits: int = 1) -> str:
    """Mean over T tasks of the mean over seeds, with its 95 % interval over seeds; no interval where a task has one.

    The variance of task i's mean is v_i = s_i² / n_i, that of the whole Σ v_i / T², and the interval is Student's with
    (Σ v_i)² / Σ v_i² / (n_i − 1) degrees of freedom: n − 1 for one task. Few seeds make it wide, as they should; seeds
    resampled with replacement would understate it by more than half at three.

    Arguments:
        differences: by task, one number a seed.
        scale: what the numbers are multiplied by; 100 makes points of shares.
        digits: behind the point.

    References:
        The Generalization of "Student's" Problem when Several Different Population Variances are Involved, Welch, 1947;
        An Approximate Distribution of Estimates of Variance Components, Satterthwaite, 1946.
    """
    from scipy.stats import t

    mean = fmean(fmean(found) for found in differences.values())
    ends = []
    if all(len(found) > 1 for found in differences.values()):
        shares = [(variance(found) / len(found), len(found) - 1) for found in differences.values()]
        whole = sum(v for v, _ in shares)
        freedom = whole**2 / sum(v**2 / n for v, n in shares) if whole else 1.0
        half = float(t.ppf(0.975, freedom)) * whole**0.5 / len(shares)
        ends = [mean - half, mean + half]
    value, *told = (f"{scale * x:+.{digits}f}" for x in (mean, *ends))
    return f"{value} [{', '.join(told)}]" if told else value


def gaps(mine: list[Row], start: list[Row], score: str) -> list[float]:
    """A score less that of the start, of the seeds that both have."""
    other = {row["seed"]: row[score] for row in start}
    return [row[score] - other[row["seed"]] for row in mine if row["seed"] in other]


def above(mine: list[Row], start: list[Row], score: str, scale: float = 100, digits: int = 1) -> str:
    """A score less that of the start, paired by seed, with an interval; nothing of fewer than two common seeds."""
    found = gaps(mine, start, score)
    return with_interval({"": found}, scale, digits) if len(found) > 1 else ""


def best(rows: list[Row], labels: float, fits: Callable[[Row], bool], split: str = "cross") -> str | None:
    """The model with the largest mean macro-F1 over the three tasks, on their targets unless told otherwise.

    Of the seeds that all models have: more of one model would not be compared with less of another.
    """
    scores = means([row for row in shared(rows) if fits(row)], labels, split, "macro_f1")
    return max(scores, key=lambda name: scores[name]) if scores else None


def best_of(rows: list[Row], labels: float, families: tuple[str, ...], *, target: bool) -> str | None:
    """The best model of some families, with or without unlabelled rows of the target."""
    control = CONTROLS["control, no density"]
    return best(
        rows,
        labels,
        lambda row: row["family"] in families and row["target_unlabelled"] == target and row["model"] != control,
    )


def claim(rows: list[Row]) -> str:
    """Best generative, best discriminative, the pool and the controls at each budget that the strongest have."""
    lines = []
    for labels in (0.01, 0.1, 1.0):
        known = means(rows, labels, "cross", "macro_f1")
        if not known.keys() >= STRONGEST:
            continue
        contenders = {
            f"{role}{', target rows' if target else ''}": best_of(rows, labels, families, target=target)
            for target in (False, True)
            for role, families in (
                ("best generative", GENERATIVE), ("best discriminative", DISCRIMINATIVE), ("pool", ("pool",))
            )
        }  # fmt: skip
        contenders |= {role: name for role, name in CONTROLS.items() if name in known}
        opponent = contenders["best discriminative"]
        for role, name in contenders.items():
            if name is None:
                continue
            cells = [f"{100 * means(rows, labels, split, score)[name]:.1f}" for split in ("in", "cross")
                     for score in ("macro_f1", "accuracy")]  # fmt: skip
            difference = ["", ""]
            if opponent and name != opponent:
                difference = [with_interval(paired(rows, name, opponent, labels, "cross", score))
                              for score in ("macro_f1", "accuracy")]  # fmt: skip
            lines.append([f"{100 * labels:g} %", role, f"`{name}`", *cells, *difference])
    if not lines:
        return ""
    head = ["labels", "", "model", "F1 in", "acc. in", "F1 across", "acc. across", "F1 across − disc.", "acc. − disc."]
    return table(head, lines, 3)


def goals(rows: list[Row]) -> str:
    """What was to be reached, and what was, against the best network found and the one planned against."""
    lines = []
    for labels, adapted, model, f1, accuracy in GOALS:
        name = model + (TARGET if adapted else "")
        targets = (False, True) if adapted else (False,)
        strongest = [best_of(rows, labels, DISCRIMINATIVE, target=target) for target in targets]
        for opponent in dict.fromkeys((*strongest, OPPONENT)):
            if opponent is not None and paired(rows, name, opponent, labels, "cross", "macro_f1"):
                lines.append(_reached(rows, labels, name, opponent, (f1, accuracy)))
    return table(["labels", "pair", "wanted F1 / accuracy across", "found", "by task", ""], lines, 9)


def _reached(rows: list[Row], labels: float, name: str, opponent: str, wanted: tuple[float, float]) -> list[str]:
    """One line of what was to be reached; no accuracy wanted means that none may be lost on any task."""
    found = [paired(rows, name, opponent, labels, "cross", score) for score in ("macro_f1", "accuracy")]
    value = [points(f) for f in found]
    per_task = ", ".join(
        f"{task} {100 * fmean(found[0][task]):+.1f}/{100 * fmean(found[1][task]):+.1f}" for task in found[0]
    )
    met = "reached" if value[0] >= wanted[0] and value[1] >= wanted[1] else "not reached"
    losing = [task for task, differences in found[1].items() if fmean(differences) < 0]
    if met == "reached" and not wanted[1] and losing:
        met = f"not reached: accuracy is lost on {', '.join(losing)}"
    return [f"{100 * labels:g} %", f"`{name}` − `{opponent}`", f"{wanted[0]:+.0f} / {wanted[1]:+.0f}",
            " / ".join(with_interval(f) for f in found), per_task, met]  # fmt: skip


def leading(rows: list[Row], labels: float = 0.1) -> str:
    """The rows that have all further seeds on all three tasks, the best across first, and the best network beside them.

    The network is the best across of those seeds.
    """
    here = [row for row in chosen(rows, labels=labels, dates=0) if row["data"] in TASKS and named(row) in LEADING]
    count = Counter(named(row) for row in here)
    whole = [row for row in here if count[named(row)] == len(TASKS) * len(SPLITS) * len(LEADING_SEEDS)]
    scores = {(split, score): means(whole, labels, split, score) for split in SPLITS for score in SCORES}
    across = scores["cross", "macro_f1"]
    networks = {row["model"] for row in whole if row["family"] in DISCRIMINATIVE} - {CONTROL}
    if not networks & across.keys():
        return ""
    opponent, lines = max(networks & across.keys(), key=lambda name: across[name]), []
    for name in sorted(across, key=lambda n: -across[n]):
        cells = [f"{100 * found[name]:.1f}" for found in scores.values()]
        cells += ["" if name == opponent else with_interval(paired(whole, name, opponent, labels, split, score))
                  for split, score in scores]  # fmt: skip
        lines.append([f"`{name}`", *cells])
    told = [f"{SCORES[score]} {WORDS[split]}" for split, score in scores]
    return table(["model", *told, *(f"{one} − `{opponent}`" for one in told)], lines, 1)


def against(rows: list[Row]) -> str:
    """Macro-F1 of the strongest model of each residual family above the Gaussian that it begins at, task by task."""
    lines = []
    for labels in (0.01, 0.1, 1.0):
        for model in RESIDUAL:
            found = {split: paired(rows, model, START, labels, split, "macro_f1") for split in SPLITS}
            cells = [with_interval({task: found[split][task]}) if task in found[split] else ""
                     for task in TASKS for split in SPLITS]  # fmt: skip
            if any(cells):
                lines.append([f"{100 * labels:g} %", f"`{model}`", *cells])
    head = ["labels", "model", *(f"{TITLES[task].partition(',')[0]}, {WORDS[split]}" for task in TASKS
                                 for split in SPLITS)]  # fmt: skip
    return table(head, lines, 2)


def drops(rows: list[Row]) -> str:
    """What single models lose from the blocks held out of their own region or years to another; the least first."""
    lines = []
    for labels in (0.1, 1.0):
        single = [row for row in rows if row["family"] != "pool" and not row["target_unlabelled"]]
        scores = {split: means(single, labels, split, "macro_f1") for split in SPLITS}
        for name in sorted(scores["cross"], key=lambda n: scores["in"][n] - scores["cross"][n]):
            cells = []
            for task in TASKS:
                here = chosen(single, labels=labels, data=task, model=name, dates=0)
                inside, across = (fmean(row["macro_f1"] for row in chosen(here, split=split)) for split in SPLITS)
                cells.append(f"{100 * (inside - across):.1f}")
            whole = 100 * (scores["in"][name] - scores["cross"][name])
            lines.append([f"{100 * labels:g} %", f"`{name}`", *cells, f"{whole:.1f}",
                          f"{100 * scores['cross'][name]:.1f}"])  # fmt: skip
    head = ["labels", "model", *(TITLES[task].partition(",")[0] for task in TASKS), "mean", "F1 across"]
    return table(head, lines, 2)


def early(rows: list[Row]) -> str:
    """Arkansas at 10 % labels, by the number of dekads seen."""
    seen = [row for row in rows if row["dates"]]
    dates = sorted({row["dates"] for row in seen})
    lines = []
    for model in dict.fromkeys(named(row) for row in seen):
        cells = []
        for split in ("in", "cross"):
            for count in dates:
                values = [r["macro_f1"] for r in seen if (named(r), r["split"], r["dates"]) == (model, split, count)]
                cells.append(spread(values) if values else "–")
        lines.append([f"`{model}`", *cells])
    head = ["model", *(f"{split}, {count} dekads" for split in ("in", "across") for count in dates)]
    return table(head, lines, 1)


def early_differences(rows: list[Row]) -> str:
    """What each model is above the networks trained for each prefix, mean over the prefixes."""
    scores: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
    for row in rows:
        if row["dates"]:
            of_seed = scores.setdefault((named(row), row["split"]), {}).setdefault(row["seed"], {})
            of_seed[row["dates"]] = row["macro_f1"]
    lines = []
    for model in dict.fromkeys(name for name, _ in scores if name not in NETWORKS):
        cells = []
        for split in ("in", "cross"):
            mine = scores[model, split]
            for network in NETWORKS:
                theirs = scores.get((network, split), {})
                common = [seed for seed in sorted(mine) if mine[seed].keys() == theirs.get(seed, {}).keys()]
                gaps = [fmean(mine[seed][count] - theirs[seed][count] for count in mine[seed]) for seed in common]
                cells.append(with_interval({"": gaps}) if gaps else "–")
        lines.append([f"`{model}`", *cells])
    head = ["model", *(f"{split}, − `{network}`" for split in ("in", "across") for network in NETWORKS)]
    return table(head, lines, 1)


def full(rows: list[Row], data: str, labels: float) -> str:
    """Every model on one data set at one budget, the best across (or within, where there is no across) first."""
    here = chosen(rows, data=data, labels=labels, dates=0)
    splits = [split for split in ("in", "cross") if any(row["split"] == split for row in here)]
    grouped: dict[str, list[Row]] = {}
    for row in here:
        grouped.setdefault(named(row), []).append(row)
    lines = []
    for name, mine in grouped.items():
        cells = [spread([r[s] for r in mine if r["split"] == split]) for split in splits
                 for s in ("macro_f1", "accuracy")]  # fmt: skip
        last = [r for r in mine if r["split"] == splits[-1]]
        cells += [spread([r["nll"] for r in last], 1.0, 2), spread([r["ece"] for r in last]),
                  f"{fmean(r['seconds'] for r in last):.0f}", str(max(r["peak_mb"] for r in last))]  # fmt: skip
        lines.append((fmean(r["macro_f1"] for r in last), [f"`{name}`", mine[0]["family"], str(len(last)), *cells]))
    head = ["model", "family", "seeds", *(f"{what} {WORDS[split]} %" for split in splits for what in ("F1", "acc.")),
            "NLL", "ECE %", "fit s", "peak MB"]  # fmt: skip
    return table(head, [line for _, line in sorted(lines, key=lambda pair: -pair[0])], 2)


def _time(trainings: Iterable[Row]) -> str:
    """Processor time of trainings, a row of each, and of those of each family."""
    spent: Counter[str] = Counter()
    for row in trainings:
        spent[row["family"]] += row["seconds"]
    parts = ", ".join(f"{kind} {seconds / 60:.0f}" for kind, seconds in spent.most_common())
    total = spent.total()
    return f"{total / 60:.0f} minutes of processor time ({parts}), {total / 7200:.1f} hours on two cores"


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    rows = document["rows"]
    trainings, alike = {training(row): row for row in rows}, shared(rows)
    parts = [
        "# Accuracy: every model, few and many labels, in and across regions and years",
        f"Made by `{document['command']}`. {len(trainings)} of {document['planned']} trainings are in, "
        f"{_time(trainings.values())}. Machine: {document['machine']}; "
        f"Python {document['python']}, torch {document['torch']}.",
        'Mean ± standard deviation over seeds (splits, labels and initial weights change with the seed). "in": '
        'held-out spatial blocks of the training region or years; "across": one half of another region or later '
        'years; "target rows": the other half of it, seen without labels. Seconds are processor time of one thread.',
    ]
    if claimed := claim(alike):
        parts += [
            "## The claim: generative, discriminative and the pool",
            "Means over Arkansas, Fergana and Mato Grosso of models that have all three. The best of each family is "
            "named after its score across, which favours all families alike. Differences are paired by seed, with a "
            "95 % interval over seeds. Controls: `ssvae without density` is network, schedule, augmentation and "
            "innovations of `ssvae` with every term of the density left out (and stands outside the choice of the best "
            "discriminative model); `tempcnn2` is the mean of two networks.",
            claimed,
            "### What was to be reached",
            "Against the network that is best across, which is chosen by the very scores it is compared with, and "
            f"against `{OPPONENT}`, which the comparison was planned against. The mean decides what is reached, and "
            "its interval says how sure that is. Of all seeds that both have, ten at 10 % where both lead.",
            goals(rows),
        ]
    if led := leading(rows):
        parts += [
            "## The leading rows, of ten seeds",
            "Three seeds tell little of a few labels. At 10 % of the labels the rows that README.md shows are run with "
            f"{len(LEADING_SEEDS)}: means over the three tasks, and what they are above the network that is best "
            "across of those seeds, with a 95 % interval over seeds.",
            led,
        ]
    parts += [
        "## Flow, auto-encoder and recurrent model against the Gaussian that they begin at",
        f"Macro-F1 − `{START}`'s, paired by seed, of all seeds that both have, with a 95 % interval over seeds.",
        against(rows),
        "## What is lost from one region or year to another",
        "Macro-F1 on held-out blocks − macro-F1 across, in points, of single models that have all three tasks; no "
        "target rows.",
        drops(alike),
    ]
    if any(row["dates"] for row in rows):
        parts += [
            "## Early in the season",
            "Macro-F1 on Arkansas with 10 % of the labels. `tgem`, `srnn` and `pool, whole seasons` learn from whole "
            "seasons once and are shown the prefix; `tempcnn`, `pool` and `pool, tgem` are trained for each prefix; "
            "`tempcnn distilled` too, beside a twin that sees the whole season and teaches it; `pool distilled` joins "
            "that network and a flow of whole seasons.",
            early(rows),
            "Above the networks, mean over the prefixes, paired by seed, with a 95 % interval over seeds; wanted +7 "
            "across:",
            early_differences(rows),
        ]
    for data, title in TITLES.items():
        for labels in sorted({row["labels"] for row in rows if row["data"] == data and not row["dates"]}):
            count = chosen(rows, data=data, labels=labels)[0]["n_labelled"]
            parts += [f"## {title}: {100 * labels:g} % labels ({count} parcels)", full(alike, data, labels)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    page_from(RESULTS, page, __doc__ or "")
