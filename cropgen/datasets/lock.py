"""What every fetched file was when it was first here: `fetch.lock.toml` beside the files of a data set.

Where a publisher states no digest, the first download is trusted and its digest recorded here; a later download that
differs is refused. The file may be committed or mailed, so that others get the same bytes or a complaint.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal, Self

from cropgen.core.recipe import Section, read_toml, write_toml
from cropgen.datasets.layout import LOCK

Trust = Literal["sha256", "md5", "first use"]


class LockedMember(Section):
    """A file that unpacking left."""

    path: str
    size_bytes: int
    sha256: str


class LockedFile(Section):
    """One file as it was fetched.

    `origin` is the address, or the folder it was brought from; `verified` says what vouched for it, a published digest
    or its first use; `suspect` means that a verification found it damaged, and it is fetched anew.
    """

    path: str
    origin: str
    fetched: str
    size_bytes: int
    sha256: str
    verified: Trust
    members: tuple[LockedMember, ...] = ()
    suspect: bool = False


class _Document(Section):
    files: tuple[LockedFile, ...] = ()


class FetchLock:
    """The records of one data set; safe to use from several threads."""

    def __init__(self, path: Path, files: dict[str, LockedFile]) -> None:
        self.path = path
        self._files = files
        self._guard = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The records beside the files of a data set; none where nothing was fetched.

        Raises:
            UsageError: the file was edited into something else.
        """
        path = folder / LOCK
        files = read_toml(_Document, path).files if path.is_file() else ()
        return cls(path, {file.path: file for file in files})

    def get(self, path: str) -> LockedFile | None:
        return self._files.get(path)

    def all(self) -> tuple[LockedFile, ...]:
        return tuple(self._files[path] for path in sorted(self._files))

    def put(self, file: LockedFile) -> None:
        """Record a file, on disk when this returns."""
        with self._guard:
            self._files[file.path] = file
            write_toml(_Document(files=self.all()), self.path)
