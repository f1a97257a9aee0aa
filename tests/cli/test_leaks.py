"""Leaks planted in the data, in the split or in the validation rows end `cropgen evaluate` with one line and code 1."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.store import SeriesStore

from .conftest import Ended, call, environment

PARCELS, DATES = 120, 5
WORDS = ("evaluate", "--model", "rf", "--set", "trees=2", "--seeds", "0", "--block-km", "1")


def seasons() -> ParcelSeries:
    """Parcels strewn over 6 km whose level tells the crop."""
    generator = np.random.default_rng(5)
    place = generator.random((PARCELS, 2)) * 6 / 111.2
    crop = generator.integers(0, 2, PARCELS)
    values = 0.2 + 0.1 * crop[:, None, None] + generator.normal(0, 0.02, (PARCELS, DATES, 2))
    day = np.datetime64("2021-04-01", "D").astype(int) + 30 * np.arange(DATES)
    return ParcelSeries.build(
        bands=("B04", "B08"), values=values, mask=np.ones((PARCELS, DATES), bool), day=np.tile(day, (PARCELS, 1)),
        parcel_id=np.char.add("p", np.arange(PARCELS).astype(str)), year=2021, region="toy", label=crop,
        lon=place[:, 0], lat=place[:, 1],
    )  # fmt: skip


def workspace(root: Path, *, copies: int = 0) -> Path:
    """A workspace with these seasons, some of them again under other ids 2.5 km further north."""
    whole = seasons()
    first = whole.take(np.arange(copies))
    names = np.char.add("copy", np.arange(copies).astype(str))
    again = replace(first, parcel_id=names, lat=first.lat + 2.5 / 111.2)
    legend = Legend.from_codes("toy", ["maize", "wheat"])
    store = SeriesStore.create(root / "data" / "toy" / "series.zarr", bands=("B04", "B08"), legend=legend)
    store.append(concatenate([whole, again]) if copies else whole)
    return root


def checks(root: Path) -> dict[str, Any]:
    document = json.loads((root / "reports" / "holdout" / "evaluation.json").read_text())
    return {check["name"]: check for check in document["checks"]}


def ended_by(root: Path, ended: Ended) -> set[str]:
    """The checks that failed, as the document has them; the process must have said so and nothing been trained."""
    assert ended.code == 1, ended.err
    assert "training rows leak into the test" in ended.err
    assert "--on-leak drop" in " ".join(ended.err.split())
    document = json.loads((root / "reports" / "holdout" / "evaluation.json").read_text())
    assert document["rows"] == []
    failed = {name for name, check in checks(root).items() if not check["passed"]}
    assert all(checks(root)[name]["asks"] in " ".join(ended.err.split()) for name in failed)
    return failed


@pytest.mark.slow
def test_copies_of_a_parcel_under_another_id(tmp_path: Path) -> None:
    root = workspace(tmp_path, copies=40)
    ended = call(*WORDS, "--workspace", root, "--neighbour-m", "0")
    assert ended_by(root, ended) == {"series"}
    dropped = call(*WORDS, "--workspace", root, "--neighbour-m", "0", "--on-leak", "drop", "--overwrite")
    assert dropped.code == 0, dropped.err
    assert checks(root)["series"]["passed"]
    assert checks(root)["series"]["left_out"] > 0


def test_neighbours_within_the_stated_distance(tmp_path: Path) -> None:
    root = workspace(tmp_path)
    ended = call(*WORDS, "--workspace", root, "--neighbour-m", "600", "--validation", "30%")
    assert ended_by(root, ended) == {"neighbour", "validation-neighbour"}


OPEN_BLOCKS = """
from cropgen.evaluation import protocols
shut = protocols.Ground.fold
def leaky(ground, train, tests, open_rows=None, **changes):
    return shut(ground, train, tests, open_rows=ground.used, **changes)
protocols.Ground.fold = leaky
"""
JUDGED_BY_THE_TEST = """
from cropgen.evaluation import protocols
shut = protocols.Ground.fold
def leaky(ground, train, tests, open_rows=None, **changes):
    return shut(ground, train, tests, open_rows, **changes | {"validation": tests[0].rows[:7]})
protocols.Ground.fold = leaky
"""


@pytest.mark.parametrize(
    ("defect", "found"), [(OPEN_BLOCKS, {"row", "parcel"}), (JUDGED_BY_THE_TEST, {"row", "validation"})]
)
def test_a_split_that_does_not_hold_out_what_it_says(tmp_path: Path, defect: str, found: set[str]) -> None:
    root = workspace(tmp_path)
    program = f"{defect}\nfrom cropgen.cli.main import main\nmain()\n"
    words = [*WORDS, "--workspace", str(root), "--neighbour-m", "0"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=180,
                          env=environment())  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert ended_by(root, Ended(done.returncode, done.stdout, done.stderr)) == found


def test_a_calibration_without_validation_rows_names_the_option(tmp_path: Path) -> None:
    ended = call(*WORDS, "--workspace", workspace(tmp_path), "--calibrate", "temperature")
    assert ended.code == 2
    assert "--validation 20%" in ended.err
