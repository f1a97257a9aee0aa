"""In which encoding the text of a parcel layer really is; aggregation takes it to be in the same.

Shapefiles and MapInfo tables state their encoding beside the text, or not at all, and often a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cropgen.core.errors import CorruptInputError
from cropgen.series.parcel_fields import is_text, ogr_batches
from cropgen.series.parcel_files import FALLBACK_ENCODING, EncodingEvidence, FileLayer, encoding_remark, fallback_remark

_STATED_BESIDE = ("ESRI Shapefile", "MapInfo File")
_BATCH = 1 << 16


@dataclass(frozen=True)
class Decoding:
    """How text is read.

    Arguments:
        encoding: of all of it; None: the one the file states.
        wrong: columns decoded by the wrong table: that one and the right one.
        remarks: one line on what was put right.
    """

    encoding: str | None = None
    wrong: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch with its text put right."""
        for name, (decoded, right) in self.wrong.items():
            texts = [None if t is None else t.encode(decoded).decode(right) for t in batch.column(name).to_pylist()]
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, batch.schema.field(place), pa.array(texts, batch.schema.field(place).type))
        return batch


def decoding_of(layer: FileLayer, info: Mapping[str, Any]) -> Decoding:
    """How the text of a layer is to be read; takes one pass over it, without its geometries.

    Arguments:
        info: what `pyogrio.read_info` says of the layer.

    Raises:
        CorruptInputError: a column holds text in another encoding than the format has; the message names it.
    """
    kinds = zip(info["fields"].tolist(), info["ogr_types"], strict=True)
    columns = [name for name, kind in kinds if kind == "OFTString"]
    if not columns:
        return Decoding()
    path, beside = layer.file.path, info["driver"] in _STATED_BESIDE
    evidence = {name: EncodingEvidence() for name in columns}
    for batch in ogr_batches(layer, columns, _BATCH):
        for name in columns:
            texts = batch.column(name)
            if not is_text(texts):
                if beside:
                    return Decoding(FALLBACK_ENCODING, remarks=(fallback_remark(path),))
                raise CorruptInputError(
                    f"cannot read parcels from {path}: column {name} holds text that is not UTF-8",
                    hint="save the layer with UTF-8 text, for example as GeoPackage",
                )
            if beside:
                foreign = pc.call_function("invert", [pc.call_function("string_is_ascii", [texts])])
                evidence[name].add(texts.filter(foreign).to_pylist())
    found = {name: verdict for name, one in evidence.items() if (verdict := one.verdict) is not None}
    return Decoding(None, found, tuple(encoding_remark(path, name, right) for name, (_, right) in found.items()))
