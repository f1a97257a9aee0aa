"""What is here: models, stores, runs, the installation."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cropgen import __version__
from cropgen.core.errors import SchemaError, UsageError
from cropgen.core.files import require_input
from cropgen.core.paths import Workspace, user_cache
from cropgen.core.progress import Reporter
from cropgen.core.recipe import validate
from cropgen.core.run import RunFolder
from cropgen.models.catalog import CATALOG, Entry, aliases_of, find, load

_HEAD = 4096
_PACKAGES = ("torch", "numpy", "pandas", "xarray", "zarr", "rasterio", "geopandas", "pyogrio", "scikit-learn", "typer")


def models() -> tuple[Entry, ...]:
    """Every model of the catalogue."""
    return CATALOG


@dataclass(frozen=True)
class Option:
    """One option of a model."""

    key: str
    kind: str
    default: Any
    description: str


@dataclass(frozen=True)
class ModelCard:
    """A model and its options."""

    entry: Entry
    aliases: tuple[str, ...]
    text: str
    options: tuple[Option, ...]


def model_card(name: str) -> ModelCard:
    """A model by name or alias.

    Raises:
        UsageError: there is no such model.
    """
    entry = find(name)
    kind = load(entry)
    options = tuple(
        Option(key, _kind_of(field.annotation), _plain(field.get_default(call_default_factory=True)),
               field.description or "")
        for key, field in kind.Settings.model_fields.items()
    )  # fmt: skip
    return ModelCard(entry, aliases_of(entry.name), (inspect.getdoc(kind) or "").partition("\n\n")[0], options)


def _kind_of(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    return text or str(annotation).replace("typing.", "")


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


@dataclass(frozen=True)
class Info:
    """What a path holds: `kind` is store, run, evaluation or layer; `content` depends on it."""

    kind: str
    path: Path
    content: dict[str, Any]


def info(
    workspace: Workspace, path: Path | None, *, hcat_level: int | None = None,
    columns: Mapping[str, Any] | None = None, map_to: Path | None = None, overwrite: bool = False,
    report: Reporter | None = None,
) -> Info:  # fmt: skip
    """Describe a series store, a run folder, an evaluation or a vector layer.

    Arguments:
        hcat_level: count the classes of a store at this level of the tree; `remarks` says what has no code.
        columns: fields of `ParcelColumns` by which a vector layer is read as parcels; None means recognised.
        map_to: where a map of the coverage of a store is written: .gpkg, .html or .png.

    Raises:
        UsageError: the level is none, or the classes have no HCAT codes.
        MissingInputError: nothing is at `path`.
        SchemaError: it is none of these.
    """
    target = require_input(path, "path") if path is not None else workspace.default_series()
    if (target / "series.zarr").is_dir():
        target = target / "series.zarr"
    if (target / "zarr.json").is_file():
        content = _describe_store(target, hcat_level)
        return Info("store", target, content | _map_coverage(target, content["coverage"], map_to, report, overwrite))
    if map_to is not None:
        raise UsageError(f"{target} is no series store: there is no coverage to map", hint="leave out --map")
    if (target / "manifest.json").is_file():
        return Info("run", target, RunFolder(target).read_manifest())
    if target.suffix == ".json" and not _is_geojson(target):
        from cropgen.evaluation.document import read_evaluation

        return Info("evaluation", target, read_evaluation(target).model_dump(mode="json"))
    if target.is_file() or target.suffix.lower() == ".gdb":
        return Info("layer", target, _describe_layer(target, columns or {}))
    raise SchemaError(
        f"{target} is neither a series store, a run, an evaluation nor a vector layer",
        hint="give a folder with series.zarr, a folder of runs/, evaluation.json, or a GeoPackage",
    )


def _is_geojson(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"FeatureCollection" in stream.read(_HEAD)


def _map_coverage(
    path: Path, facts: dict[str, Any], map_to: Path | None, report: Reporter | None, overwrite: bool
) -> dict[str, Any]:
    """Write the map where one is wanted, and say where it is."""
    if map_to is None:
        return {}
    from cropgen.evaluation.coverage_map import write_coverage
    from cropgen.series.store import SeriesStore

    write_coverage(SeriesStore.open(path), facts, map_to, report, overwrite=overwrite)
    return {"map": str(map_to)}


def _describe_store(path: Path, hcat_level: int | None) -> dict[str, Any]:
    import numpy as np

    from cropgen.series.coverage import coverage
    from cropgen.series.hcat import roll_up
    from cropgen.series.statistics import summarise
    from cropgen.series.store import SeriesStore
    from cropgen.series.view import SeriesView

    store = SeriesStore.open(path)
    if hcat_level is None:
        return summarise(store) | {"coverage": coverage(store)}
    rolled = roll_up(store.legend, hcat_level)
    label = store.column("label")
    counts = np.bincount(label[label >= 0], minlength=len(store.legend))
    summary = summarise(SeriesView(store, classes=(rolled.legend, rolled.place)))
    return summary | {"coverage": coverage(store), "remarks": list(rolled.remarks(store.legend, counts))}


def _describe_layer(path: Path, columns: Mapping[str, Any]) -> dict[str, Any]:
    """What a vector layer holds: which run made it where cropgen wrote it, else what it is read as for parcels."""
    from cropgen.series.parcel_columns import ParcelColumns
    from cropgen.series.parcel_summary import describe_layer, describe_parcels

    chosen = validate(ParcelColumns, {k: v for k, v in columns.items() if v is not None}, where="arguments")
    facts = describe_layer(path, chosen.layer)
    if any("CROPGEN" in key for key in facts):
        return facts
    parcels = describe_parcels(path, chosen)
    return facts | {"remarks": parcels.pop("remarks"), "parcels": parcels}


@dataclass(frozen=True)
class Doctor:
    """State of the installation."""

    healthy: bool
    versions: dict[str, str]
    devices: tuple[str, ...]
    folders: dict[str, str]
    problems: tuple[str, ...]


def doctor(workspace: Workspace) -> Doctor:
    """Versions, devices, formats and space; `healthy` is false when something needed is missing."""
    import pyogrio
    import torch

    versions = {"cropgen": __version__, "python": platform.python_version(), "system": platform.platform()}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions["gdal"] = ".".join(str(part) for part in pyogrio.__gdal_version__)
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    drivers = pyogrio.list_drivers()
    problems = [f"no {name} driver in GDAL" for name in ("GPKG", "GeoJSON") if "w" not in drivers.get(name, "")]
    space = shutil.disk_usage(_existing(workspace.root))
    if space.free < 2**30:
        problems.append(f"less than 1 GiB free in {workspace.root}")
    if not os.access(_existing(workspace.root), os.W_OK):
        problems.append(f"{workspace.root} cannot be written")
    folders = {
        "workspace": str(workspace.root),
        "cache": str(user_cache()),
        "free space": f"{space.free / 2**30:.1f} GiB",
    }
    return Doctor(not problems, versions, tuple(devices), folders, tuple(problems))


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
