"""The publisher's package and this reader on the same files: the same numbers, and where the package departs.

Each departure is shown twice: what the package gives, and that this reader gives the truth.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cropgen.core.progress import Silent
from cropgen.datasets.breizhcrops import BreizhCropsOptions, BreizhCropsReader
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.reader import Request
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from tests.data.breizhcrops import make

REGION, YEAR, LEVEL = "frh01", 2017, "L1C"
STEPS = 45
EXPECTED_ORDER = ("B01", "B10", "B11", "B12", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09")


@pytest.fixture(scope="module")
def package() -> Any:
    """The module with the publisher's loader; skips where the package is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("breizhcrops.datasets.breizhcrops")
        except ImportError as error:
            pytest.skip(f"the package breizhcrops is not installed: {error}")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    make.write_tables(folder)
    made = parcels()
    make.write_index(folder, made, REGION, YEAR, LEVEL)
    make.write_h5(folder, made, REGION, YEAR, LEVEL)
    return folder


def parcels() -> list[make.Parcel]:
    return list(make.parcels(5, 40, dates=70))


def usable() -> list[make.Parcel]:
    return [p for p in parcels() if len(p.day) and p.code not in make.UNLISTED]


@pytest.fixture
def theirs(package: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The publisher's loader on the files made here, told that their size is the published one."""

    def load(**options: Any) -> Any:
        size = (files / f"{YEAR}/{LEVEL}/{REGION}.h5").stat().st_size
        monkeypatch.setitem(package.FILESIZES[YEAR][LEVEL], REGION, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return package.BreizhCrops(REGION, root=str(files), year=YEAR, level=LEVEL, **options)

    return load


def ours(files: Path, **options: Any) -> tuple[ParcelSeries, SeriesStore]:
    """This reader on the same files, by default with flagged dates counted as clear, as theirs has it."""
    manifest = find_dataset("breizhcrops")
    request = Request(
        manifest, manifest.select([REGION], [YEAR], LEVEL),
        BreizhCropsOptions.model_validate({"max_flagged": float("inf")} | options), files, files.parent / "out",
        "fingerprint", Silent(),
    )  # fmt: skip
    store = SeriesStore.open(BreizhCropsReader().prepare(request).series or Path())
    return store.read(), store


def test_the_same_numbers_once_its_transforms_are_undone(theirs: Callable[..., Any], files: Path) -> None:
    """Parcels, classes and raw arrays agree; of its 45 steps each is one of ours, in its alphabetical band order."""
    series, store = ours(files)
    raw, drawn = theirs(transform=lambda x: x), theirs()
    assert len(raw) == len(series)
    order = [store.bands.index(name) for name in EXPECTED_ORDER]
    for row in range(len(raw)):
        stored, label, parcel = raw[row]
        dates = len(stored)
        assert (str(parcel), int(label)) == (series.parcel_id[row], series.label[row])
        assert series.mask[row].sum() == dates
        np.testing.assert_allclose(series.values[row, :dates], stored[:, :13] * 1e-4, rtol=1e-6)
        steps = drawn[row][0].numpy()
        mine = series.values[row, :dates][:, order]
        assert steps.shape == (STEPS, 13)
        distance = np.abs(steps[:, None] - mine[None]).max(-1)
        assert (distance.min(1) < 1e-6).all()


def test_it_draws_other_dates_at_every_reading_and_drops_them(theirs: Callable[..., Any], files: Path) -> None:
    """Theirs: 45 random steps, also when a model is tested, and no dates. Ours: all of them, each time the same."""
    drawn = theirs()
    long = next(row for row in range(len(drawn)) if len(usable()[row].day) > STEPS)
    once, again = drawn[long][0].numpy(), drawn[long][0].numpy()
    assert not np.array_equal(once, again)
    assert once.shape[1] == 13
    series, store = ours(files)
    np.testing.assert_array_equal(series.values, store.read().values)
    for row, parcel in enumerate(usable()):
        np.testing.assert_array_equal(series.day[row, : len(parcel.day)], parcel.day)


def test_it_repeats_steps_of_short_series(theirs: Callable[..., Any], files: Path) -> None:
    """Theirs: a series of fewer than 45 dates has some twice. Ours: each once, the rest masked."""
    drawn = theirs()
    short = next(row for row in range(len(drawn)) if len(usable()[row].day) < STEPS)
    steps = drawn[short][0].numpy()
    assert len(np.unique(steps, axis=0)) < STEPS
    series, _ = ours(files)
    assert series.clear_dates[short] == len(usable()[short].day)


def test_it_rewrites_the_index_in_place(theirs: Callable[..., Any], files: Path) -> None:
    """Theirs: the published index has other columns and fewer rows after the first reading. Ours: untouched."""
    index = files / f"{YEAR}/{LEVEL}/{REGION}.csv"
    published = index.read_bytes()
    ours(files)
    assert index.read_bytes() == published
    theirs()
    rewritten = pd.read_csv(index)
    before = published.decode().splitlines()
    assert "meanQA60" in before[0]
    assert "meanQA60" not in rewritten
    assert {"meanCLD", "classid", "classname"} <= set(rewritten)
    assert len(rewritten) < len(before) - 1
    again, _ = ours(files)
    assert again.parcel_id.tolist() == [str(p.id) for p in usable()]


def test_it_uses_clouds_like_clear_sky(theirs: Callable[..., Any], files: Path) -> None:
    """Theirs: QA60 is read and thrown away. Ours: flagged dates are masked."""
    cloudy = next(row for row, p in enumerate(usable()) if (p.flags > 1000).any() and len(p.day) <= STEPS)
    assert theirs()[cloudy][0].shape == (STEPS, 13)
    series, _ = ours(files, max_flagged=0.05)
    assert series.clear_dates[cloudy] == (usable()[cloudy].flags[:, 0] / 1024 <= 0.05).sum()


def test_it_compiles_microseconds_with_pandas_3(package: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs: an h5 file compiled from csv has dates a thousand times smaller. Ours: the same days from all three."""
    expected, _ = ours(files)
    published = files / f"{YEAR}/{LEVEL}/{REGION}.h5"
    published.unlink()
    make.write_csv_folder(files, parcels(), REGION, YEAR, LEVEL)
    from_csv, _ = ours(files)
    monkeypatch.setattr(package.BreizhCrops, "download_csv_files", lambda self: None)
    monkeypatch.setattr(package.BreizhCrops, "write_index", lambda self: setattr(self, "index", _listed(self)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = package.BreizhCrops(
            REGION, root=str(files), year=YEAR, level=LEVEL, recompile_h5_from_csv=True, transform=lambda x: x
        )
    stamp = compiled[0][0][:, -1]
    first = usable()[0].day.astype(np.int64) * 86_400_000_000_000
    factor = 1000 if int(pd.__version__.split(".")[0]) >= 3 else 1
    np.testing.assert_array_equal(stamp.astype(np.int64) * factor, first)
    from_theirs, _ = ours(files)
    for series in (from_csv, from_theirs):
        np.testing.assert_array_equal(series.day, expected.day)
        np.testing.assert_allclose(series.values, expected.values, rtol=1e-6)


def _listed(loader: Any) -> pd.DataFrame:
    """The rows of the published index that have observations."""
    index = pd.read_csv(loader.indexfile)
    return index.loc[index["sequencelength"] > 0]
