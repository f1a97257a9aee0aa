"""The data sets that `cropgen fetch` knows, read from their manifests, and their state in a workspace."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import cropgen
from cropgen.core.errors import CropgenError, UsageError
from cropgen.core.files import folder_size, require_input
from cropgen.datasets.addresses import require_safe
from cropgen.datasets.layout import FILES, LOCK, PREPARING
from cropgen.datasets.manifest import DatasetManifest

_FOLDER = "data_manifests"


@dataclass(frozen=True)
class DatasetState:
    """What of a data set is in a workspace.

    Arguments:
        folder: where it is, or would be.
        present: something is there.
        prepared: a series store or parcel layers are there, not only files.
        size_bytes: bytes on disk.
    """

    folder: Path
    present: bool
    prepared: bool
    size_bytes: int

    @property
    def text(self) -> str:
        """A few words for a list."""
        if not self.present:
            return "absent"
        return f"{'present' if self.prepared else 'files only'}, {self.size_bytes / 1e6:,.0f} MB"


def manifest_folder() -> Path:
    """Where the manifests are: in the installed package, or beside it in a checkout.

    Raises:
        CropgenError: neither is there, so the installation is incomplete.
    """
    package = Path(cropgen.__file__).resolve().parent
    for folder in (package / _FOLDER, package.parent / _FOLDER):
        if folder.is_dir():
            return folder
    raise CropgenError(f"no {_FOLDER} folder in {package}", hint="install cropgen again; its files are incomplete")


def list_datasets(folder: Path | None = None, *, insecure: bool = False) -> list[DatasetManifest]:
    """Every data set that can be fetched, by name.

    Arguments:
        folder: of manifests, for mirrors of one's own; default: the package's.
        insecure: its addresses may be plain http.

    Raises:
        UsageError: a manifest is not valid, or an address is neither https nor on this machine.
        MissingInputError: `folder` is not there.
    """
    where = manifest_folder() if folder is None else require_input(folder, "folder of manifests")
    manifests = [DatasetManifest.read(path) for path in sorted(where.glob("*.toml"))]
    for manifest in manifests:
        for address in (a for file in manifest.files for a in file.addresses):
            require_safe(address, f"manifest {manifest.name}", insecure=insecure and folder is not None)
    return sorted(manifests, key=lambda manifest: manifest.name)


def find_dataset(name: str, folder: Path | None = None, *, insecure: bool = False) -> DatasetManifest:
    """The manifest of a data set.

    Arguments:
        folder, insecure: as in `list_datasets`.

    Raises:
        UsageError: there is none of this name; the hint has the nearest one.
    """
    known = {manifest.name: manifest for manifest in list_datasets(folder, insecure=insecure)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    names = ", ".join(known)
    raise UsageError(
        f"no data set {name!r}; known: {names}",
        hint=f"did you mean {near[0]}?" if near else "cropgen fetch lists them",
    )


def state_in(manifest: DatasetManifest, data: Path) -> DatasetState:
    """Whether a data set is in the `data` folder of a workspace, prepared or as files, and how large it is there."""
    folder = data / manifest.name
    content = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    prepared = bool(content - {FILES, LOCK, PREPARING})
    return DatasetState(folder, bool(content), prepared, folder_size(folder) if content else 0)
