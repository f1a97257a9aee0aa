"""How results are kept: under a key of what decides them, as JSON, and the page made from it beside it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Page = Callable[[dict[str, Any]], str]

ROOTS = ("cropgen.training.fit", "cropgen.training.data", "cropgen.series.splits")
DECIDE_NOTHING = (
    "cropgen.models.catalog", "cropgen.training.ledger", "cropgen.series.store", "cropgen.series.layout",
    "cropgen.series.geometry_parts",
    *(f"cropgen.core.{name}" for name in ("errors", "files", "locking", "progress", "run", "sources")),
)  # fmt: skip
"""Modules that name, keep, lock or tell, and compute nothing: a change of theirs leaves every result as it is."""


def training_key(model: str, options: dict[str, Any], cell: dict[str, Any]) -> str:
    """Fingerprint of a cell, the options of its model, and the code that the model and the members of a pool reach."""
    from cropgen.core.recipe import Contender as Section
    from cropgen.core.run import fingerprint
    from cropgen.core.sources import code_fingerprint
    from cropgen.evaluation.plan import model_modules
    from cropgen.models.catalog import find

    modules = ["cropgen.models." + find(model).target.partition(":")[0]]
    if find(model).family == "pool":
        modules = sorted(model_modules(Section(name=model, options=options)))
    return fingerprint(code_fingerprint((*ROOTS, *modules), without=DECIDE_NOTHING), options, cell)[:20]


def keep(results: Path, document: dict[str, Any], page: Page, *, on: str = "one thread") -> None:
    """Write a document with the command, the machine and the versions it comes from, and its page; each atomically.

    Arguments:
        results: the JSON file, named as the script is.
        on: how much of the machine was used, such as "2 cores, one thread per training".
    """
    import torch

    from cropgen.core.files import write_text

    head = {
        "command": f"python benchmarks/{results.stem}.py",
        "machine": f"{platform.machine()}, {on}, no GPU; seconds are of processor time",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    whole = {**head, **document, **head}
    write_text(results, json.dumps(whole, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
    write_text(results.with_suffix(".md"), page(whole))


def page_from(results: Path, page: Page, about: str) -> None:
    """The command line of a script that makes the page of a results file again; see `remake`."""
    remake(results.with_suffix(".md"), lambda: page(json.loads(results.read_text())), about)


def remake(path: Path, make: Callable[[], str], about: str) -> None:
    """The command line of a script that makes a page again, or with --check says whether it is what it should be."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    text = make()
    if not options.check:
        path.write_text(text)
    elif path.read_text() != text:
        sys.exit(f"{path} is not what the results say; run {Path(sys.argv[0]).name}")


def grow(
    results: Path, cells: Sequence[Any], run: Callable[[Any, str], list[dict[str, Any]]], page: Page, about: str
) -> None:
    """The command line of a script that trains cell by cell, keeps what each gives, and goes on where it stopped.

    Arguments:
        results: the JSON file, named as the script is.
        cells: data classes; a row tells its cell by the fields of the same names.
        run: the rows of a cell, of data in a folder.
        page: makes the page from the document, whose `planned` is the number of cells.
        about: what the script says of itself.
    """
    usual = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=usual, help="folder of real data")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no cell after this time")
    options = parser.parse_args()
    rows = json.loads(results.read_text())["rows"] if results.exists() else []
    until = time.monotonic() + 60 * options.minutes
    todo = [cell for cell in cells if not any(asdict(cell).items() <= row.items() for row in rows)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as workers:
        for first in range(0, len(todo), options.jobs):
            if time.monotonic() > until:
                break
            batch = {workers.submit(run, cell, str(options.data)): cell for cell in todo[first:][: options.jobs]}
            for done in as_completed(batch):
                rows += done.result()
                document = {"planned": len(cells), "rows": rows}
                keep(results, document, page, on=f"{os.cpu_count()} cores, one thread per training")
                print(batch[done], flush=True)
