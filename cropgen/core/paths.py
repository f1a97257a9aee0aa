"""Where things live: the workspace of a project and the cache of a user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cropgen.core.errors import MissingInputError


@dataclass(frozen=True)
class Workspace:
    """A folder with `data/`, `runs/`, `predictions/` and `reports/`.

    Arguments:
        root: the folder; it need not exist yet.
    """

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def series_stores(self) -> list[Path]:
        """All series stores of `data/`, newest first."""
        found = [p.parent for p in self.data.glob("*/series.zarr/zarr.json")]
        return sorted(found, key=lambda p: (p / "zarr.json").stat().st_mtime, reverse=True)

    def default_series(self) -> Path:
        """The newest series store.

        Raises:
            MissingInputError: the workspace has none.
        """
        stores = self.series_stores()
        if not stores:
            raise MissingInputError(
                f"no series store in {self.data}",
                hint="make one: cropgen fetch demo, cropgen aggregate SCENES PARCELS, or cropgen import TABLE",
            )
        return stores[0]

    def run_folders(self) -> list[Path]:
        """All finished runs, newest first."""
        found = [p.parent for p in self.runs.glob("*/model.safetensors") if (p.parent / "manifest.json").is_file()]
        return sorted(found, key=lambda p: (p / "manifest.json").stat().st_mtime, reverse=True)

    def default_run(self) -> Path:
        """The newest finished run that was not adapted to one season or region.

        Raises:
            MissingInputError: nothing was trained yet.
        """
        runs = [run for run in self.run_folders() if not (run / "adapted.json").exists()]
        if not runs:
            raise MissingInputError(f"no finished run in {self.runs}", hint="train one: cropgen train")
        return runs[0]


def user_cache() -> Path:
    """The user's cache folder for downloads (XDG on Linux)."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("cropgen"))
