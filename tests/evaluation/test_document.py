"""The schema beside the documentation is that of the documents written."""

from __future__ import annotations

import json
from pathlib import Path

from cropgen.evaluation.document import Evaluation, Row

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
