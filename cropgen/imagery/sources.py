"""Which kind of scenes a path holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cropgen.core.errors import UsageError
from cropgen.core.files import files_below, folders_below, require_input
from cropgen.core.progress import Reporter
from cropgen.imagery.cog import SUFFIXES, open_rasters
from cropgen.imagery.cube import NETCDF_SUFFIXES, open_cubes
from cropgen.imagery.safe import find_products, open_products
from cropgen.imagery.scene import Acquisition, SceneSource
from cropgen.imagery.stac import open_items

ITEM_SUFFIXES = (".json", ".geojson")


@dataclass(frozen=True)
class Joined:
    """Several sources as one."""

    name: str
    acquisitions: Sequence[Acquisition]


def open_scenes(scenes: Path | Sequence[Path], report: Reporter) -> SceneSource:
    """Open a folder of rasters by date, SAFE folders or zips, NetCDF or zarr cubes, STAC items, or several of these.

    Cubes given together are joined where they lie over one place; of products given together that show the same, the
    one of the newest processing is taken.

    Raises:
        MissingInputError, CorruptInputError, SchemaError: nothing is there, or it cannot be read as scenes.
        UsageError: a path is neither a folder nor a cube.
    """
    paths = [scenes] if isinstance(scenes, Path) else list(dict.fromkeys(scenes))
    cubes: list[Path] = []
    products: list[Path] = []
    sources: list[SceneSource] = []
    for path in paths:
        require_input(path, "scenes")
        found = _cubes(path)
        if found:
            cubes.extend(found)
            _tell_left(path, found, "cubes", report)
        elif safe := find_products(path):
            products.extend(safe)
            _tell_left(path, safe, "products", report)
        elif path.suffix.lower() in ITEM_SUFFIXES:
            sources.append(open_items(path, report))
        elif path.is_dir():
            sources.append(open_rasters(path))
        else:
            raise UsageError(
                f"{path} is neither a cube nor a product: expected {', '.join(NETCDF_SUFFIXES)}, a zarr folder or a "
                "zipped SAFE folder",
                hint="give the folder that holds one folder per date, a cube, products, or STAC items (.json)",
            )
    name = ", ".join(path.name for path in paths)
    if cubes:
        sources.append(open_cubes(name, cubes, report))
    if products:
        sources.append(open_products(name, products, report))
    acquisitions = _named_apart([a for source in sources for a in source.acquisitions])
    return Joined(name, tuple(sorted(acquisitions, key=lambda a: (a.day, a.key))))


def _tell_left(path: Path, taken: Sequence[Path], what: str, report: Reporter) -> None:
    """Warn of rasters in a folder that lie beside its cubes or products, which alone are read."""
    read = set(taken)
    rasters = [p for p in files_below(path) if p.suffix.lower() in SUFFIXES] if path.is_dir() else []
    left = [p for p in rasters if read.isdisjoint((p, *p.parents))]
    if left:
        report.warn(
            f"{path}: only its {what} are read, not {len(left)} rasters beside them, e.g. {left[0].relative_to(path)}; "
            "give a folder for each kind of scenes"
        )


def _named_apart(acquisitions: Sequence[Acquisition]) -> list[Acquisition]:
    """Acquisitions with keys of their own: where sources given together have a key in common, those after the first are
    numbered."""
    known, found = {a.key for a in acquisitions}, []
    seen: set[str] = set()
    for acquisition in acquisitions:
        key, number = acquisition.key, 1
        while key in seen or (number > 1 and key in known):
            number += 1
            key = f"{acquisition.key} ({number})"
        seen.add(key)
        found.append(acquisition if number == 1 else replace(acquisition, key=key))
    return found


def _cubes(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() in NETCDF_SUFFIXES else []
    if _is_zarr(path):
        return [path]
    files = [p for p in files_below(path) if p.suffix.lower() in NETCDF_SUFFIXES]
    stores = [p for p in folders_below(path) if p.suffix == ".zarr" and _is_zarr(p)]
    return sorted(files + stores)


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
