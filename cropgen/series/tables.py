"""From a table of band values to the container: `import_table`.

The table is read in chunks; only parcel season, day and band values of each observation are kept. Values that mean
missing are removed, an observation that lacks a band is left out, several of one parcel and day are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.files import atomic_output, guard_output
from cropgen.core.progress import Reporter
from cropgen.core.tally import Tally
from cropgen.series.bands import is_reflectance
from cropgen.series.crop_codes import translate
from cropgen.series.gather import Gathered, gather
from cropgen.series.geometry import interior_lonlat, read_parcels, shown
from cropgen.series.legend import Legend
from cropgen.series.mapping import TableMapping
from cropgen.series.observations import Observations, Packed, pack
from cropgen.series.parcel_table import legend_of, merged_classes
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

__all__ = ["ImportReport", "TableMapping", "import_table"]

_SHARD = 20_000
_LARGEST_REFLECTANCE = 2.0
_SMALLEST_REFLECTANCE = -0.5
_LEVEL_2A_SCALE = 1e-4
_NO_YEAR = 0


@dataclass
class ImportReport:
    """What `import_table` did.

    Arguments:
        rows: parcel seasons written.
        years, bands: what they cover.
        layout: long or wide, as stated or recognised.
        observations: clear observations written.
        missing: observations without any value.
        partial: observations left out because they lack some band.
        unclear: observations the clear column rules out.
        implausible: observations left out because a spectral band lies outside −0.5 … 2.
        merged: observations averaged into another of the same parcel and day.
        scale: factor of each band.
        relabelled: ids of parcels with more than one crop in a year; the first is kept.
        without_attributes: ids of rows for which the second table holds nothing, of their year where it has years.
        without_polygon: ids of rows for which the parcel layer holds no polygon.
        crop_of_other_year: ids of rows without a crop whose polygon the layer holds for another year: its crop is not
            theirs.
        dropped: reason → ids or band names left out.
    """

    rows: int = 0
    years: tuple[int, ...] = ()
    bands: tuple[str, ...] = ()
    layout: str = "long"
    observations: int = 0
    missing: int = 0
    partial: int = 0
    unclear: int = 0
    implausible: int = 0
    merged: int = 0
    scale: dict[str, float] = field(default_factory=dict)
    relabelled: list[str] = field(default_factory=list)
    without_attributes: list[str] = field(default_factory=list)
    without_polygon: list[str] = field(default_factory=list)
    crop_of_other_year: list[str] = field(default_factory=list)
    dropped: dict[str, Tally[str]] = field(default_factory=dict)

    def tell(self, report: Reporter) -> None:
        """Say what was decided, and warn of what a user must not miss."""
        report.info(f"read as a {self.layout} table of {', '.join(self.bands)}")
        for factor in sorted({factor for factor in self.scale.values() if factor != 1}):
            report.info(f"multiplied by {factor:g}: {', '.join(b for b, f in self.scale.items() if f == factor)}")
        for reason, items in self.dropped.items():
            report.warn(f"{len(items)} left out: {reason} ({items.told()})")
        if self.partial:
            report.warn(f"{self.partial} observations lack some band and are left out")
        if self.implausible:
            report.warn(f"{self.implausible} observations are no reflectance in some band and are left out")
        if self.merged:
            report.warn(f"{self.merged} repeated observations of a parcel and day were averaged")
        if self.relabelled:
            several = f"{len(self.relabelled)} parcels have several crops in a year; the first is kept"
            report.warn(f"{several} ({shown(self.relabelled)})")
        if self.without_attributes:
            lacking = f"{len(self.without_attributes)} parcels have no attributes, or none of their year"
            report.warn(f"{lacking} ({shown(self.without_attributes)})")
        if self.without_polygon:
            report.warn(f"{len(self.without_polygon)} parcels have no polygon ({shown(self.without_polygon)})")
        if self.crop_of_other_year:
            without = f"{len(self.crop_of_other_year)} parcel seasons have the polygon of another year, not its crop"
            report.warn(f"{without} ({shown(self.crop_of_other_year)})")


def import_table(
    table: Path,
    output: Path,
    mapping: TableMapping,
    parcels: Path | None,
    report: Reporter,
    *,
    overwrite: bool = False,
) -> ImportReport:
    """Read a long or wide table of band values and write the container.

    Arguments:
        table: csv, parquet, geoparquet or xlsx.
        output: the series store to write.
        mapping: which column holds what.
        parcels: polygons, joined by parcel id and year, or by id alone where it means one polygon; crops are taken
            from the layer where the year is theirs too, or the layer has none.

    Raises:
        MissingInputError, CorruptInputError, SchemaError, DataError: an input cannot be used; see the message.
        UsageError: the mapping contradicts itself or the table, or its crop codes are a folder.
        OutputExistsError: `output` exists and `overwrite` is false.
    """
    guard_output(output, overwrite=overwrite)
    if mapping.crop_codes is not None and Path(mapping.crop_codes).is_dir():
        raise UsageError(
            f"--crop-codes {mapping.crop_codes} is a folder of a table per country, and {table.name} states no country",
            hint="name the table of its country, e.g. FOLDER/nl_2020.csv",
        )
    gathered = gather(table, mapping, report)
    result = ImportReport(
        layout=gathered.layout,
        missing=gathered.missing,
        unclear=gathered.unclear,
        relabelled=gathered.relabelled,
        without_attributes=gathered.without_attributes,
    )
    if gathered.nameless:
        result.dropped["rows of the table without an id"] = Tally.of(gathered.nameless)
    observations = _cleaned(gathered, mapping, result)
    seasons = gathered.seasons
    polygons = None if parcels is None else _join_polygons(seasons, parcels, mapping, result, report)
    legend = _legend(seasons, mapping, table, report)
    source = {"kind": "import", "table": table.name, "mapping": mapping.model_dump(mode="json", exclude_none=True)}
    with atomic_output(output) as part:
        store = SeriesStore.create(part, bands=result.bands, legend=legend, source=source)
        for packed in pack(observations, len(seasons), _SHARD):
            shapes = None if polygons is None else polygons.iloc[packed.rows]
            store.append(_series(result.bands, packed, seasons.iloc[packed.rows], legend), shapes)
    result.rows, result.observations = len(seasons), len(observations)
    result.years = tuple(sorted({int(year) for year in seasons["year"]}))
    result.tell(report)
    return result


def _legend(seasons: pd.DataFrame, mapping: TableMapping, table: Path, report: Reporter) -> Legend:
    """The legend of the seasons, whose codes and names are translated and merged as the mapping says."""
    hcat: dict[str, str] = {}
    if mapping.crop_codes is not None or mapping.to == "hcat":
        code, name = seasons["code"].to_numpy(object), seasons["name"].to_numpy(object)
        year = int(seasons["year"].to_numpy().max())
        means = translate(code, name, mapping.crop_codes, country="", year=year, where=str(table))
        for line in means.remarks:
            report.warn(line)
        seasons["code"], seasons["name"], hcat = means.applied(mapping.to)
    if mapping.merge:
        code, name = seasons["code"].to_numpy(object), seasons["name"].to_numpy(object)
        seasons["code"], seasons["name"] = merged_classes(code, name, mapping.merge)
    title = mapping.legend or table.stem
    return legend_of(seasons["code"].to_numpy(str), seasons["name"].to_numpy(str), title, hcat)


def _cleaned(gathered: Gathered, mapping: TableMapping, result: ImportReport) -> Observations:
    """Scaled observations with every band, one per parcel season and day; empty bands are dropped.

    Raises:
        DataError: nothing is left.
    """
    found = gathered.observations
    filled: np.ndarray = np.asarray(np.isfinite(found.values).any(0))
    if not filled.any():
        raise DataError("no observation in the table has a value", hint="check the bands and the nodata values")
    empty = [band for band, some in zip(gathered.bands, filled, strict=True) if not some]
    if empty:
        result.dropped["bands without any value"] = Tally.of(empty)
    result.bands = tuple(band for band, some in zip(gathered.bands, filled, strict=True) if some)
    values = found.values[:, filled]
    result.scale = _scales(mapping, result.bands, values)
    factor = np.asarray([result.scale[band] for band in result.bands], np.float32)
    shift = np.asarray([mapping.offset if is_reflectance(band) else 0.0 for band in result.bands], np.float32)
    whole: np.ndarray = np.asarray(np.isfinite(values).all(1))
    result.partial = int((~whole).sum())
    if not whole.any():
        raise DataError(
            f"no observation has all of {', '.join(result.bands)}",
            hint="name the bands that occur together with --bands",
        )
    complete = Observations(found.row, found.day, values * factor + shift).keep(whole)
    possible = _plausible(complete.values, result.bands)
    result.implausible = int((~possible).sum())
    if not possible.any():
        raise DataError("no value of the table is a reflectance", hint="say how values are stored with --scale")
    merged, result.merged = complete.keep(possible).merged()
    return merged


def _plausible(values: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """(M,) bool: every spectral band lies where a reflectance may lie, sensor and correction errors included."""
    spectral = values[:, [i for i, band in enumerate(bands) if is_reflectance(band)]]
    return np.asarray(((spectral >= _SMALLEST_REFLECTANCE) & (spectral <= _LARGEST_REFLECTANCE)).all(1))


def _scales(mapping: TableMapping, bands: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    """Band → factor: as stated, else 0.0001 for spectral bands whose typical value is no reflectance.

    Raises:
        SchemaError: a factor is stated for a band that is not there.
        UsageError: one factor is stated and no band is spectral.
    """
    if isinstance(mapping.scale, dict):
        unknown = [band for band in mapping.scale if band not in bands]
        if unknown:
            raise SchemaError(f"scale given for {', '.join(unknown)}; the bands are {', '.join(bands)}")
        return {band: mapping.scale.get(band, 1.0) for band in bands}
    if mapping.scale is not None:
        if not any(map(is_reflectance, bands)):
            raise UsageError(
                f"scale {mapping.scale:g} is for spectral bands, and the table has none: its bands are "
                f"{', '.join(bands)}",
                hint=f"give a factor per band in the mapping: scale = {{ {bands[0]} = {mapping.scale:g} }}",
            )
        return {band: mapping.scale if is_reflectance(band) else 1.0 for band in bands}
    spectral = [i for i, band in enumerate(bands) if is_reflectance(band)]
    stored = bool(spectral) and float(np.nanmedian(values[:, spectral])) > _LARGEST_REFLECTANCE
    return {band: _LEVEL_2A_SCALE if stored and is_reflectance(band) else 1.0 for band in bands}


def _join_polygons(
    seasons: pd.DataFrame, parcels: Path, mapping: TableMapping, result: ImportReport, report: Reporter
) -> gpd.GeoSeries:
    """The polygon of each season (None without one); fills code, name, region and place the table left open.

    Code and name are those of the season's year, or of a layer without years. An id that stands for parcels of several
    regions has the polygon of its region.

    Raises:
        DataError: no id of the table is in the layer.
    """
    layer = read_parcels(parcels, mapping.parcels, default_year=_NO_YEAR, report=report)
    result.dropped.update(layer.issues.dropped)
    frame = layer.frame
    position = _season_keys(frame).get_indexer(_season_keys(seasons))
    once = frame.drop_duplicates("parcel_id", keep=False)
    by_id = pd.Index(once["parcel_id"]).get_indexer(pd.Index(seasons["parcel_id"]))
    row_of_once = np.append(once.index.to_numpy(), -1)
    position = np.where(position >= 0, position, row_of_once[by_id])
    region = frame["region"].to_numpy(str)[position]
    doubtful = seasons.duplicated(["parcel_id", "year"], keep=False).to_numpy()
    position = np.where(doubtful & (region != seasons["region"].to_numpy(str)), -1, position)
    has = position >= 0
    if not has.any():
        raise DataError(
            f"no parcel id of the table is in {parcels}: the table has {shown(seasons['parcel_id'].to_numpy())}, "
            f"the layer {shown(frame['parcel_id'].to_numpy())}",
            hint="name the id columns of both: --id-column, and `parcels.id` in the mapping",
        )
    result.without_polygon = seasons["parcel_id"].to_numpy(str)[~has].tolist()
    year = frame["year"].to_numpy()[position]
    same_year = has & ((year == _NO_YEAR) | (year == seasons["year"].to_numpy()))
    lost = has & ~same_year & (seasons["code"].to_numpy(str) == "") & (frame["code"].to_numpy(str)[position] != "")
    result.crop_of_other_year = seasons["parcel_id"].to_numpy(str)[lost].tolist()
    _fill_facts(seasons, frame, position, has, same_year)
    shapes = np.full(len(seasons), None, dtype=object)
    shapes[has] = frame.geometry.to_numpy()[position[has]]
    lon, lat = interior_lonlat(gpd.GeoSeries(shapes[has], crs=frame.crs))
    seasons.loc[has, "lon"], seasons.loc[has, "lat"] = lon, lat
    return gpd.GeoSeries(shapes, crs=frame.crs)


def _season_keys(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([frame["parcel_id"].to_numpy(), frame["year"].to_numpy()])


def _fill_facts(
    seasons: pd.DataFrame, frame: pd.DataFrame, position: np.ndarray, has: np.ndarray, same_year: np.ndarray
) -> None:
    """Take code, name and region from the layer where the table has none; a name only along with its code, and both
    only of the same year."""
    codes = seasons["code"].to_numpy(str).astype(object)
    layer_codes = np.where(same_year, frame["code"].to_numpy()[position], "")
    codes = np.where(codes == "", layer_codes, codes)
    same = same_year & (codes == layer_codes)
    names = seasons["name"].to_numpy(str).astype(object)
    regions = seasons["region"].to_numpy(str).astype(object)
    seasons["code"] = codes
    seasons["name"] = np.where((names == "") & same, frame["name"].to_numpy()[position], names)
    seasons["region"] = np.where((regions == "") & has, frame["region"].to_numpy()[position], regions)


def _series(bands: tuple[str, ...], packed: Packed, seasons: pd.DataFrame, legend: Legend) -> ParcelSeries:
    return ParcelSeries.build(
        bands=bands,
        values=packed.values,
        mask=packed.mask,
        day=packed.day,
        parcel_id=seasons["parcel_id"].to_numpy(str),
        year=seasons["year"].to_numpy(),
        region=seasons["region"].to_numpy(str),
        label=legend.encode(seasons["code"]),
        lon=seasons["lon"].to_numpy(float),
        lat=seasons["lat"].to_numpy(float),
    )
