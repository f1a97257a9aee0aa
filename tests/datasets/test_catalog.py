"""Manifests of data sets and their state in a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from cropgen.core.errors import UsageError
from cropgen.datasets.catalog import find_dataset, list_datasets, manifest_folder, state_in
from cropgen.datasets.demo import DEFAULT_YEARS, FULL_REGION
from cropgen.datasets.demo.crops import CROPS
from cropgen.datasets.manifest import DatasetManifest

SIMULATED = """
name = "toy"
title = "Toy"
description = "A toy."
kind = "simulated"
licence = "CC0-1.0"
citation = "Toy, nobody, 2026"
years = [2020]
regions = ["here"]
classes = 3
parcels = 10
size_bytes = 1000
"""
FILE = f"""
[[files]]
url = "https://example.org/a.zip"
path = "a.zip"
sha256 = "{"0" * 64}"
size_bytes = 5
"""


def written(folder: Path, text: str, name: str = "toy.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_demo_manifest_says_what_the_simulation_makes():
    demo = find_dataset("demo")
    assert (demo.years, demo.parcels, demo.classes) == (DEFAULT_YEARS, FULL_REGION, len(CROPS))
    assert demo.kind == "simulated"
    assert demo.size_bytes < 500e6


def test_every_manifest_reads_and_is_named_after_its_file():
    names = [manifest.name for manifest in list_datasets()]
    assert names == sorted(path.stem for path in manifest_folder().glob("*.toml"))
    assert "demo" in names


@pytest.mark.parametrize(("typed", "meant"), [("demo-region", "demo"), ("Demo", "demo"), ("dmo", "demo")])
def test_a_near_miss_is_pointed_out(typed: str, meant: str):
    with pytest.raises(UsageError) as caught:
        find_dataset(typed)
    assert f"did you mean {meant}?" in (caught.value.hint or "")


def test_a_far_miss_is_told_how_to_list():
    with pytest.raises(UsageError, match="no data set 'zzzz'"):
        find_dataset("zzzz")


def test_state_counts_bytes(tmp_path: Path):
    manifest = DatasetManifest.read(written(tmp_path, SIMULATED))
    state = state_in(manifest, tmp_path / "data")
    assert (state.present, state.size_bytes, state.text) == (False, 0, "absent")
    folder = tmp_path / "data" / "toy" / "scenes"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"x" * 3_000_000)
    state = state_in(manifest, tmp_path / "data")
    assert (state.present, state.size_bytes, state.text) == (True, 3_000_000, "present, 3 MB")


def test_a_download_lists_its_files(tmp_path: Path):
    download = SIMULATED.replace("simulated", "download")
    assert DatasetManifest.read(written(tmp_path, download + FILE)).files[0].path == "a.zip"
    for text in (download, SIMULATED + FILE):
        with pytest.raises(UsageError, match="a download lists its files"):
            DatasetManifest.read(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("a.zip\"\nsha", "../a.zip\"\nsha", "files"),
        ("a.zip\"\nsha", "x/../../a.zip\"\nsha", "files"),
        ("a.zip\"\nsha", "/a.zip\"\nsha", "files"),
        ("0000", "zzzz", "files"),
        ("classes = 3", "classes = 0", "classes"),
        ("years = [2020]", "years = []", "years"),
        ("parcels = 10", "parcels = 10\ncolour = 1", "colour"),
        ('name = "toy"', 'name = "Toy set"', "name"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused_by_key(tmp_path: Path, old: str, new: str, key: str):
    text = (SIMULATED.replace("simulated", "download") + FILE).replace(old, new)
    with pytest.raises(UsageError, match=key):
        DatasetManifest.read(written(tmp_path, text))
