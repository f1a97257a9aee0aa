"""Write `evaluation.schema.json`, the JSON schema of evaluation.json, for whoever reads one with other tools.

python docs/make_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from cropgen.evaluation.document import Evaluation

SCHEMA = Path(__file__).with_name("evaluation.schema.json")


def schema_text() -> str:
    """The schema, as the file holds it."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "An evaluation of cropgen"}
    return json.dumps(head | Evaluation.model_json_schema() | head, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
