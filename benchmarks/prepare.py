"""How fast, and in how much memory, does BreizhCrops become a series store? Beside the publisher's own package.

    python benchmarks/prepare.py [--parcels 130000] [--csv 2400] [--folder DIR] [--output FILE]

Files in the published layout are generated for four regions (L1C of 2017; 62 to 125 dates per parcel, as published).
Region by region, in turn and each in a process of its own:

    h5   this project: h5 → store, every date and flag kept, geometry left out
         breizhcrops: h5 → tensors by its default transform, which keeps 45 random steps and no dates
    csv  this project: zip of csv → store
         breizhcrops: zip of csv → index and h5 (`recompile_h5_from_csv`)

Time is that of the work without imports: by the clock, and of the processor, which other work on the machine does not
change. Last, all regions are prepared at once: the peak of memory must not grow with the number of parcels.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
REGIONS = ("frh01", "frh02", "frh03", "frh04")
YEAR, LEVEL, DATES = 2017, "L1C", 125


def generate(files: Path, region: str, count: int, form: str) -> dict[str, Any]:
    """Write the files of a region; the seed is the region's number."""
    from tests.data.breizhcrops import make

    make.write_tables(files)
    made = list(make.parcels(REGIONS.index(region), count, year=YEAR, level=LEVEL, dates=DATES))
    make.write_index(files, made, region, YEAR, LEVEL)
    write = make.write_h5 if form == "h5" else make.write_csv_zip
    path = write(files, made, region, YEAR, LEVEL)
    return {"megabytes": path.stat().st_size / 1e6, "observations": sum(len(p.day) for p in made)}


def ours(files: Path, regions: tuple[str, ...]) -> Callable[[], dict[str, Any]]:
    """Prepares a store of regions."""
    from cropgen.core.progress import Silent
    from cropgen.datasets.breizhcrops import BreizhCropsOptions, BreizhCropsReader
    from cropgen.datasets.catalog import find_dataset
    from cropgen.datasets.reader import Request
    from cropgen.series.store import SeriesStore

    manifest = find_dataset("breizhcrops")

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=files.parent) as out:
            request = Request(
                manifest, manifest.select(regions, (YEAR,), LEVEL), BreizhCropsOptions.model_validate({}), files,
                Path(out), "benchmark", Silent(),
            )  # fmt: skip
            prepared = BreizhCropsReader().prepare(request)
            store = SeriesStore.open(request.series)
            return {"parcels": prepared.rows, "dates": store.dates, "bands": len(store.bands)}

    return work


def package(files: Path, region: str, form: str) -> Callable[[], dict[str, Any]]:
    """Reads a region, or compiles it from csv files, with the package breizhcrops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from breizhcrops.datasets import breizhcrops as theirs
    folder = files / str(YEAR) / LEVEL
    h5, archive = folder / f"{region}.h5", folder / f"{region}.zip"
    if form == "h5":
        theirs.FILESIZES[YEAR][LEVEL][region] = h5.stat().st_size
    theirs.download_file = lambda url, target, **_: shutil.copyfile(archive.with_suffix(".kept"), target)
    options = {"recompile_h5_from_csv": True} if form == "csv" else {}

    def work() -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = theirs.BreizhCrops(region, root=str(files), year=YEAR, level=LEVEL, **options)
            if form == "csv":
                return {"parcels": len(data)}
            steps = [data[row][0].shape[0] for row in range(len(data))]
            return {"parcels": len(steps), "dates": max(steps), "bands": 13}

    return work


def as_child(arguments: list[str]) -> dict[str, Any]:
    """One piece of work in this process, with its time and its peak of memory."""
    kind, form, folder, *regions = arguments
    files = Path(folder)
    if kind == "generate":
        return generate(files, regions[0], int(regions[1]), form)
    work = ours(files, tuple(regions)) if kind == "ours" else package(files, regions[0], form)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = time.perf_counter(), time.process_time()
    facts = work()
    seconds, processor = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return facts | {
        "seconds": round(seconds, 2), "cpu_seconds": round(processor, 2),
        "parcels_per_second": round(facts["parcels"] / seconds, 1),
        "parcels_per_cpu_second": round(facts["parcels"] / processor, 1),
        "peak_mb": round(peak), "before_mb": round(before),
    }  # fmt: skip


def child(*arguments: object) -> dict[str, Any]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "prepare.py"), "--child", *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def unchanged(files: Path, region: str) -> Any:
    """Whatever the package rewrites, adds or removes is put back."""
    folder = files / str(YEAR) / LEVEL
    index, archive, h5 = (folder / f"{region}{suffix}" for suffix in (".csv", ".zip", ".h5"))
    published, had_h5 = index.read_bytes(), h5.exists()
    if archive.exists():
        shutil.copyfile(archive, archive.with_suffix(".kept"))
    yield
    index.write_bytes(published)
    shutil.rmtree(folder / region, ignore_errors=True)
    if not had_h5:
        h5.unlink(missing_ok=True)
    if archive.with_suffix(".kept").exists():
        archive.with_suffix(".kept").replace(archive)


def compare(form: str, files: Path, count: int) -> dict[str, Any]:
    """Both on every region in turn, and what follows from it."""
    made = [child("generate", form, files, region, count // len(REGIONS)) for region in REGIONS]
    rounds = []
    for region in REGIONS:
        mine = child("ours", form, files, region)
        with unchanged(files, region):
            theirs = child("package", form, files, region)
        rounds.append({"region": region, "ours": mine, "breizhcrops": theirs})
        print(f"{form} {region}: {mine['parcels_per_second']} and {theirs['parcels_per_second']} parcels/s", flush=True)
    whole = child("ours", form, files, *REGIONS)
    summary: dict[str, Any] = {"parcels": whole["parcels"], "observations": sum(m["observations"] for m in made)}
    summary["megabytes"] = round(sum(m["megabytes"] for m in made))
    for measure in ("parcels_per_second", "parcels_per_cpu_second"):
        ratios = [r["ours"][measure] / r["breizhcrops"][measure] for r in rounds]
        summary[measure] = {
            "ours": median(r["ours"][measure] for r in rounds),
            "breizhcrops": median(r["breizhcrops"][measure] for r in rounds),
            "faster": round(median(ratios), 1), "faster_at_least": round(min(ratios), 1),
        }  # fmt: skip
    summary["peak_mb"] = {"one region": max(r["ours"]["peak_mb"] for r in rounds), "all regions": whole["peak_mb"]}
    return {"summary": summary, "rounds": rounds, "all_regions": whole}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parcels", type=int, default=130_000, help="in the h5 files; 78 %% have a crop and a series")
    parser.add_argument("--csv", type=int, default=2_400, help="in the csv archives")
    parser.add_argument("--folder", type=Path, help="where files are generated; a temporary folder by default")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "prepare.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(as_child(arguments.child)))
        return 0
    names = ("numpy", "pandas", "h5py", "pyarrow", "zarr", "breizhcrops")
    document: dict[str, Any] = {
        "benchmark": "prepare",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: importlib.metadata.version(name) for name in names},
        "input": {"level": LEVEL, "year": YEAR, "dates": [DATES // 2, DATES], "regions": len(REGIONS)},
    }
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for form, count in (("h5", arguments.parcels), ("csv", arguments.csv)):
            document[form] = compare(form, Path(scratch) / form, count)
            shutil.rmtree(Path(scratch) / form)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for form in ("h5", "csv"):
        print(form, json.dumps(document[form]["summary"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
