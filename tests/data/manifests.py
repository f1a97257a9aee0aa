"""Manifests whose files are on a server of this machine."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from cropgen.datasets.catalog import manifest_folder

from .server import FileServer

TOY: dict[str, Any] = {
    "name": "toy",
    "title": "Toy",
    "description": "A few files.",
    "kind": "download",
    "licence": "CC0-1.0",
    "citation": "Toy, nobody, 2026",
    "years": [2020, 2021],
    "regions": ["north", "south"],
    "classes": 3,
    "parcels": 10,
    "size_bytes": 1000,
}
_PUBLISHED = ("sha256", "md5", "size_bytes", "about_bytes", "mirrors")


def local_manifest(name: str, server: FileServer, folder: Path) -> Path:
    """The shipped manifest of a data set, fetched from the server instead; digests and sizes are not stated.

    The server must serve every file that is fetched under its `path` of the manifest. Returns `folder`, for
    `cropgen fetch NAME --manifests FOLDER`.
    """
    document = tomllib.loads((manifest_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    for file in document["files"]:
        for key in _PUBLISHED:
            file.pop(key, None)
        file["url"] = server.url(file["path"])
        file["members"] = [{"path": member["path"]} for member in file.get("members", [])]
    return written(folder, document)


def published(path: Path, **facts: Any) -> dict[str, Any]:
    """Size and digest of a file, as a manifest states them."""
    content = path.read_bytes()
    return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **facts}


def toy_manifest(folder: Path, server: FileServer, *files: dict[str, Any], **facts: Any) -> Path:
    """A manifest named toy; a file without `url` is fetched from the server. Returns `folder`."""
    listed = [{"url": server.url(file["path"]), **file} for file in files]
    return written(folder, {**TOY, **facts, "files": listed})


def written(folder: Path, document: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{document['name']}.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    return folder
