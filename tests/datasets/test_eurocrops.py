"""EuroCrops in its published layouts, against the truth it was generated from."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from cropgen.datasets import eurocrops_layers
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.eurocrops import EuroCropsOptions, EuroCropsReader
from cropgen.datasets.reader import Prepared, Request
from cropgen.series.geometry import ParcelColumns, read_parcels
from tests.data.eurocrops import make

TALLINN = (540_000.0, 6_580_000.0)
VIENNA = (4_790_000.0, 2_800_000.0)


class Heard(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def prepare(
    files: Path, region: str, year: int | None, level: str, report: Silent | None = None, **options: str
) -> Prepared:
    manifest = find_dataset("eurocrops")
    selection = manifest.select([region], [] if year is None else [year], level)
    chosen = EuroCropsOptions.model_validate(options)
    request = Request(
        manifest, selection, chosen, files, files.parent / "out", str((selection, options)), report or Silent()
    )
    return EuroCropsReader().prepare(request)


def read(prepared: Prepared, which: int = 0) -> gpd.GeoDataFrame:
    return gpd.read_parquet(prepared.parcels[which])


@pytest.mark.parametrize("inside", ["", "EE_2021/", "deep/er/"])
def test_a_shapefile_becomes_a_layer_of_parcels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    monkeypatch.setattr(eurocrops_layers, "BATCH", 7)
    made = make.fields(1, 23, TALLINN)
    make.write_v1(tmp_path / "files", made, inside=inside)
    report = Heard()
    prepared = prepare(tmp_path / "files", "EE", 2021, "v1", report)
    assert prepared.series is None
    assert prepared.parcels == (tmp_path / "out/v1/EE_2021.parquet",)
    assert prepared.rows == 23
    frame = read(prepared)
    crops = [make.V1_CROPS[f.crop] for f in made]
    assert frame["parcel_id"].tolist() == [f"EE-{i}" for i in range(23)]
    assert [None if isinstance(c, float) else c for c in frame["crop_code"]] == [c[4] for c in crops]
    assert frame["declared"].tolist() == [c[2] for c in crops]
    assert frame["original"].tolist() == [c[3] for c in crops]
    assert frame["national_id"].tolist() == [str(9_000_000 + i) for i in range(23)]
    assert set(frame["nuts3"]) == {"EE008"}
    assert set(frame["year"]) == {2021}
    assert frame["crop_name"][1] == "spring barley"
    assert frame.crs.to_epsg() == 3301
    np.testing.assert_allclose(frame.geometry.area, [f.outline.area for f in made if f.outline is not None])
    assert report.warnings == ["EE_2021: 4 parcels have no HCAT code: Strange thing (4)"]
    assert not (tmp_path / "out/preparing").exists()


def test_the_layer_is_understood_without_naming_columns(tmp_path: Path) -> None:
    make.write_v1(tmp_path / "files", make.fields(1, 20, TALLINN))
    layer = read_parcels(prepare(tmp_path / "files", "EE", 2021, "v1").parcels[0], ParcelColumns())
    assert layer.frame["code"].tolist()[:2] == ["3301010101", "3301010402"]
    assert layer.frame["name"].tolist()[0] == "winter common soft wheat"
    assert set(layer.frame["year"]) == {2021}
    assert set(layer.frame["region"]) == {"EE"}
    assert layer.legend("x").codes == ("3301010101", "3301010402", "3301060401", "3302000000")


def test_parcels_without_code_or_outline_are_dropped_by_reason(tmp_path: Path) -> None:
    made = make.fields(1, 10, TALLINN)
    made[0] = replace(made[0], outline=None)
    make.write_v1(tmp_path / "files", made)
    kept = prepare(tmp_path / "files", "EE", 2021, "v1")
    assert kept.dropped == {"no outline": Tally.of(["EE-0"])}
    prepared = prepare(tmp_path / "files", "EE", 2021, "v1", unlisted="drop")
    assert prepared.rows == 7
    assert prepared.dropped["no HCAT code"].first == ["EE-4", "EE-9"]


def test_national_codes_of_version_2_become_edition_3(tmp_path: Path) -> None:
    codes = ["138", "105", "109", "7", "301", "500", "999"] * 2
    made = make.fields(2, len(codes), VIENNA)
    make.write_v2(tmp_path / "files/v2", made, codes)
    report = Heard()
    prepared = prepare(tmp_path / "files", "at", 2020, "v2", report)
    frame = read(prepared)
    assert frame["parcel_id"].tolist() == [f"AT-2020-{i}" for i in range(1, len(codes) + 1)]
    assert [None if isinstance(c, float) else c for c in frame["crop_code"]] == [make.MEANS.get(c) for c in codes]
    assert frame["original"].tolist()[1] == "KÖRNERMAIS"
    assert frame["declared"].tolist()[3] == "MOUNTAIN PASTURE, GRAZED"
    assert frame["original_code"].tolist()[3] == "007"
    assert frame["usage"].tolist()[2] == "Fodder/Forage"
    assert frame.crs.to_epsg() == 3035
    assert sorted(report.warnings) == [
        "AT_2020: 2 parcels have an ambiguous code: 500 (2)", "AT_2020: 2 parcels have no HCAT code: 999 (2)",
    ]  # fmt: skip


def test_a_stack_gives_a_layer_per_year_with_lasting_parcels(tmp_path: Path) -> None:
    made = make.fields(3, 6, VIENNA)
    codes: dict[int, list[str | None]] = {
        2019: ["138", "105", None, "7", "301", "138"], 2020: ["105", None, "138", "7", "138", "105"],
    }  # fmt: skip
    make.write_stack(tmp_path / "files/v2-stack", made, codes)
    prepared = prepare(tmp_path / "files", "AT", None, "v2-stack")
    assert [p.name for p in prepared.parcels] == ["AT_2019.parquet", "AT_2020.parquet"]
    assert prepared.rows == 10
    for which, (_year, of_year) in enumerate(codes.items()):
        frame = read(prepared, which)
        expected = {f"AT-{i + 1}": make.MEANS[c] for i, c in enumerate(of_year) if c is not None}
        assert dict(zip(frame["parcel_id"], frame["crop_code"], strict=True)) == expected
    layer = read_parcels(list(prepared.parcels), ParcelColumns())
    assert layer.frame.groupby("parcel_id")["year"].nunique().to_dict()["AT-1"] == 2


def test_finished_layers_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: dict[int, list[str | None]] = {2019: ["138"] * 6, 2020: ["105"] * 6}
    make.write_stack(tmp_path / "files/v2-stack", make.fields(3, 6, VIENNA), codes)
    original, opened = eurocrops_layers._v2_batches, []

    def dies(file, geometry, code, **options):
        opened.append(code)
        if opened == ["c2019", "c2020"]:
            raise KeyboardInterrupt
        return original(file, geometry, code, **options)

    monkeypatch.setattr(eurocrops_layers, "_v2_batches", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "files", "AT", None, "v2-stack")
    assert not (tmp_path / "out/v2-stack/AT_2020.parquet").exists()
    prepared = prepare(tmp_path / "files", "AT", None, "v2-stack")
    assert opened == ["c2019", "c2020", "c2020"]
    assert prepared.rows == 12


def test_damage_is_told(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    with pytest.raises(MissingInputError, match="EE_2021"):
        prepare(files, "EE", 2021, "v1")
    archive = make.write_v1(files, make.fields(1, 5, TALLINN))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptInputError, match="no whole zip"):
        prepare(files, "EE", 2021, "v1")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "nothing")
    with pytest.raises(SchemaError, match="no shapefile"):
        prepare(files, "EE", 2021, "v1")
    make.write_v2(files / "v2", make.fields(2, 2, VIENNA), ["138", "138"], "at_2019").write_bytes(b"PAR1 nothing")
    with pytest.raises(CorruptInputError, match=r"at_2019\.parquet"):
        prepare(files, "AT", 2019, "v2")
    (files / "v2/hcat4.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(SchemaError, match="hcat4_code"):
        prepare(files, "AT", 2019, "v2")


def test_a_layer_without_coordinate_system_is_told(tmp_path: Path) -> None:
    archive = make.write_v1(tmp_path / "files", make.fields(1, 5, TALLINN))
    with zipfile.ZipFile(archive) as file:
        members = {n: file.read(n) for n in file.namelist() if not n.endswith(".prj")}
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with pytest.raises(SchemaError, match="coordinate system"):
        prepare(tmp_path / "files", "EE", 2021, "v1")


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_numbers_of_a_layer_as_text(kind: pa.DataType) -> None:
    column = pa.array(np.asarray([3, 0, -7, 2.5, np.nan, np.inf, 0], kind.to_pandas_dtype()), kind)
    column = pc.if_else(pa.array([True] * 6 + [False]), column, pa.scalar(None, kind))
    assert eurocrops_layers._text(column) == ["3", "0", "-7", "2.5", "", "", ""]
    assert eurocrops_layers._text(pa.array([9_007_199_254.0, 2.1])) == ["9007199254", "2.1"]
    assert eurocrops_layers._text(pa.array([2.1], pa.float32())) == ["2.1"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("archive", "region", "epsg"), [("ec_lv/LV_2021.zip", "LV", 3059), ("ec_si/SI_2021.zip", "SI", 3794)]
)
def test_published_snippets_are_read(tmp_path: Path, shared_data: Path, archive: str, region: str, epsg: int) -> None:
    source = shared_data / "fiboa-parcels" / archive
    if not source.is_file():
        pytest.skip(f"{source.name} is not here")
    (tmp_path / "files").mkdir()
    shutil.copy(source, tmp_path / "files" / f"{region}_2021.zip")
    frame = read(prepare(tmp_path / "files", region, 2021, "v1"))
    assert len(frame) == 100
    assert frame["crop_code"].notna().all()
    assert frame["original"].notna().all()
    assert frame.crs.to_epsg(min_confidence=20) == epsg
    assert isinstance(frame.geometry[0], shapely.Polygon)
