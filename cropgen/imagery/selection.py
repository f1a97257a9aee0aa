"""Which bands, acquisitions and years an aggregation uses."""

from __future__ import annotations

import re
from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.progress import Reporter
from cropgen.core.tally import MOST
from cropgen.imagery.masks import CLOUD_PROBABILITY, CloudMask
from cropgen.imagery.parcels import box_around
from cropgen.imagery.scene import Acquisition, SceneSource, source_bands
from cropgen.series.bands import LAND_BANDS, SCENE_CLASSIFICATION, order_bands
from cropgen.series.geometry import WGS84
from cropgen.series.parcel_spool import SpooledLayer
from cropgen.series.polygon_file import Polygons


def choose_bands(acquisitions: Sequence[Acquisition], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted bands, each once, or every 10 m and 20 m band that occurs.

    Raises:
        SchemaError: a wanted band, or any band, is missing.
    """
    found = order_bands(source_bands(acquisitions))
    missing = [band for band in wanted if band not in found]
    if missing:
        raise SchemaError(
            f"the scenes lack {', '.join(missing)}; found {', '.join(found)}", hint="choose among the bands found"
        )
    bands = tuple(dict.fromkeys(wanted)) or tuple(band for band in found if band in LAND_BANDS)
    if not bands:
        raise SchemaError(f"no Sentinel-2 band in the scenes; found {', '.join(found)}", hint="name them with --bands")
    return bands


def usable_acquisitions(
    source: SceneSource, bands: tuple[str, ...], mask: CloudMask, report: Reporter
) -> list[Acquisition]:
    """Acquisitions that have every band, and the layers that the mask looks at.

    Raises:
        SchemaError: there is none.
    """
    lacking = [(a, [band for band in bands if band not in a.layers] + mask.lacking(a)) for a in source.acquisitions]
    usable = [a for a, missing in lacking if not missing]
    if not usable:
        first, missing = lacking[0]
        hint = "choose bands that every date has with --bands"
        if SCENE_CLASSIFICATION in missing:
            hint = "add the SCL band, or aggregate without a cloud mask with --clear none"
        elif CLOUD_PROBABILITY in missing:
            hint = "add the band, e.g. MSK_CLDPRB, or leave --cloud-probability out"
        raise SchemaError(
            f"{source.name}: no acquisition has every band; {first.key} lacks {', '.join(missing)}", hint=hint
        )
    for acquisition, missing in lacking:
        if missing:
            report.warn(f"acquisition {acquisition.key} left out: it lacks {', '.join(missing)}")
    return usable


def season_days(year: int, season: tuple[str, str]) -> tuple[int, int]:
    """First and last day, as days since 1970-01-01, of the season that belongs to `year`.

    A season whose first day comes after its last begins in the year before. 02-29 means the last day of February.

    Raises:
        UsageError: a bound is not MM-DD.
    """
    first_year = year - 1 if season[0] > season[1] else year
    return _day(first_year, season[0]), _day(year, season[1])


def _day(year: int, text: str) -> int:
    if not re.fullmatch(r"(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", text):
        raise UsageError(f"season bound {text!r} is not a day of the year", hint="write MM-DD, for example 09-01")
    month, number = (int(part) for part in text.split("-"))
    start = np.datetime64(f"{year}-{month:02d}", "M")
    length = int(((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(int))
    return int(start.astype("datetime64[D]").astype(np.int64)) + min(number, length) - 1


def by_season(
    layer: SpooledLayer, acquisitions: Sequence[Acquisition], season: tuple[str, str]
) -> dict[int, list[Acquisition]]:
    """The acquisitions of each year's season; parcels of years without any are noted as left out.

    Raises:
        DataError: no acquisition lies in the season of any year.
    """
    years = layer.years()
    chosen: dict[int, list[Acquisition]] = {}
    for year in years:
        first, last = season_days(year, season)
        members = [a for a in acquisitions if first <= a.day <= last]
        if members:
            chosen[year] = members
        else:
            left = layer.of_year(year)
            layer.issues.drop(f"no scene in the season of {year}", left.ids(slice(MOST)), len(left))
    if not chosen:
        raise DataError(
            f"no scene lies in the season {season[0]} to {season[1]} of {', '.join(map(str, years))}; "
            f"the scenes span {acquisitions[0].date} to {acquisitions[-1].date}",
            hint="check the year of the parcels (--year), or widen --season",
        )
    return chosen


def only_year(acquisitions: Sequence[Acquisition]) -> int | None:
    """The calendar year of all acquisitions, when they lie in one."""
    years = {int(a.date[:4]) for a in acquisitions}
    return years.pop() if len(years) == 1 else None


def require_overlap(polygons: Polygons, acquisitions: Sequence[Acquisition]) -> None:
    """Check that the box around the parcels meets the box of some scene.

    Raises:
        DataError: it does not; the message gives both boxes in degrees.
    """
    grids = tuple(dict.fromkeys(layer.grid for a in acquisitions for layer in a.layers.values()))
    extent = shapely.box(*polygons.extent())
    for grid in grids:
        box = box_around(grid, polygons.crs)
        if box is None or extent.intersects(shapely.box(*box)):
            return
    here = _degrees(gpd.GeoSeries([extent], crs=polygons.crs))
    scenes = [shapely.box(*grid.bounds) for grid in grids if grid.crs == grids[0].crs]
    there = _degrees(gpd.GeoSeries(scenes, crs=grids[0].crs))
    raise DataError(
        f"parcels and scenes do not overlap: parcels {here}, scenes {there}",
        hint="check the coordinate system of the parcel layer, or give the scenes of this region",
    )


def _degrees(boxes: gpd.GeoSeries) -> str:
    west, south, east, north = boxes.to_crs(WGS84).total_bounds
    return f"lon {west:.3f} to {east:.3f}, lat {south:.3f} to {north:.3f}"
