"""What the documents say is what the code and the committed results say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every `cropgen …` line of the README's code blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("cropgen ")]


@pytest.mark.parametrize("script", ["tables", "scoreboard", "dvaes", "flows_report"])
def test_generated_tables_are_current(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_rows_are_whole() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text(encoding="utf-8"))["rows"]
    wanted = {"data", "split", "labels", "seed", "model", "family", "macro_f1", "accuracy", "nll", "ece", "seconds"}
    assert all(wanted | {"peak_mb"} <= row.keys() for row in rows)
    place = ("data", "split", "labels", "seed", "model", "target_unlabelled", "dates")
    keys = [tuple(row[k] for k in place) for row in rows]
    assert len(set(keys)) == len(keys)


def test_commands_of_the_readme_parse() -> None:
    """Each option and verb of the README exists: its help names it."""
    seen = commands()
    assert len(seen) >= 10
    helps: dict[str, str] = {}
    for line in seen:
        verb, *words = line.split()[1:]
        if verb not in helps:
            helps[verb] = subprocess.run(
                [sys.executable, "-m", "cropgen.cli.main", verb, "--help"],
                capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
            ).stdout  # fmt: skip
        for word in words:
            if word.startswith("--"):
                assert word in helps[verb], f"{word} of {line!r}"


def test_ci_calls_exactly_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script
    own = [line for line in script.splitlines() if "pytest" in line]
    assert own == [".venv/bin/pytest -n 2 -m slow"], "besides the README's command CI runs the slow tests, no others"
    found = re.search(r"<!-- test-command -->\n```bash\n(.*?)\n```", README, re.DOTALL)
    assert found
    assert ".venv/bin/pytest" in found[1]
