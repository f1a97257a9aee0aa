"""The storeys of the package: a folder imports only from storeys below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cropgen"
STOREY = {
    "core": 0,
    "series": 1, "metrics": 1, "kernels": 1,
    "datasets": 2, "imagery": 2, "models": 2,
    "training": 3, "prediction": 3,
    "evaluation": 4,
    "api": 5,
    "cli": 6,
}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def folder_of(module: str) -> str | None:
    """The first part below `cropgen` of a dotted name; None for the package itself and for foreign modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "cropgen" and len(parts) > 1 else None


def imported(source: str) -> list[str]:
    """Dotted names of every import of a module, wherever it stands."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the storey"
            base = node.module or ""
            names += [f"{base}.{alias.name}" if base == "cropgen" else base for alias in node.names]
    return names


def violations(folder: str, source: str) -> list[str]:
    """Imports of a module in `folder` that do not go down."""
    found = []
    for name in imported(source):
        target = folder_of(name)
        if target is None or target == folder or target.startswith("__"):
            continue
        if STOREY[target] >= STOREY[folder]:
            found.append(f"{folder} imports {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if first == "__init__":
        assert not [n for n in imported(path.read_text()) if n.startswith("cropgen")]
        return
    assert violations(first, path.read_text()) == []


def test_a_violation_is_seen() -> None:
    assert violations("series", "from cropgen.models.base import Classifier") == ["series imports cropgen.models.base"]
    assert violations("series", "def f():\n    import cropgen.metrics.calibration") == [
        "series imports cropgen.metrics.calibration"
    ]
    assert violations("cli", "from cropgen import api") == []


def test_every_folder_has_a_storey() -> None:
    folders = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES} - {"__init__"}
    assert folders == set(STOREY)


def test_no_cycles() -> None:
    graph = {}
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        top_level = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        graph[name] = {
            target
            for node in top_level
            for target in (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
            if target.startswith("cropgen.")
        }

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for step in graph.get(start, ()):
            if step == goal:
                return True
            if step not in seen:
                seen.add(step)
                if reaches(step, goal, seen):
                    return True
        return False

    assert [name for name in graph if reaches(name, name, set())] == []


def test_names_and_sizes() -> None:
    assert not [p for p in MODULES if set(p.with_suffix("").parts) & FORBIDDEN_NAMES]
    long = {p.name: n for p in MODULES if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_help_is_fast_and_light() -> None:
    """Processor time, because other work on the machine changes how long a wait is."""
    code = (
        "import sys, time\n"
        "from cropgen.cli.main import run\n"
        "code = run(['--help'])\n"
        "heavy = {'torch', 'rasterio', 'geopandas', 'xarray', 'osgeo', 'pyogrio', 'sklearn', 'pandas', 'numpy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)), code, time.process_time())\n"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        *_, last = done.stdout.splitlines()
        assert last.startswith("HEAVY [] 0")
        seconds.append(float(last.split()[-1]))
    assert min(seconds) < 0.5
