"""EuroCrops in its published layouts, from a seed: zipped shapefiles (v1), GeoParquet by year and stacked (v2)."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

HCAT4 = """hcat4_code,hcat4_name,seasonality_code,seasonality_name
3310000000,arable_crops,0,NA
3310100000,cereal,0,NA
3310101000,common_soft_wheat,0,NA
3310101001,winter_common_soft_wheat,1,winter
3310106000,maize_corn_popcorn,0,NA
3310604010,rapeseed_rape,0,NA
3310604011,winter_rapeseed_rape,1,winter
3320100000,permanent_grassland,0,NA
3390000000,not_known_and_other,0,NA
"""
EUROCROPS = """nuts,original_code,original_name,translated_name,hcat4_code,hcat4_name,usage_code,usage_name
at,138,WINTERWEICHWEIZEN,WINTER SOFT WHEAT,3310101001,winter_common_soft_wheat,0,No specified use
at,105,KÖRNERMAIS,GRAIN CORN,3310106000,maize_corn_popcorn,6,Harvested as Grains
at,109,SILOMAIS,SILO CORN,3310106000,maize_corn_popcorn,3,Fodder/Forage
at,007,ALMWEIDE,"MOUNTAIN PASTURE, GRAZED",3320100000,permanent_grassland,0,No specified use
at,301,WINTERRAPS,WINTER RAPE,3310604019,black_winter_rape,0,No specified use
at,500,ZWEIFACH,TWICE,3310101001,winter_common_soft_wheat,0,No specified use
at,500,ZWEIFACH,TWICE,3310106000,maize_corn_popcorn,0,No specified use
be2,138,Tarwe,Wheat,3310101000,common_soft_wheat,0,No specified use
"""
MEANS = {"138": "3301010101", "105": "3301010600", "109": "3301090400", "7": "3302000000", "301": "3301060400"}
"""National code of Austria → code of edition 3; 500 is ambiguous, 999 is not in the table."""
V1_CROPS = (
    ("3301010101", "winter_common_soft_wheat", "Wheat winter", "Talinisu", "3301010101"),
    ("3301010403", "summer_barley", "Barley summer", "Suvioder", "3301010402"),
    ("3302000000", "pasture_meadow_grassland_grass", "Meadow", "Rohumaa", "3302000000"),
    (None, "winter_rapeseed_rape", "Rape winter", "Taliraps", "3301060401"),
    (None, None, "Strange thing", "Imelik asi", None),
)
"""EC_hcat_c, EC_hcat_n, EC_trans_n, name in the source's language, and the code of edition 3 that is meant."""


@dataclass(frozen=True)
class Field:
    """A parcel as it is published: outline, and which entry of the crops it carries."""

    outline: shapely.Geometry | None
    crop: int


def fields(seed: int, count: int, origin: tuple[float, float], kinds: int = len(V1_CROPS)) -> list[Field]:
    """Rectangles of 60 to 90 m in rows of ten, 100 m apart."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        x, y = origin[0] + 100.0 * (number % 10), origin[1] + 100.0 * (number // 10)
        made.append(Field(shapely.box(x, y, x + rng.uniform(60, 90), y + rng.uniform(60, 90)), number % kinds))
    return made


def write_v1(
    folder: Path, made: list[Field], name: str = "EE_2021", *, crs: str = "EPSG:3301", inside: str = "EE_2021/"
) -> Path:
    """A zipped shapefile; `inside` is the folder in the archive, which some countries have and others have not."""
    crops = [V1_CROPS[f.crop] for f in made]
    attributes = {
        "pollu_id": [9_000_000 + i for i in range(len(made))], "taotletud_": [c[3] for c in crops],
        "EC_NUTS3": ["EE008"] * len(made), "EC_trans_n": [c[2] for c in crops],
        "EC_hcat_n": [c[1] for c in crops], "EC_hcat_c": [c[0] for c in crops],
    }  # fmt: skip
    frame = gpd.GeoDataFrame(attributes, geometry=[f.outline for f in made], crs=crs)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name}.zip"
    with TemporaryDirectory() as scratch, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        frame.to_file(Path(scratch) / f"{name}_EC21.shp", encoding="UTF-8")
        if inside:
            file.writestr(inside, "")
        for part in sorted(Path(scratch).iterdir()):
            file.write(part, f"{inside}{part.name}")
    return archive


def write_tables(folder: Path) -> None:
    """The tables of version 2 beside its layers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hcat4.csv").write_text(HCAT4, encoding="utf-8")
    (folder / "eurocrops.csv").write_text(EUROCROPS, encoding="utf-8")


def write_v2(folder: Path, made: list[Field], codes: list[str], name: str = "at_2020") -> Path:
    """One year of a region in version 2."""
    write_tables(folder)
    content = {
        "cropfield": np.arange(1, len(made) + 1), "original_code": codes,
        "off_area": pd.Series([None] * len(made), dtype=float), "area_ha": [f.outline.area / 1e4 for f in made],
    }  # fmt: skip
    frame = gpd.GeoDataFrame(content, geometry=[f.outline for f in made], crs="EPSG:3035").rename_geometry("geom")
    frame.to_parquet(folder / f"{name}.parquet", index=False)
    return folder / f"{name}.parquet"


def write_stack(folder: Path, made: list[Field], codes: dict[int, list[str | None]]) -> Path:
    """The stack of a region: for each year the parcel and its crop, null where it was not declared."""
    write_tables(folder)
    content: dict[str, object] = {"cropfield": np.arange(1, len(made) + 1)}
    for year, of_year in codes.items():
        known = [c is not None for c in of_year]
        content[f"cf{year}"] = pd.array([100 + i if k else None for i, k in enumerate(known)], dtype="Int64")
        content[f"c{year}"] = of_year
    content["area_ha"] = [f.outline.area / 1e4 for f in made]
    frame = gpd.GeoDataFrame(content, geometry=[f.outline for f in made], crs="EPSG:3035").rename_geometry("geom")
    frame.to_parquet(folder / "at_stack.parquet", index=False)
    return folder / "at_stack.parquet"
