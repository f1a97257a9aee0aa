"""BreizhCrops in its published layout, against the truth it was generated from."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.datasets import breizhcrops
from cropgen.datasets.breizhcrops import BreizhCropsOptions, BreizhCropsReader
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.reader import Prepared, Request
from cropgen.series.hcat import tree
from cropgen.series.store import SeriesStore
from tests.data.breizhcrops import make


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    make.write_tables(folder)
    return folder


def prepare(files: Path, regions: list[str], *, year: int = 2017, level: str = "L1C", **options: object) -> Prepared:
    manifest = find_dataset("breizhcrops")
    request = Request(
        manifest, manifest.select(regions, [year], level), BreizhCropsOptions.model_validate(options), files,
        files.parent / "out", "fingerprint", Silent(),
    )  # fmt: skip
    return BreizhCropsReader().prepare(request)


def generate(files: Path, form: str, *, region: str = "frh01", year: int = 2017, level: str = "L1C", count: int = 40):
    made = list(make.parcels(1, count, year=year, level=level))
    make.write_index(files, made, region, year, level)
    write = {"h5": make.write_h5, "zip": make.write_csv_zip, "folder": make.write_csv_folder}[form]
    write(files, made, region, year, level)
    return made


def usable(made: list[make.Parcel]) -> list[make.Parcel]:
    return [p for p in made if len(p.day) and p.code not in make.UNLISTED]


@pytest.mark.parametrize(
    ("form", "year", "level"),
    [("h5", 2017, "L1C"), ("h5", 2017, "L2A"), ("zip", 2018, "L1C"), ("folder", 2017, "L1C"), ("folder", 2017, "L2A")],
)
def test_every_observation_is_read_with_its_date_bands_and_mask(files: Path, form: str, year: int, level: str) -> None:
    made = usable(generate(files, form, year=year, level=level))
    prepared = prepare(files, ["frh01"], year=year, level=level)
    assert prepared.series is not None
    store = SeriesStore.open(prepared.series)
    series = store.read()
    assert store.bands == make.BANDS[level]
    assert series.parcel_id.tolist() == [str(p.id) for p in made]
    assert set(series.region) == {"frh01"}
    assert set(series.year) == {year}
    least = np.asarray(list(make.FLAGS[level].values()))
    for row, parcel in enumerate(made):
        dates = len(parcel.day)
        clear = (parcel.flags / least).max(1) <= 0.05
        np.testing.assert_array_equal(series.day[row, :dates], parcel.day)
        np.testing.assert_array_equal(series.mask[row], [*clear, *[False] * (series.mask.shape[1] - dates)])
        expected = np.where(clear[:, None], parcel.bands * 1e-4, 0)
        np.testing.assert_allclose(series.values[row, :dates], expected, rtol=1e-6)
        name = next(name for name, codes in make.CLASSES if parcel.code in codes)
        assert store.legend.codes[series.label[row]] == name
    assert store.source["reflectance"] == {"L1C": "top of atmosphere", "L2A": "surface"}[level]


def test_parcels_left_out_are_reported_by_reason(files: Path) -> None:
    made = generate(files, "h5")
    with h5py.File(files / "2017/L1C/frh01.h5", "r+") as file:
        del file[make.series_path(2017, "L1C", "frh01", usable(made)[3].id)]
    prepared = prepare(files, ["frh01"])
    counts = {reason: dropped.count for reason, dropped in prepared.dropped.items()}
    unlisted = [p for p in made if len(p.day) and p.code in make.UNLISTED]
    assert counts == {
        "no observation": sum(not len(p.day) for p in made),
        "crop outside the legend": len(unlisted),
        "no series in the file": 1,
    }
    assert prepared.dropped["no series in the file"].first == [str(usable(made)[3].id)]
    assert prepared.rows == len(usable(made)) - 1


def test_unlisted_crops_can_be_kept_without_a_label(files: Path) -> None:
    made = [p for p in generate(files, "h5") if len(p.day)]
    prepared = prepare(files, ["frh01"], unlisted="keep", max_flagged=float("inf"))
    assert prepared.series is not None
    series = SeriesStore.open(prepared.series).read()
    assert [(x < 0) for x in series.label] == [p.code in make.UNLISTED for p in made]
    assert series.mask.sum() == sum(len(p.day) for p in made)


def test_groupings_come_from_their_files(files: Path) -> None:
    generate(files, "h5", count=80)
    for grouping, codes in (
        ("workshop", ("barley", "wheat", "misc.")),
        ("register", ("BTH", "BTP", "MIE", "MIS", "SPH")),
    ):
        prepared = prepare(files, ["frh01"], classes=grouping)
        assert prepared.series is not None
        legend = SeriesStore.open(prepared.series).legend
        assert legend.codes == codes
        assert len(set(legend.colours)) == len(codes)
    assert legend.names[0] == "Blé tendre d'hiver"
    assert legend.classes[0].hcat == "3301010101"


def test_nine_classes_need_no_file_and_carry_taxonomy_codes(files: Path) -> None:
    (files / "classmapping.csv").unlink()
    generate(files, "h5")
    prepared = prepare(files, ["frh01"])
    assert prepared.series is not None
    legend = SeriesStore.open(prepared.series).legend
    assert legend.codes == tuple(name for name, _ in make.CLASSES)
    assert legend.names[3] == "corn (maïs)"
    assert all(c.hcat in tree() for c in legend.classes)
    (files / "classmapping_icml.csv").unlink()
    with pytest.raises(MissingInputError, match=r"classmapping_icml\.csv"):
        prepare(files, ["frh01"], classes="workshop")


@pytest.mark.parametrize("year", [2017, 2018])
def test_outlines_follow_their_parcels(files: Path, year: int) -> None:
    made = generate(files, "zip", year=year, count=41)
    squares = make.write_outlines(files, made, "frh01", year)
    prepared = prepare(files, ["frh01"], year=year)
    assert prepared.series is not None
    store = SeriesStore.open(prepared.series)
    geometry = store.geometry()
    assert geometry is not None
    expected = dict(zip(squares.index.astype(str), squares.to_numpy(), strict=True))
    for parcel, shape in zip(geometry["parcel_id"].tolist(), geometry.geometry.to_numpy(), strict=True):
        assert shapely.equals(shape, expected[parcel]) if parcel in expected else shape is None
    series = store.read()
    inside = np.isfinite(series.lon)
    assert inside.sum() == geometry.geometry.notna().sum()
    assert ((series.lat[inside] > 47) & (series.lat[inside] < 50)).all()


def test_regions_follow_each_other_and_a_killed_preparation_goes_on(
    files: Path, monkeypatch: pytest.MonkeyPatch, killed_after
) -> None:
    monkeypatch.setattr(breizhcrops, "_ROWS", 8)
    for region in ("frh01", "frh02"):
        generate(files, "h5", region=region)
    whole = prepare(files, ["frh01", "frh02"])
    assert whole.series is not None
    expected = SeriesStore.open(whole.series).read()

    whole.series.rename(files.parent / "whole.zarr")
    with killed_after(6):
        prepare(files, ["frh01", "frh02"])
    again = prepare(files, ["frh01", "frh02"])
    assert again.series is not None
    found = SeriesStore.open(again.series)
    assert again.rows == whole.rows == len(found)
    assert {k: v.count for k, v in again.dropped.items()} == {k: v.count for k, v in whole.dropped.items()}
    np.testing.assert_array_equal(found.read().values, expected.values)
    assert found.fingerprint() == SeriesStore.open(files.parent / "whole.zarr").fingerprint()


@pytest.mark.parametrize("per_day", [86_400, 86_400_000, 86_400_000_000])
def test_dates_are_told_in_any_unit(files: Path, per_day: int) -> None:
    made = usable(generate(files, "h5"))
    make.write_h5(files, made, "frh01", 2017, "L1C", per_day)
    prepared = prepare(files, ["frh01"])
    assert prepared.series is not None
    series = SeriesStore.open(prepared.series).read()
    np.testing.assert_array_equal(series.day[0, : len(made[0].day)], made[0].day)


def test_the_index_is_not_written(files: Path) -> None:
    generate(files, "h5")
    index = files / "2017/L1C/frh01.csv"
    before = index.read_bytes()
    index.chmod(0o400)
    prepare(files, ["frh01"])
    assert index.read_bytes() == before


def test_damage_is_told(files: Path) -> None:
    made = generate(files, "h5")
    h5 = files / "2017/L1C/frh01.h5"
    with pytest.raises(MissingInputError, match=r"index not found.*frh02"):
        prepare(files, ["frh02"])
    whole = h5.read_bytes()
    h5.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptInputError, match="no whole HDF5 file"):
        prepare(files, ["frh01"])
    h5.unlink()
    with pytest.raises(MissingInputError, match="no series of frh01"):
        prepare(files, ["frh01"])
    make.write_h5(files, made, "frh01", 2017, "L1C", per_day=1)
    with pytest.raises(CorruptInputError, match="date of acquisition"):
        prepare(files, ["frh01"])
    with h5py.File(h5, "w") as file:
        for p in made:
            file[make.series_path(2017, "L1C", "frh01", p.id)] = np.zeros((3, 14))
    with pytest.raises(SchemaError, match="expected 17 columns"):
        prepare(files, ["frh01"])


def test_an_index_without_usable_parcels_is_told(files: Path) -> None:
    made = generate(files, "h5")
    make.write_index(files, [p for p in made if not len(p.day)], "frh01", 2017, "L1C")
    with pytest.raises(DataError, match="no parcel"):
        prepare(files, ["frh01"])
    (files / "2017/L1C/frh01.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SchemaError, match="CODE_CULTU"):
        prepare(files, ["frh01"])


def test_csv_of_the_other_level_is_told(files: Path) -> None:
    made = list(make.parcels(1, 10, level="L2A"))
    make.write_index(files, made, "frh01", 2017, "L1C")
    folder = make.write_csv_folder(files, made, "frh01", 2017, "L2A")
    folder.parent.rename(files / "2017/L1C/frh01")
    with pytest.raises(SchemaError, match=r"columns missing in a csv file: B1, .*QA60"):
        prepare(files, ["frh01"])
