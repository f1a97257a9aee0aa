"""EuroCropsML in its published layout, against the truth it was generated from."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.datasets import eurocropsml
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.eurocropsml import EuroCropsMLReader
from cropgen.datasets.reader import NoOptions, Prepared, Request
from cropgen.series.official import find_official, official_protocols, official_rows
from cropgen.series.splits import Split
from cropgen.series.store import SeriesStore
from tests.data.eurocropsml import make


class Heard(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def prepare(files: Path, *regions: str, report: Silent | None = None) -> Prepared:
    manifest = find_dataset("eurocropsml")
    request = Request(
        manifest, manifest.select(regions), NoOptions(), files, files.parent / "out", "fingerprint", report or Silent()
    )
    return EuroCropsMLReader().prepare(request)


def opened(prepared: Prepared) -> SeriesStore:
    assert prepared.series is not None
    return SeriesStore.open(prepared.series)


def test_values_dates_places_and_classes_are_those_of_the_files(tmp_path: Path) -> None:
    made = sorted(make.write(tmp_path / "files"), key=lambda p: p.id)
    store = opened(prepare(tmp_path / "files"))
    series = store.read()
    assert store.bands == make.BANDS
    assert series.parcel_id.tolist() == [p.id for p in made]
    assert series.region.tolist() == [p.name[:2] for p in made]
    assert set(series.year) == {2021}
    for row, parcel in enumerate(made):
        dates = len(parcel.dates)
        np.testing.assert_array_equal(series.day[row, :dates].astype("datetime64[D]"), parcel.dates)
        np.testing.assert_array_equal(series.mask[row], np.arange(series.mask.shape[1]) < dates)
        np.testing.assert_allclose(series.values[row, :dates], parcel.data / 10_000, rtol=1e-6)
        assert store.legend.codes[series.label[row]] == parcel.code
        np.testing.assert_array_equal([series.lon[row], series.lat[row]], parcel.center)
    assert store.legend.names[0] == "winter common soft wheat"
    assert all(c.hcat == c.code for c in store.legend.classes)


def test_a_region_can_be_read_alone(tmp_path: Path) -> None:
    made = make.write(tmp_path / "files", count=7)
    store = opened(prepare(tmp_path / "files", "lv"))
    assert store.column("parcel_id").tolist() == sorted(p.id for p in made if p.name.startswith("LV"))
    with pytest.raises(DataError, match="needs region EE"):
        official_rows(store, find_official(store, "eurocropsml-lv-ee-5"), store.index())


def test_every_published_split_is_a_protocol(tmp_path: Path) -> None:
    made = make.write(tmp_path / "files")
    store = opened(prepare(tmp_path / "files"))
    ids = store.column("parcel_id")
    names = {p.id: p.name for p in made}

    def listed(rows: np.ndarray) -> set[str]:
        return {names[i] for i in ids[rows]}

    for case, sources in (("lv-ee", ("LV",)), ("lv-pt-ee", ("LV", "PT")), ("ee", ())):
        expected = make.lists(made, sources or ("LV",))
        source = (
            {name for side in expected["pretrain/region_split.json"].values() for name in side} if sources else set()
        )
        for shots in make.SHOTS:
            rows = official_rows(store, find_official(store, f"eurocropsml-{case}-{shots}"), store.index())
            sides = expected[f"finetune/region_split_{shots}.json"]
            assert listed(rows.train) == source | set(sides["train"])
            assert listed(rows.validation) == set(sides["val"])
            assert listed(rows.test) == set(sides["test"])
    assert len(official_protocols(store)) == 24


def test_empty_dates_are_left_out_and_dates_are_put_in_order(tmp_path: Path) -> None:
    made = make.write(tmp_path / "files", count=4)
    data = made[0].data.copy()
    data[1] = -999
    made[0] = replace(made[0], data=data[::-1], dates=made[0].dates[::-1])
    made[1] = replace(made[1], data=np.full_like(made[1].data, -999))
    make.write_preprocess(tmp_path / "files", made)
    report = Heard()
    prepared = prepare(tmp_path / "files", report=report)
    series = opened(prepared).read()
    row = series.parcel_id.tolist().index(made[0].id)
    kept = np.delete(np.sort(made[0].dates), 1)
    np.testing.assert_array_equal(series.day[row, : len(kept)].astype("datetime64[D]"), kept)
    np.testing.assert_allclose(series.values[row, 0], data[0] / 10_000, rtol=1e-6)
    assert prepared.dropped["no observation"].first == [made[1].id]
    assert prepared.rows == len(made) - 1
    assert any("not prepared" in line for line in report.warnings)


def test_codes_outside_the_taxonomy_are_kept_and_told(tmp_path: Path) -> None:
    made = make.write(tmp_path / "files", count=2)
    made[0] = replace(made[0], name=made[0].name.replace(made[0].code, "1234567890"))
    make.write_preprocess(tmp_path / "files", made)
    report = Heard()
    assert "1234567890" in opened(prepare(tmp_path / "files", report=report)).legend.codes
    assert "1 codes are not in HCAT: 1234567890" in report.warnings


def test_an_unpacked_folder_reads_as_its_archive_does(tmp_path: Path) -> None:
    make.write(tmp_path / "files", count=9)
    packed = opened(prepare(tmp_path / "files"))
    expected = packed.fingerprint()
    (tmp_path / "out").rename(tmp_path / "packed")
    for name in ("preprocess", "split"):
        archive = tmp_path / "files" / f"{name}.zip"
        with zipfile.ZipFile(archive) as file:
            file.extractall(tmp_path / "files")
        archive.unlink()
    assert opened(prepare(tmp_path / "files")).fingerprint() == expected


def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after) -> None:
    monkeypatch.setattr(eurocropsml, "_ROWS", 48)
    make.write(tmp_path / "files")
    expected = opened(prepare(tmp_path / "files")).fingerprint()
    (tmp_path / "out").rename(tmp_path / "whole")
    with killed_after(2):
        prepare(tmp_path / "files")
    assert opened(prepare(tmp_path / "files")).fingerprint() == expected
    assert len(Split.load(tmp_path / "out/splits/ee-1.json").train)


def test_damage_is_told(tmp_path: Path) -> None:
    files = tmp_path / "files"
    made = make.write(files, count=3)
    make.write_preprocess(files, [p for p in made if not p.name.startswith("EE")])
    with pytest.raises(DataError, match="no parcel of EE"):
        prepare(files, "EE")
    make.write_preprocess(files, [replace(made[0], data=made[0].data[:, :12])])
    with pytest.raises(SchemaError, match=r"expected data \(T, 13\)"):
        prepare(files)
    with zipfile.ZipFile(files / "preprocess.zip", "w") as archive:
        archive.writestr(f"preprocess/{made[0].name}", make.npz(made[0])[:200])
    with pytest.raises(CorruptInputError, match="no whole npz"):
        prepare(files)
    make.write_preprocess(files, made)
    (files / "split.zip").write_bytes((files / "split.zip").read_bytes()[:100])
    with pytest.raises(CorruptInputError, match=r"split\.zip"):
        prepare(files)
    (files / "split.zip").unlink()
    with pytest.raises(MissingInputError, match=r"split\.zip"):
        prepare(files)
