"""A run folder: one training, with everything needed to trust it, use it and repeat it.

recipe.toml         what was asked, resolved; `cropgen train --recipe` repeats it
manifest.json       what it was made from and what came out: fingerprints, where the series come from, versions, facts,
                    status, and whether it was judged which seasons are usual
metrics.jsonl       one line per logged step
labels.json         the ids of the parcels whose labels were used
model.safetensors   the weights
model.json          what is needed to rebuild the module around the weights
checkpoint/         the state to resume from; removed when the run is done
replaced/           the run that stood here before `--overwrite`; removed when the new one is done
adapted.json        only in a run adapted to a season or region: the run it came from, and what it was adapted to
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cropgen
from cropgen.core.errors import CorruptInputError, MissingInputError, OutputExistsError
from cropgen.core.files import remove, write_text
from cropgen.core.locking import sole_writer
from cropgen.core.sources import package_digest

MANIFEST_SCHEMA = 1
_AGAIN = "train the run again"
_PACKAGES = ("torch", "numpy", "scikit-learn", "pandas", "zarr", "rasterio", "geopandas")


@dataclass(frozen=True)
class RunFolder:
    """Paths and state of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def labels(self) -> Path:
        return self.path / "labels.json"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def adapted(self) -> Path:
        return self.path / "adapted.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def replaced(self) -> Path:
        return self.path / "replaced"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run while it is written.

        Where that fails, other than by an interruption, and there is no state to resume from, the run that was to be
        replaced is brought back.

        Raises:
            UsageError: another process is writing this run.
        """
        lock_file = self.path.parent / f".{self.path.name}.lock"
        with sole_writer(lock_file, self.path, "wait for it, or choose another --name"):
            begun_before = self.replaced.exists()
            try:
                yield
            except Exception:
                if self.replaced.exists() and not begun_before and not self.checkpoint.exists():
                    self._move(self.replaced, self.path)
                raise

    def begin(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready for a training; a run to be replaced is kept in it until `finish`.

        Raises:
            OutputExistsError: it exists, and neither resuming nor overwriting was asked for.
            MissingInputError: resuming was asked for and there is nothing to resume.
        """
        if resume:
            if not self.recipe.is_file():
                raise MissingInputError(f"nothing to resume in {self.path}", hint="start it without --resume")
            return
        if self.path.exists():
            if not overwrite:
                raise OutputExistsError(f"{self.path} exists", hint="pass --resume, --overwrite, or another --name")
            unfinished = self.replaced.exists() and not self.weights.exists()
            self._move(self.replaced if unfinished else self.path, self.replaced)
        else:
            self.path.mkdir(parents=True)

    def _move(self, run: Path, target: Path) -> None:
        """Move a run from this folder to a place in it; all else here goes. No failure on the way deletes the run."""
        aside = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        run.replace(aside / self.replaced.name)
        remove(self.path)
        target.parent.mkdir(exist_ok=True)
        (aside / self.replaced.name).replace(target)
        aside.rmdir()

    def read_manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            MissingInputError, CorruptInputError: it is not there or not a JSON object; the latter also later, when a
                field is asked for that is not in it.
        """
        if not self.manifest.is_file():
            raise MissingInputError(f"not a run folder: {self.path}", hint="runs are made by `cropgen train`")
        try:
            read = json.loads(self.manifest.read_text(encoding="utf-8"), object_hook=self._fields)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CorruptInputError(f"{self.manifest} is not JSON: {error}", hint=_AGAIN) from error
        if not isinstance(read, dict):
            raise CorruptInputError(f"{self.manifest}: expected an object, got {read!r:.40}", hint=_AGAIN)
        return read

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        found = _Fields(fields)
        found.path = self.manifest
        return found

    def write_manifest(self, document: dict[str, Any]) -> None:
        write_text(
            self.manifest,
            json.dumps({"manifest": MANIFEST_SCHEMA, **document}, indent=1, sort_keys=True) + "\n",
        )

    def finish(self) -> None:
        """Drop what only an unfinished run needs."""
        remove(self.replaced)
        remove(self.checkpoint)


class _Fields(dict[str, Any]):
    """An object of a manifest, which says so in a line where a field is asked for that it lacks."""

    path = Path("manifest.json")

    def __missing__(self, name: str) -> Any:
        raise CorruptInputError(f"{self.path} has no field {name!r}; `cropgen train` writes it", hint=_AGAIN)


def environment() -> dict[str, Any]:
    """Versions that may change a result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cropgen": cropgen.__version__,
        "code": package_digest(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
    }


def new_run_name(model: str, labels: str) -> str:
    """A readable, sortable name: date, time, model and label share."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    share = labels.replace("%", "pct").replace("/", "-per-")
    return f"{stamp}-{model.replace(':', '-')}-{share}"


def fingerprint(*parts: Any) -> str:
    """Hex SHA-256 of JSON-able parts, independent of key order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
