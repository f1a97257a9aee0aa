from __future__ import annotations

from pathlib import Path

import pytest

from cropgen.core import sources
from cropgen.core.sources import all_modules, code_fingerprint, package_digest, reached


def test_a_module_reaches_what_it_imports_and_no_more():
    found = reached(["cropgen.models.classical.rf"])
    assert {"cropgen.models.classical.rf", "cropgen.models.base", "cropgen.series.batches"} <= found
    assert "cropgen.core.errors" in found
    assert not {name for name in found if name.startswith(("cropgen.evaluation", "cropgen.cli", "cropgen.imagery"))}
    assert "cropgen.models.flows.realnvp" not in found


def test_imports_inside_functions_count():
    assert "cropgen.evaluation.evaluate" in reached(["cropgen.api.evaluation"])


def test_what_is_left_out_opens_no_way():
    assert "cropgen.models.base" not in reached(["cropgen.models.catalog"], without=["cropgen.models.base"])
    with pytest.raises(FileNotFoundError, match="nothing"):
        reached(["cropgen.nothing"])


@pytest.fixture
def copy(tmp_path, monkeypatch):
    root = tmp_path / "cropgen"
    for name, text in {
        "__init__": "", "data/__init__": "", "data/read": "import cropgen.data.table", "data/table": "rows = 1",
        "models/__init__": "", "models/a": "from cropgen.data import read", "models/b": "from cropgen.models import a",
        "report": "from cropgen.models.b import draw",
    }.items():  # fmt: skip
        (root / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(text)
    monkeypatch.setattr(sources, "_ROOT", root)
    sources._imports.cache_clear()
    yield root
    sources._imports.cache_clear()


def change(path: Path) -> None:
    path.write_text(path.read_text() + "\nanother = 'line'\n")


@pytest.mark.parametrize(
    ("edited", "changes"),
    [("data/table", True), ("models/a", True), ("models/b", False), ("report", False), ("data/__init__", True)],
)
def test_only_an_edit_of_what_decides_changes_the_fingerprint(copy, edited, changes):
    before, whole = code_fingerprint(["cropgen.models.a"]), package_digest()
    change(copy / f"{edited}.py")
    assert (code_fingerprint(["cropgen.models.a"]) != before) is changes
    assert package_digest() != whole
    assert len(all_modules()) == 8


def test_words_about_the_code_do_not_count(copy):
    path = copy / "models" / "b.py"
    path.write_text("def f(x):\n    return x\n")
    before = code_fingerprint(["cropgen.models.b"])
    path.write_text('"""What b is."""\n\n\ndef f(x):\n    """The same."""\n    # as before\n    return (x)\n')
    assert code_fingerprint(["cropgen.models.b"]) == before
    path.write_text("def f(x):\n    return -x\n")
    assert code_fingerprint(["cropgen.models.b"]) != before
