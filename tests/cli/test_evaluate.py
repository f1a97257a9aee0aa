"""`cropgen evaluate` through the real process: what would be done, what is refused, what an interruption leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cropgen.cli.main import run

from .conftest import Ended, call, interrupted_when
from .test_bad_input import refused

BLOCKS = ("--block-km", "0.1", "--seeds", "0")


@pytest.mark.slow
def test_dry_run_lists_every_training(workspace: Path, tmp_path: Path) -> None:
    words = (
        "evaluate", "--protocol", "early-season", "--until", "120,06-30", "--model", "rf,tgem", "--labels", "50%,100%",
        "--vary", "trees=5,9", *BLOCKS, "-o", tmp_path / "e", "--dry-run", "--workspace", workspace,
    )  # fmt: skip
    ended = call(*words, "--json")
    assert ended.code == 0, ended.err
    planned = ended.json()["result"]["planned"]
    # two label shares, the whole season and two ends of it, two forests and one tied Gaussian
    assert len(planned) == ended.json()["result"]["cells"] == 18
    assert {(p["model"], p["variant"]) for p in planned} == {("rf", "trees=5"), ("rf", "trees=9"), ("tgem", "")}
    assert {p["until"] for p in planned} == {"", "120", "06-30"}
    assert not any(p["done"] for p in planned)
    assert not (tmp_path / "e").exists()
    shown = call(*words)
    assert shown.out.count("rf (trees=5)") == 6
    assert "would write" in shown.out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--protocol", "cross-yaer"), 2, "unknown protocol 'cross-yaer'"),
        (("--protocol", "early-season"), 2, "early-season needs ends of the season"),
        (("--protocol", "ablation"), 2, "ablation needs options to compare"),
        (("--protocol", "cross-year"), 3, "at least two years, got 2021"),
        (("--protocol", "blocks", "--parts", "900"), 3, "too few for 900 parts"),
        (("--unlabelled-target",), 2, "no other year or region"),
        (("--until", "June"), 2, "expected a day as MM-DD"),
        (("--vary", "tree=1,2"), 2, "--vary tree: no option of rf"),
        (("--vary", "trees"), 2, "expected key=a,b,c"),
        (("--vary", "trees=1", "--vary", "trees=2"), 2, "--vary trees is given twice"),
        (("--engine", "threads"), 2, "unknown engine 'threads'"),
        (("--jobs", "0"), 2, "expected 1 or more, got 0"),
        (("--engine", "serial", "--jobs", "2"), 2, "one job at a time"),
        (("--tune", "-1"), 2, "--tune"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    """In this process, because starting one takes longer than all of these together."""
    out = tmp_path / "e"
    ended = run(["evaluate", "--model", "rf", *BLOCKS, *words, "-o", str(out), "--workspace", str(workspace)])
    printed = capsys.readouterr()
    refused(Ended(ended, printed.out, printed.err), code, said)
    assert not (out / "evaluation.json").exists()


@pytest.mark.slow
def test_an_interruption_keeps_what_is_done(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    words = ("evaluate", "--model", "rf", "--vary", "trees=5,400,401,402", *BLOCKS, "-o", out, "--jobs", "2",
             "--workspace", workspace)  # fmt: skip
    stopped = interrupted_when(lambda: any((out / "cells").glob("*.json")), *words)
    if stopped.code == 0:
        pytest.skip("the evaluation ended before it could be interrupted")
    assert stopped.code == 130
    assert "interrupted; what was finished is kept" in stopped.err
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "cells").glob("*.json")}
    assert 0 < len(kept) < 4
    ended = call(*words, "--resume")
    assert ended.code == 0, ended.err
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in (out / "cells").glob("*.json")}.items()
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["trees=5", "trees=400", "trees=401", "trees=402"]
