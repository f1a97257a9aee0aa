"""The manifest of a data set: what it is, whose it is, and what it takes to have it.

One TOML file per data set in `data_manifests/`, checked by `data_manifests/schema.json`. A simulated data set has no
files; a downloaded one lists every file with its address and whatever size and digest its publisher states; one that
the user brings has a retired host and says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cropgen.core.errors import UsageError
from cropgen.core.recipe import Section, read_toml
from cropgen.series.official import OfficialProtocol

_ADDRESS = r"^https?://[^/\s]+/\S+$"
_INSIDE = r"^[^/\\.][^\\]*$"


class Member(Section):
    """A file that unpacking an archive leaves."""

    path: str = Field(pattern=_INSIDE, description="relative to the data set's folder of files")
    size_bytes: int | None = Field(None, gt=0, description="its size, where it is published")


class RemoteFile(Section):
    """One file of a downloaded data set."""

    url: str = Field(pattern=_ADDRESS, description="where it is fetched from")
    mirrors: tuple[str, ...] = Field((), description="further addresses of the same bytes, tried in turn")
    path: str = Field(pattern=_INSIDE, description="where it goes, relative to the data set's folder of files")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="digest of its bytes, where published")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$", description="the same, of publishers that state MD5")
    size_bytes: int | None = Field(None, gt=0, description="its size, where published")
    about_bytes: int | None = Field(None, gt=0, description="its size to three digits, where no more is published")
    region: str | None = Field(None, description="the region it serves; absent: every one")
    year: int | None = Field(None, description="the year it serves; absent: every one")
    level: str | None = Field(None, description="the processing level it serves; absent: every one")
    optional: bool = Field(False, description="the data set can be prepared without it")
    unpack: str | None = Field(None, pattern=_INSIDE, description="folder an archive is unpacked into, absent: not")
    members: tuple[Member, ...] = Field((), description="what unpacking must leave")

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        for path in (self.path, self.unpack or "", *(m.path for m in self.members)):
            if ".." in PurePosixPath(path).parts:
                raise ValueError(f"path {path} leaves the data set's folder")
        if (self.unpack is None) != (not self.members):
            raise ValueError(f"{self.path}: an archive that is unpacked states its members, no other file does")
        return self

    @property
    def has_digest(self) -> bool:
        """Whether the publisher states what its bytes are."""
        return self.sha256 is not None or self.md5 is not None

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.url, *self.mirrors)

    @property
    def bytes_on_disk(self) -> int | None:
        """What it takes once it is here: the archive, or what is unpacked from it; None where not published."""
        if not self.members:
            return self.size_bytes
        sizes = [m.size_bytes for m in self.members]
        return sum(s for s in sizes if s is not None) if all(sizes) else None


class Defaults(Section):
    """What is fetched when nothing is asked for; empty: everything."""

    regions: tuple[str, ...] = ()
    years: tuple[int, ...] = ()
    level: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which part of a data set is wanted.

    Arguments:
        regions, years: names and harvest years, in the order of the manifest.
        level: processing level, None where the data set has no such thing.
    """

    regions: tuple[str, ...]
    years: tuple[int, ...]
    level: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class DatasetManifest(Section):
    """A data set as `cropgen fetch` lists it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="what it is fetched by")
    title: str = Field(min_length=1, description="one line for a list")
    description: str = Field(min_length=1, description="what is in it, in a few sentences")
    kind: Literal["simulated", "download", "brought"] = Field(description="made here, fetched, or from the user")
    licence: str = Field(min_length=1, description="SPDX identifier where there is one")
    licence_note: str | None = Field(None, description="what the user must know beyond the identifier")
    citation: str = Field(min_length=1, description="title, authors, year")
    homepage: str | None = Field(None, pattern=r"^https://", description="where its publisher describes it")
    years: tuple[int, ...] = Field(min_length=1, description="harvest years")
    regions: tuple[str, ...] = Field(min_length=1, description="names in the region column")
    levels: tuple[str, ...] = Field((), description="processing levels, where there are several")
    defaults: Defaults = Field(Defaults(), description="what is fetched when nothing is asked for")
    classes: int = Field(gt=0, description="crops in its legend")
    parcels: int = Field(gt=0, description="parcels or samples of the default selection, per year")
    size_bytes: int = Field(gt=0, description="room the default selection takes on disk, about")
    retired: str | None = Field(None, min_length=1, description="what became of the host, and where copies may be had")
    retrieval: str | None = Field(None, description="where sizes and digests come from; which are not published")
    files: tuple[RemoteFile, ...] = Field((), description="files of a download")
    protocols: tuple[OfficialProtocol, ...] = Field((), description="official splits, as published")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.kind == "download") != bool(self.files):
            raise ValueError("a download lists its files, other data sets have none")
        if (self.kind == "brought") != bool(self.retired):
            raise ValueError("a data set that the user brings says what became of its host")
        paths = [f.path for f in self.files]
        if repeated := sorted({p for p in paths if paths.count(p) > 1}):
            raise ValueError(f"path given twice: {repeated[0]}")
        wanted: list[tuple[str, Any, Sequence[Any]]] = [("region", r, self.regions) for r in self.defaults.regions]
        wanted += [("year", y, self.years) for y in self.defaults.years]
        wanted += [("level", x, self.levels) for x in (self.defaults.level, *(f.level for f in self.files))]
        wanted += [("region", f.region, self.regions) for f in self.files]
        wanted += [("year", f.year, self.years) for f in self.files]
        for what, value, known in wanted:
            if value is not None and value not in known:
                raise ValueError(f"{what} {value} is not among its {what}s")
        if self.levels and self.defaults.level is None:
            raise ValueError("a data set with levels names the default one")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a manifest.

        Raises:
            MissingInputError, UsageError: see `cropgen.core.recipe.read_toml`.
        """
        return read_toml(cls, path)

    def select(self, regions: Sequence[str] = (), years: Sequence[int] = (), level: str | None = None) -> Selection:
        """What is meant by what was asked; nothing asked means the defaults.

        Raises:
            UsageError: a region, year or level is unknown, or the data set has no file for their combination.
        """
        if level is not None or self.levels:
            level = level or self.defaults.level
            level = _known("level", level, {x.lower(): x for x in self.levels}, self.name)
        chosen = tuple(_known("region", r, {x.lower(): x for x in self.regions}, self.name) for r in regions)
        for year in years:
            _known("year", str(year), {str(y): y for y in self.years}, self.name)
        chosen = _in_order(chosen or self.defaults.regions or self.regions, self.regions)
        leaves = self._leaves(level)
        usual = self.defaults.years if any(f.year for f in leaves) else ()
        selection = Selection(chosen, _in_order(years or usual or self.years, self.years), level)
        lacking = self._lacking(selection, leaves)
        if lacking and not years:
            served = {f.year for f in self.files_of(selection) if f in leaves}
            further = {f.year for f in leaves if f.region in lacking}
            selection = Selection(chosen, _in_order((*served, *further), self.years), level)
            lacking = self._lacking(selection, leaves)
        if lacking:
            at = f" at level {level}" if level else ""
            has = sorted({" ".join(str(x) for x in (f.region, f.year) if x is not None) for f in leaves})
            raise UsageError(
                f"{self.name} has no {', '.join(lacking)}{at}", hint=f"it has {', '.join(has) or 'nothing'}"
            )
        return selection

    def files_of(self, selection: Selection) -> tuple[RemoteFile, ...]:
        """The files a selection needs."""
        return tuple(
            f
            for f in self.files
            if (f.region is None or f.region in selection.regions)
            and (f.year is None or f.year in selection.years)
            and (f.level is None or f.level == selection.level)
        )

    def _leaves(self, level: str | None) -> list[RemoteFile]:
        """The most specific files of a level: a shapefile of a region is not a series of it."""
        files = [f for f in self.files if f.level in (None, level)]
        most = max((_specificity(f) for f in files), default=0)
        return [f for f in files if most and _specificity(f) == most]

    def _lacking(self, selection: Selection, leaves: Sequence[RemoteFile]) -> list[str]:
        """Regions and years that no file of the selection serves."""
        if not leaves:
            return []
        served = [f for f in self.files_of(selection) if f in leaves]
        regions, years = {f.region for f in served}, {f.year for f in served}
        lacking = [r for r in selection.regions if not regions & {r, None}]
        return lacking or [str(y) for y in selection.years if not years & {y, None}]


def _specificity(file: RemoteFile) -> int:
    return sum(x is not None for x in (file.region, file.year, file.level))


def _in_order(chosen: Sequence[Any], known: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x for x in known if x in chosen)


def _known(what: str, value: str | None, known: dict[str, Any], name: str) -> Any:
    """The manifest's spelling of a name.

    Raises:
        UsageError: it is not among the known ones; the hint has the nearest one.
    """
    if value is not None and value.lower() in known:
        return known[value.lower()]
    near = difflib.get_close_matches(str(value).lower(), known, n=1)
    names = ", ".join(str(k) for k in known.values()) or "none"
    raise UsageError(
        f"{name} has no {what} {value!r}; it has {names}",
        hint=f"did you mean {known[near[0]]}?" if near else f"without naming a {what} you get the usual ones",
    )
