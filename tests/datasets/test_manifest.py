"""The shipped manifests: valid, current, true to what is published, and selectable by region, year and level."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cropgen.core.errors import UsageError
from cropgen.datasets.catalog import find_dataset, list_datasets, manifest_folder
from cropgen.datasets.reader import READERS

FOLDER = manifest_folder()
DOWNLOADED = [m for m in list_datasets() if m.kind == "download"]

# unpacked h5 files of BreizhCrops, bytes: the publisher's own integrity check
BREIZHCROPS_H5 = {
    ("L1C", "frh01"): 2_559_635_960,
    ("L1C", "frh02"): 2_253_658_856,
    ("L1C", "frh03"): 2_493_572_704,
    ("L1C", "frh04"): 1_555_075_632,
    ("L1C", "belle-ile"): 17_038_944,
    ("L1C", "kermaux"): 1_259_784,
    ("L2A", "frh01"): 987_259_904,
    ("L2A", "frh02"): 803_457_960,
    ("L2A", "frh03"): 890_027_448,
    ("L2A", "frh04"): 639_215_848,
    ("L2A", "belle-ile"): 8_037_952,
}


def test_the_schema_is_current(tmp_path: Path) -> None:
    script = tmp_path / "make_schema.py"
    script.write_text((FOLDER / "make_schema.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True)
    assert (tmp_path / "schema.json").read_text() == (FOLDER / "schema.json").read_text()


def test_the_schema_accepts_every_manifest_and_refuses_a_wrong_one() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema.json").read_text()))
    documents = [tomllib.loads(path.read_text()) for path in FOLDER.glob("*.toml")]
    assert len(documents) == 7
    for document in documents:
        validator.validate(document)
        assert not validator.is_valid({**document, "colour": "red"})
        assert not validator.is_valid({**document, "parcels": 0})


@pytest.mark.parametrize("manifest", DOWNLOADED, ids=lambda m: m.name)
def test_a_download_says_where_it_comes_from_and_what_vouches_for_it(manifest) -> None:
    assert all(address.startswith("https://") for file in manifest.files for address in file.addresses)
    vouched = all(file.sha256 or file.md5 or file.size_bytes for file in manifest.files)
    assert vouched or "not " in (manifest.retrieval or "")
    assert manifest.homepage
    assert manifest.name in READERS


@pytest.mark.parametrize("manifest", DOWNLOADED, ids=lambda m: m.name)
def test_the_usual_selection_has_files(manifest) -> None:
    selection = manifest.select()
    assert manifest.files_of(selection)
    assert set(manifest.files_of(selection)) <= set(manifest.files)


def test_sizes_of_breizhcrops_are_the_published_ones() -> None:
    files = find_dataset("breizhcrops").files
    stated = {(f.level, f.region): f.bytes_on_disk for f in files if f.path.endswith(".h5.tar.gz")}
    assert stated == BREIZHCROPS_H5
    assert {f.year for f in files if f.path.endswith(".h5.tar.gz")} == {2017}
    assert sorted(f.region for f in files if f.path.endswith(".zip")) == ["frh01", "frh02", "frh03", "frh04"]


def test_a_package_of_the_publisher_agrees() -> None:
    urls = pytest.importorskip("breizhcrops.datasets.urls", reason="breizhcrops is not installed")
    theirs = {address for tables in (urls.H5_URLs, urls.INDEX_FILE_URLs) for by_level in tables.values()
              for by_region in by_level.values() for address in by_region.values()}  # fmt: skip
    theirs |= {address for by_region in urls.SHP_URLs.values() for address in by_region.values()}
    theirs |= {urls.CLASSMAPPINGURL, urls.CLASSMAPPINGURL_ICML, urls.CODESURL, *urls.RAW_CSV_URL[2018]["L1C"].values()}
    assert {file.url for file in find_dataset("breizhcrops").files} == theirs
    sizes = {(level, region): size for level in ("L1C", "L2A") for region, size in urls.FILESIZES[2017][level].items()}
    assert sizes == BREIZHCROPS_H5


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("breizhcrops", {}, (("frh01", "frh02", "frh03", "frh04"), (2017,), "L1C")),
        ("breizhcrops", {"regions": ["FRH04", "frh01"]}, (("frh01", "frh04"), (2017,), "L1C")),
        ("breizhcrops", {"regions": ["belle-ile"], "level": "l2a"}, (("belle-ile",), (2017,), "L2A")),
        ("breizhcrops", {"years": [2018]}, (("frh01", "frh02", "frh03", "frh04"), (2018,), "L1C")),
        ("eurocrops", {}, (("EE",), (2021,), "v1")),
        ("eurocrops", {"regions": ["dk"]}, (("DK",), (2019,), "v1")),
        ("eurocrops", {"regions": ["AT", "DK"]}, (("AT", "DK"), (2019, 2021), "v1")),
        ("eurocrops", {"regions": ["dea"], "years": [2022], "level": "v2"}, (("DEA",), (2022,), "v2")),
        ("denethor", {"level": "S2"}, (("train", "test"), (2018, 2019), "S2")),
    ],
)
def test_what_is_meant_by_what_is_asked(name: str, asked: dict, expected: tuple) -> None:
    selection = find_dataset(name).select(**asked)
    assert (selection.regions, selection.years, selection.level) == expected


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("breizhcrops", {"regions": ["frh05"]}, "no region 'frh05'"),
        ("breizhcrops", {"years": [2019]}, "no year '2019'"),
        ("breizhcrops", {"level": "L3"}, "no level 'L3'"),
        ("breizhcrops", {"regions": ["kermaux"], "level": "L2A"}, "no kermaux at level L2A"),
        ("breizhcrops", {"years": [2018], "level": "L2A"}, "no frh01, frh02, frh03, frh04 at level L2A"),
        ("breizhcrops", {"years": [2017, 2018], "level": "L2A"}, "no 2018 at level L2A"),
        ("timesen2crop", {"level": "L2A"}, "no level 'L2A'"),
        ("eurocrops", {"regions": ["DK"], "years": [2021]}, "no DK at level v1"),
    ],
)
def test_what_does_not_exist_is_said(name: str, asked: dict, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_dataset(name).select(**asked)
    assert said in caught.value.message
    assert caught.value.hint


def test_files_of_a_selection() -> None:
    manifest = find_dataset("breizhcrops")
    files = [f.path for f in manifest.files_of(manifest.select(["frh04"], [2018]))]
    assert files == [
        "codes.csv", "classmapping.csv", "classmapping_icml.csv", "2018/L1C/frh04.csv", "2018/L1C/frh04.zip",
        "2018/shp/frh04.tar.gz",
    ]  # fmt: skip
    stacks = find_dataset("eurocrops")
    assert [f.path for f in stacks.files_of(stacks.select(["fr"], level="v2-stack"))][-1] == "v2-stack/fr_stack.parquet"
    yearly = [f for f in stacks.files if f.level == "v2" and f.year]
    assert len(yearly) == 153
