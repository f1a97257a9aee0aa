"""Files that are either whole or absent.

Everything cropgen writes goes to a temporary name in the destination folder and is moved into place when it is
complete, so an interruption or a full disk leaves the previous state.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from cropgen.core.errors import CropgenError, MissingInputError, OutputExistsError

_CHUNK = 1 << 20
_STORE = "zarr.json"


def guard_output(path: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Refuse to replace an output that exists, a link to nothing, or a folder that holds other things than a store.

    Arguments:
        folder: the output is a folder that may hold anything.

    Raises:
        OutputExistsError: `path` exists and `overwrite` is false, or it is a link to what is not there, or a folder of
            something else.
    """
    if path.is_symlink() and not path.exists():
        raise OutputExistsError(f"{path} is a link to {path.readlink()}, which is not there", hint="remove the link")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists", hint="choose another output with -o, or pass --overwrite")
    if not folder and path.is_dir() and any(path.iterdir()) and not (path / _STORE).is_file():
        raise OutputExistsError(
            f"{path} is a folder of something else, which --overwrite does not replace",
            hint="choose another output with -o, or remove the folder",
        )


def require_input(path: Path, what: str) -> Path:
    """Return `path` if it exists.

    Raises:
        MissingInputError: nothing is there.
    """
    if not path.exists():
        raise MissingInputError(
            f"{what} not found: {path}", hint="check the path, or the --workspace it is looked up in"
        )
    return path


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of their attempts to write `path`; nobody else may be writing it now."""
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.part{glob.escape(path.suffix)}"
    for part in list(path.parent.glob(pattern)):
        remove(part)


def remove(path: Path) -> None:
    """Remove a file or a folder tree; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        retired = _temporary_beside(target)
        target.replace(retired)
        source.replace(target)
        remove(retired)
    else:
        source.replace(target)


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    The body may create a file or a folder at the yielded path. Its suffix equals that of `path`, because drivers
    choose a format by it. Where `path` is a link to a folder, that folder is replaced and the link stays.

    Raises:
        CropgenError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = path.resolve() if path.is_symlink() and path.is_dir() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_beside(path)
    try:
        yield part
        _replace(part, path)
    except OSError as error:
        raise CropgenError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free space or choose another folder; nothing was changed",
        ) from error
    finally:
        remove(part)
        for sidecar in (*path.parent.glob(f"{glob.escape(part.name)}-*"), part.with_name(f".{part.name}.lock")):
            remove(sidecar)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_output(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder's relative names and contents in sorted order."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for item in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{item.relative_to(path).as_posix()}\0{sha256_file(item)}\n".encode())
    return digest.hexdigest()


def folders_below(folder: Path) -> Iterator[Path]:
    """A folder and all below it, each once: links to folders are followed, hidden folders are left out.

    What lies in the folder itself comes before what links lead to.
    """
    known: set[str] = set()
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            for place, names, _ in os.walk(start):
                here, real = Path(place), os.path.realpath(place)
                names[:] = [] if real in known else sorted(name for name in names if not name.startswith("."))
                links += [here / name for name in names if (here / name).is_symlink()]
                if real not in known:
                    known.add(real)
                    yield here
        waiting = links


def files_below(folder: Path) -> Iterator[Path]:
    """The files of `folders_below`, hidden ones left out; in each folder by name."""
    for place in folders_below(folder):
        yield from sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_file())


def folder_size(path: Path) -> int:
    """Bytes of a file or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
