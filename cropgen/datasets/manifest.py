"""The manifest of a data set: what it is, whose it is, and what it takes to have it.

One TOML file per data set in `data_manifests/`. A simulated data set has no files; a downloaded one lists every file
with its address, size and digest, so that nothing is read that is not what the manifest says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cropgen.core.recipe import Section, read_toml


class RemoteFile(Section):
    """One file of a downloaded data set."""

    url: str = Field(pattern=r"^https://", description="where it is fetched from")
    path: str = Field(pattern=r"^[^/\\.][^\\]*$", description="where it goes, relative to the data set's folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of its bytes")
    size_bytes: int = Field(gt=0, description="its size")

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        if ".." in Path(self.path).parts:
            raise ValueError(f"path {self.path} leaves the data set's folder")
        return self


class DatasetManifest(Section):
    """A data set as `cropgen fetch` lists it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="what it is fetched by")
    title: str = Field(min_length=1, description="one line for a list")
    description: str = Field(min_length=1, description="what is in it, in a few sentences")
    kind: Literal["simulated", "download"] = Field(description="made here, or fetched")
    licence: str = Field(min_length=1, description="SPDX identifier where there is one")
    citation: str = Field(min_length=1, description="title, authors, year")
    years: tuple[int, ...] = Field(min_length=1, description="harvest years")
    regions: tuple[str, ...] = Field(min_length=1, description="names in the region column")
    classes: int = Field(gt=0, description="crops in its legend")
    parcels: int = Field(gt=0, description="parcels per year")
    size_bytes: int = Field(gt=0, description="room it takes on disk, about")
    files: tuple[RemoteFile, ...] = Field((), description="files of a download")

    @model_validator(mode="after")
    def _files_match_kind(self) -> Self:
        if (self.kind == "download") != bool(self.files):
            raise ValueError("a download lists its files, a simulated data set has none")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a manifest.

        Raises:
            MissingInputError, UsageError: see `cropgen.core.recipe.read_toml`.
        """
        return read_toml(cls, path)
