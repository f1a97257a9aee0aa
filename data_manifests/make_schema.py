"""Write `schema.json`, the JSON schema of a manifest, for editors and for manifests of one's own.

python data_manifests/make_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from cropgen.datasets.manifest import DatasetManifest

SCHEMA = Path(__file__).with_name("schema.json")


def schema_text() -> str:
    """The schema, as the file holds it."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A data set of cropgen"}
    return json.dumps(head | DatasetManifest.model_json_schema() | head, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
