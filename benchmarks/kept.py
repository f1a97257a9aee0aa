"""How results are kept: a document as JSON, and the page made from it beside it."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Page = Callable[[dict[str, Any]], str]


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
    """The command line of a script that makes the page again, or with --check says whether it is what it should be."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    text, path = page(json.loads(results.read_text())), results.with_suffix(".md")
    if not options.check:
        path.write_text(text)
    elif path.read_text() != text:
        sys.exit(f"{path} is not what {results} says; run {Path(sys.argv[0]).name}")
