"""How hard is the demo region? Simple classifiers within a year and across years.

    python benchmarks/demo_difficulty.py [--parcels 2000] [--folder DIR] [--output FILE]

Makes the region (unless the folder holds it), aggregates it, and tests a random forest and a shrunk linear discriminant
on linearly gap-filled ten-day series of the ten bands, NDVI and NDWI. Same year: three spatially blocked splits, 70 %
of the 1 km blocks for training. Across years: every ordered pair of years, all parcels. The crop that is only grown in
the last year is left out of every figure. The table in docs/demo-region.md is written anew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from cropgen.core.files import folder_size, write_text
from cropgen.core.progress import Silent
from cropgen.datasets.demo.crops import CROPS
from cropgen.datasets.demo.region import make_demo
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
MARKS = ("<!-- difficulty -->", "<!-- end -->")
SLOTS = np.arange(15, 350, 10)


def series_of(parcels: int, folder: Path) -> tuple[ParcelSeries, tuple[str, ...], dict[str, Any]]:
    """Aggregated series, class names and facts of the region in `folder`, made where absent."""
    region, store = folder / "region", folder / "series.zarr"
    if not region.exists():
        make_demo(region, parcels=parcels)
    if not store.exists():
        aggregate(
            region / "scenes", sorted(region.glob("*.gpkg")), store, AggregateOptions.model_validate({}), Silent()
        )
    opened = SeriesStore.open(store)
    series = opened.read()
    scenes = [path.name[:4] for path in (region / "scenes").iterdir()]
    facts = {
        "parcels": parcels,
        "megabytes": round(folder_size(region) / 1e6),
        "scenes": {year: scenes.count(year) for year in sorted(set(scenes))},
        "clear_dates": round(float(series.clear_dates.mean()), 1),
    }
    return series, opened.legend.names, facts


def features(series: ParcelSeries) -> np.ndarray:
    """(N, slots × 12) gap-filled bands and two indices."""
    filled = np.empty((len(series), len(SLOTS), len(series.bands)))
    for row in range(len(series)):
        clear = series.mask[row]
        day = series.season_day[row, clear]
        for band in range(len(series.bands)):
            values = series.values[row, clear, band]
            filled[row, :, band] = np.interp(SLOTS, day, values) if len(day) else 0.0
    red, near, short = (filled[..., series.bands.index(name)] for name in ("B04", "B08", "B11"))
    ndvi = (near - red) / np.maximum(near + red, 0.05)
    ndwi = (near - short) / np.maximum(near + short, 0.05)
    return np.concatenate([filled, ndvi[..., None], ndwi[..., None]], -1).reshape(len(series), -1)


def classifier(name: str, seed: int) -> Any:
    if name == "lda":
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return RandomForestClassifier(300, max_features=0.1, min_samples_leaf=2, random_state=seed, n_jobs=1)


def blocks_of(series: ParcelSeries) -> np.ndarray:
    """(N,) number of the square kilometre a parcel lies in."""
    east = np.floor(series.lon * 111.32 * np.cos(np.radians(48.6))).astype(int)
    north = np.floor(series.lat * 111.32).astype(int)
    return np.unique(np.stack([east, north], 1), axis=0, return_inverse=True)[1].ravel()


def scores(truth: np.ndarray, found: np.ndarray, classes: int) -> dict[str, float]:
    labels = np.arange(classes)
    per_class = f1_score(truth, found, labels=labels, average=None, zero_division=0)
    present = np.isin(labels, truth)
    return {"macro_f1": float(np.mean(per_class[present])), "accuracy": float(accuracy_score(truth, found))}


def run(series: ParcelSeries, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of scores, and the random forest's same-year confusion over all years and splits."""
    newcomers = {crop.name for crop in CROPS if crop.newcomer}
    keep = np.array([names[label] not in newcomers for label in series.label])
    series = series.take(keep)
    x, y, years, block = features(series), series.label, series.year, blocks_of(series)
    rows, confusion = [], np.zeros((len(names), len(names)), int)
    for model in ("rf", "lda"):
        for seed in SEEDS:
            chosen = np.random.default_rng(seed).permutation(block.max() + 1)
            training = np.isin(block, chosen[: round(0.7 * len(chosen))])
            for year in np.unique(years):
                here = years == year
                fitted = classifier(model, seed).fit(x[here & training], y[here & training])
                found = fitted.predict(x[here & ~training])
                truth = y[here & ~training]
                rows.append(_row(model, seed, year, year, scores(truth, found, len(names))))
                if model == "rf":
                    confusion += confusion_matrix(truth, found, labels=np.arange(len(names)))
            whole = {year: classifier(model, seed).fit(x[years == year], y[years == year]) for year in np.unique(years)}
            for source, target in permutations(whole, 2):
                found = whole[source].predict(x[years == target])
                rows.append(_row(model, seed, source, target, scores(y[years == target], found, len(names))))
    return rows, {"names": list(names), "counts": confusion.tolist()}


def _row(model: str, seed: int, source: int, target: int, found: dict[str, float]) -> dict[str, Any]:
    rounded = {name: round(100 * value, 1) for name, value in found.items()}
    return {"model": model, "seed": seed, "train": int(source), "test": int(target), **rounded}


def table(document: dict[str, Any]) -> str:
    """Markdown: mean over seeds and years, with the lowest and the highest."""
    lines = ["| model | test | macro-F1 | range | accuracy | range |", "|---|---|---|---|---|---|"]
    for model, title in (("rf", "random forest"), ("lda", "linear discriminant")):
        for same, label in ((True, "same year, other blocks"), (False, "another year")):
            rows = [r for r in document["rows"] if r["model"] == model and (r["train"] == r["test"]) == same]
            cells = []
            for metric in ("macro_f1", "accuracy"):
                values = [row[metric] for row in rows]
                cells += [f"{np.mean(values):.1f}", f"{min(values):.1f} – {max(values):.1f}"]
            lines.append(f"| {title} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def insert(table: str, page: Path) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    write_text(page, f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parcels", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="keeps the region and its series; default: a temporary folder")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "demo_difficulty.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "demo-region.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        series, names, facts = series_of(arguments.parcels, arguments.folder or Path(temporary))
    rows, confusion = run(series, names)
    document = {"benchmark": "demo_difficulty", "region": facts, "rows": rows, "rf_same_year_confusion": confusion}
    write_text(arguments.output, json.dumps(document, indent=1) + "\n")
    print(table(document))
    insert(table(document), arguments.page)


if __name__ == "__main__":
    main()
