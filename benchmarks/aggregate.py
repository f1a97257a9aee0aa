"""How long does it take, and in how much memory, to aggregate a tile over its parcels? Beside what a user would pick.

    python benchmarks/aggregate.py compare [--repeats 3]     one date: every method in turn, each in its own process
    python benchmarks/aggregate.py season [--repeats 2]      thirty dates: cropgen and the bare decoding of the bands
    python benchmarks/aggregate.py growth_parcels            cropgen from a thousand to a million parcels, one date
    python benchmarks/aggregate.py growth_dates              cropgen from one to thirty dates, 10,000 parcels
    python benchmarks/aggregate.py report                    table, plot and what follows for France, from the results

`--methods cropgen decode` times these alone and keeps the rows of the others. Each part replaces its rows of
`results/aggregate.json`; `report` writes `results/aggregate.md` and `results/aggregate.svg` from them. Four bands of a
simulated tile of 10980 × 10980 pixels (`simulated_tile.py`) lie in the memory of the system. Times are medians over
repeats that follow each other in turn; `processor_seconds` is the time of all cores together, which other work on the
machine changes less than the clock. `own_mb` is the peak of memory without pages of files.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import simulated_tile
from aggregate_methods import METHODS, SAMPLE
from aggregate_report import write_report

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "aggregate.json"
PARCELS, SEASON = 50_000, 30
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
GROWTH_DATES = (1, 3, 10, 30)
_PACKAGES = ("numpy", "rasterio", "shapely", "exactextract", "rasterstats", "xvec", "zarr", "tifffile", "imagecodecs")


def _timed(method: str, scenes: Path, parcels: Path) -> dict[str, float]:
    """Run one method in a process of its own."""
    words = [sys.executable, "-W", "ignore", str(HERE / "aggregate_methods.py"), method, str(scenes), str(parcels)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method} failed: {done.stderr.strip().splitlines()[-1]}")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"{method:22s} {facts['seconds']:8.1f} s {facts['processor_seconds']:8.1f} s {facts['peak_mb']:6.0f} MB",
        flush=True,
    )
    return facts


def _rows(
    part: str, methods: Iterable[str], repeats: int, scenes: Path, parcels: Path, count: int, dates: int
) -> list[dict[str, Any]]:
    """Medians of interleaved repeats."""
    chosen = list(methods)
    taken: dict[str, list[dict[str, float]]] = {method: [] for method in chosen}
    for number in range(repeats):
        for method in chosen:
            if number == 0 or method in ("cropgen", "decode", "read"):
                taken[method].append(_timed(method, scenes, parcels))
    return [
        {
            "part": part, "method": method, "parcels": SAMPLE if method == "rasterstats" else count,
            "bands": len(simulated_tile.BANDS), "dates": dates,
            **{key: round(median(facts[key] for facts in runs), 2) for key in ("seconds", "processor_seconds")},
            **{key: round(max(facts[key] for facts in runs)) for key in ("peak_mb", "own_mb")},
            "cores": round(median(facts["cores"] for facts in runs), 2), "repeats": len(runs),
        }
        for method, runs in taken.items()
    ]  # fmt: skip


class Bench:
    """Simulated inputs in a folder, made when they are first asked for.

    Arguments:
        methods: those timed beside each other.
    """

    def __init__(self, folder: Path, methods: Iterable[str]) -> None:
        self._folder = folder
        self._methods = tuple(methods)

    def scenes(self, dates: int) -> Path:
        """A folder of some dates."""
        whole = simulated_tile.write_scenes(self._folder / "scenes-1")
        if dates == 1:
            return whole
        return simulated_tile.link_scenes(whole, self._folder / f"scenes-{dates}", dates)

    def parcels(self, count: int) -> Path:
        """A file of some parcels."""
        path = self._folder / f"parcels-{count}.parquet"
        if not path.is_file():
            simulated_tile.parcels(count).to_parquet(path)
        return path

    def compare(self, repeats: int) -> list[dict[str, Any]]:
        """One date, every method."""
        return _rows("compare", self._methods, repeats, self.scenes(1), self.parcels(PARCELS), PARCELS, 1)

    def season(self, repeats: int) -> list[dict[str, Any]]:
        """Thirty dates."""
        methods = ("decode", "cropgen", "read")
        return _rows("season", methods, repeats, self.scenes(SEASON), self.parcels(PARCELS), PARCELS, SEASON)

    def growth_parcels(self, repeats: int) -> list[dict[str, Any]]:
        """More parcels."""
        part, methods, one = "growth_parcels", ("cropgen",), self.scenes(1)
        return [r for count in GROWTH for r in _rows(part, methods, repeats, one, self.parcels(count), count, 1)]

    def growth_dates(self, repeats: int) -> list[dict[str, Any]]:
        """More dates."""
        part, methods, few = "growth_dates", ("cropgen",), self.parcels(10_000)
        return [r for n in GROWTH_DATES for r in _rows(part, methods, repeats, self.scenes(n), few, 10_000, n)]


def _write(part: str, rows: list[dict[str, Any]], ratio: float) -> None:
    """Replace the rows of a part in the results."""
    timed = {row["method"] for row in rows}
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"rows": []}
    document = {
        "benchmark": "aggregate",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "compressed": round(ratio, 3),
        "rows": [row for row in known["rows"] if row["part"] != part or row["method"] not in timed] + rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run one part and keep its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("compare", "season", "growth_parcels", "growth_dates", "report"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="Of `compare`.")
    parser.add_argument("--folder", type=Path, help="Keep the simulated input here; default: a temporary folder.")
    chosen = parser.parse_args()
    if chosen.part != "report":
        with tempfile.TemporaryDirectory() as temporary:
            bench = Bench(chosen.folder or Path(temporary), chosen.methods)
            run: Callable[[int], list[dict[str, Any]]] = getattr(bench, chosen.part)
            rows = run(chosen.repeats)
            _write(chosen.part, rows, simulated_tile.compressed(bench.scenes(1)))
    write_report(json.loads(RESULTS.read_text(encoding="utf-8")), RESULTS.parent)


if __name__ == "__main__":
    main()
