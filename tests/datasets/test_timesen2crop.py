"""TimeSen2Crop in its published layout, against the truth it was generated from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.datasets import timesen2crop
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.reader import NoOptions, Prepared, Request
from cropgen.datasets.timesen2crop import LEGEND, TimeSen2CropReader
from cropgen.series.hcat import tree
from cropgen.series.store import SeriesStore
from tests.data.timesen2crop import make


def prepare(files: Path, regions: tuple[str, ...] = ("33TUN", "33UVP"), years: tuple[int, ...] = ()) -> Prepared:
    manifest = find_dataset("timesen2crop")
    request = Request(
        manifest, manifest.select(regions, years), NoOptions(), files, files.parent / "out", "fingerprint", Silent()
    )
    return TimeSen2CropReader().prepare(request)


def opened(prepared: Prepared) -> SeriesStore:
    assert prepared.series is not None
    return SeriesStore.open(prepared.series)


@pytest.mark.parametrize("form", ["zip", "folder", "inside"])
def test_every_pixel_is_read_with_its_dates_bands_and_flag(tmp_path: Path, form: str) -> None:
    tiles, files = make.make(3), tmp_path / "files"
    written = make.write_zip(files, tiles) if form == "zip" else make.write_folder(files, tiles)
    store = opened(prepare(written if form == "inside" else files))
    series, row = store.read(), 0
    assert store.bands == make.MEANING
    assert len(store) == sum(len(tile.pixels) for tile in tiles)
    for tile in tiles:
        days, dates = tile.dates.astype("datetime64[D]").astype(int), len(tile.dates)
        for (crop, number), pixel in sorted(tile.pixels.items()):
            clear = pixel[:, -1] == 0
            assert series.parcel_id[row] == f"{tile.name}/{crop}/{number}"
            assert (series.label[row], series.region[row]) == (crop, tile.name[-5:])
            assert series.year[row] == (2019 if tile.name.startswith("2019") else 2018)
            np.testing.assert_array_equal(series.day[row, :dates], days)
            np.testing.assert_array_equal(series.mask[row, :dates], clear)
            assert not series.mask[row, dates:].any()
            expected = np.where(clear[:, None], pixel[:, :-1] * 1e-4, 0)
            np.testing.assert_allclose(series.values[row, :dates], expected, rtol=1e-6)
            row += 1
    assert np.isnan(series.lon).all()
    assert [p["name"] for p in store.source["protocols"]] == ["timesen2crop-cross-year"]


def test_only_the_tile_of_two_seasons_has_the_other_year(tmp_path: Path) -> None:
    make.write_zip(tmp_path / "files", make.make(3))
    series = opened(prepare(tmp_path / "files", years=(2019,))).read()
    assert set(series.region) == {"33UVP"}
    assert set(series.year) == {2019}
    assert len(series) == 48
    series = opened(prepare(tmp_path / "files", ("33TUN",), (2018,))).read()
    assert set(series.label) == set(range(16)) - {7}


def test_a_selection_that_was_not_published_is_told(tmp_path: Path) -> None:
    make.write_zip(tmp_path / "files", make.make(3))
    with pytest.raises(DataError, match="no series of 33TUN in 2019"):
        prepare(tmp_path / "files", ("33TUN",), (2019,))
    assert not (tmp_path / "out").exists()


def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after) -> None:
    monkeypatch.setattr(timesen2crop, "_ROWS", 20)
    make.write_zip(tmp_path / "files", make.make(3))
    whole = opened(prepare(tmp_path / "files"))
    expected, fingerprint = whole.read(), whole.fingerprint()
    whole.path.rename(tmp_path / "whole.zarr")
    with killed_after(4):
        prepare(tmp_path / "files")
    again = opened(prepare(tmp_path / "files"))
    np.testing.assert_array_equal(again.read().parcel_id, expected.parcel_id)
    assert again.fingerprint() == fingerprint


def test_legend_has_sixteen_classes_by_folder() -> None:
    assert LEGEND.codes == tuple(str(k) for k in range(16))
    assert len(set(LEGEND.colours)) == 16
    assert [c.code for c in LEGEND.classes if c.hcat not in tree()] == ["15"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("33TUN/2/0.csv", "B02,B03,B04,B05,B06,B07,B8A,B11,B12,Flag\n", "expected the header"),
        ("33TUN/2/0.csv", make.HEADER + "\n" + "1,2,3,4,5,6,7,8,9,0\n" * 4, "expected 5 lines.*got 4"),
        ("33TUN/dates.csv", "acquisition_date\n20180101\n20170101\n20180201\n20180301\n20180401\n", "ascending"),
        ("33TUN/dates.csv", "acquisition_date\n20181301\n", "YYYYMMDD"),
        ("33TUN/16/0.csv", make.HEADER + "\n", "class 16"),
    ],
)  # fmt: skip
def test_another_layout_is_told(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = make.write_folder(tmp_path / "files", make.make(3))
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    with pytest.raises(SchemaError, match=message):
        prepare(tmp_path / "files")


def test_damage_is_told(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    with pytest.raises(MissingInputError, match=r"neither TimeSen2Crop\.zip"):
        prepare(files)
    folder = make.write_folder(files, make.make(3))
    with pytest.raises(MissingInputError, match="no pixel of 32TNT"):
        prepare(files, ("32TNT",))
    (folder / "33TUN/2/0.csv").write_text(make.HEADER + "\n" + "1,2,3,4,five,6,7,8,9,0\n" * 5)
    with pytest.raises(CorruptInputError, match=r"five"):
        prepare(files)
