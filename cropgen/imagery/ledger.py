"""What an aggregation has done so far: a work folder beside the output, every result named by what decides it.

    .series.zarr.work/
      .lock          held while the aggregation runs
      tiles/<key>/   the pixels of the parcels on a tile's grids
      units/<key>/   the statistics of one acquisition
      parcels/       the polygons, while the aggregation runs

A key is a fingerprint of all that decides the content: for a tile its grids, the geometry of the parcels near it and
how pixels are chosen; for a unit its tile, the stamps of the layers that are read, what is computed, and the code. So a
result can be trusted when its folder is there, and what changed is done again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from cropgen import core, imagery, series
from cropgen.core.errors import CropgenError
from cropgen.core.files import remove
from cropgen.core.locking import sole_writer
from cropgen.core.run import fingerprint
from cropgen.imagery.scene import Acquisition, Grid


class WorkFolder:
    """The work folder of one output, held by this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._used: set[Path] = set()

    @classmethod
    @contextlib.contextmanager
    def beside(cls, output: Path, *, resume: bool) -> Iterator[Self]:
        """Hold the work folder of an output; what an earlier run left there is kept only for resuming.

        Raises:
            UsageError: another process holds it.
            CropgenError: it cannot be made.
        """
        path = output.with_name(f".{output.name}.work")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CropgenError(
                f"cannot write {path}: {error.strerror or error}", hint="choose another output"
            ) from error
        with sole_writer(path / ".lock", output, "wait for it, or choose another output"):
            work = cls(path)
            if not resume:
                work.tidy()
            yield work

    def tile(self, key: str) -> Path:
        """The folder of a tile."""
        return self._place("tiles", key)

    def unit(self, key: str) -> Path:
        """The folder of a unit."""
        return self._place("units", key)

    @contextlib.contextmanager
    def parcels(self) -> Iterator[Path]:
        """A folder for the polygons, removed in the end."""
        folder = self.path / "parcels"
        remove(folder)
        try:
            yield folder
        finally:
            remove(folder)

    def _place(self, kind: str, key: str) -> Path:
        folder = self.path / kind / key
        folder.parent.mkdir(exist_ok=True)
        self._used.add(folder)
        return folder

    @property
    def worth_keeping(self) -> bool:
        """Whether a unit is done."""
        return any(self.path.glob("units/[!.]*"))

    def tidy(self) -> None:
        """Remove what was not asked for since the folder was opened."""
        for kind in ("tiles", "units"):
            for path in (self.path / kind).glob("*"):
                if path not in self._used:
                    remove(path)

    def discard(self) -> None:
        """Remove the folder."""
        remove(self.path)


@functools.cache
def code_key() -> str:
    """Fingerprint of the code that decides the content of the work folder: all of these storeys, as it lies there."""
    digest = hashlib.sha256()
    for storey in (core, series, imagery):
        for source in sorted(path for place in storey.__path__ for path in Path(place).rglob("*.py")):
            digest.update(f"{source.name}\0".encode() + source.read_bytes())
    return digest.hexdigest()


def tile_key(grids: Iterable[Grid], parcels: str, choice: Any) -> str:
    """The key of a tile.

    Arguments:
        parcels: digest of the parcels near it.
        choice: how their pixels are chosen.
    """
    return fingerprint("tile", code_key(), [_facts(grid) for grid in grids], parcels, choice)[:32]


def unit_key(tile: str, acquisition: Acquisition, names: Iterable[str], choice: Any) -> str:
    """The key of a unit.

    Arguments:
        tile: key of its tile.
        names: the layers of the acquisition that are read.
        choice: what is computed.
    """
    layers = [(name, acquisition.layers[name]) for name in names]
    read = [[name, _facts(layer.grid), layer.nodata, getattr(layer, "stamp", "")] for name, layer in layers]
    return fingerprint("unit", code_key(), tile, acquisition.key, acquisition.day, read, choice)[:32]


def _facts(grid: Grid) -> list[Any]:
    return [grid.crs, grid.transform, grid.shape]
