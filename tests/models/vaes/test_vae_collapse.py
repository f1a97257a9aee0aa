"""Remedies of collapse on the case of `benchmarks/collapse.py` that costs the least, and what its document says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "collapse.py"


@pytest.fixture
def collapse(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("collapse")


@pytest.mark.slow
def test_free_bits_and_annealing_keep_a_latent_in_use_that_collapses_without_them(collapse: ModuleType) -> None:
    case = collapse.CASES["common start"]
    found = {remedy: collapse.learnt(case, remedy, 0) for remedy in ("none", "linear", "free-bits")}
    assert found["none"]["kl"] < collapse.COLLAPSED
    assert found["linear"]["kl"] > 2 * collapse.COLLAPSED
    assert found["free-bits"]["kl"] > 5 * collapse.COLLAPSED
    assert all(found[remedy]["reconstruction"] < found["none"]["reconstruction"] for remedy in ("linear", "free-bits"))
    assert found["linear"]["nats"] > found["none"]["nats"]


def test_the_document_says_what_each_remedy_does() -> None:
    cases: dict[str, list[dict[str, Any]]] = json.loads(
        SCRIPT.with_name("results").joinpath("collapse.json").read_text()
    )["cases"]
    for name, rows in cases.items():
        seeds = sorted({row["seed"] for row in rows})
        assert len(seeds) >= 3
        kl = {(row["remedy"], row["seed"]): row["kl"] for row in rows}
        better = {row["remedy"]: sum(kl[row["remedy"], s] > kl["none", s] for s in seeds) for row in rows}
        del better["none"]
        assert all(count == len(seeds) for remedy, count in better.items() if remedy != "skip"), (name, better)
