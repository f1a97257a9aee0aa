"""The schema beside the documentation is that of the documents written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cropgen.evaluation.document import Evaluation, Ledger, Row, TrainingRecord

DOCS = Path(__file__).parents[2] / "docs"


def test_the_published_schema_is_current(tmp_path: Path) -> None:
    script = (DOCS / "make_schema.py").read_text(encoding="utf-8")
    (tmp_path / "make_schema.py").write_text(script, encoding="utf-8")
    namespace = {"__name__": "__main__", "__file__": str(tmp_path / "make_schema.py")}
    exec(compile(script, "make_schema.py", "exec"), namespace)
    written = (tmp_path / "evaluation.schema.json").read_text(encoding="utf-8")
    assert (DOCS / "evaluation.schema.json").read_text(encoding="utf-8") == written


def test_every_field_of_a_document_is_in_the_schema() -> None:
    schema = json.loads((DOCS / "evaluation.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == set(Evaluation.model_fields)
    row = schema["$defs"]["Row"]
    assert set(row["properties"]) == set(Row.model_fields)
    assert not row["additionalProperties"]
    assert {"calibration", "macro_f1_equal_priors", "aurc", "crps"} <= set(row["required"])


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_training_of_which_a_file_is_not_whole_counts_as_not_finished(tmp_path: Path, suffix: str) -> None:
    ledger, rows = Ledger(tmp_path), {"classes": np.arange(3), "rows0": np.arange(200)}
    ledger.write(TrainingRecord(key="k", rows=(), details=(), checks=()), rows)
    found = ledger.read("k")
    assert found is not None
    assert found[1]["rows0"].tolist() == rows["rows0"].tolist()
    path = tmp_path / "cells" / f"k.{suffix}"
    whole = path.read_bytes()
    for size in (0, 1, 3, 30, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        assert ledger.read("k") is None
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0xFF
    path.write_bytes(damaged)
    assert ledger.read("k") is None
