"""Real files of some thirty registers: each opens with the right columns, or says in one line what to do."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from cropgen.core.errors import CropgenError, UsageError
from cropgen.core.progress import Silent
from cropgen.series.geometry import ParcelColumns, read_parcels
from cropgen.series.hcat import tree

pytestmark = pytest.mark.real


class Known(NamedTuple):
    """What a file is read as: options, columns, first parcel, and one crop with its HCAT class."""

    file: str
    options: dict[str, Any]
    id_from: str
    label: str | None
    epsg: int
    rows: int
    year: int
    first: str
    crop: str = ""
    hcat: str = ""


FILES = (
    Known("ai4sf/1_vietnam_areas.gpkg", {"year": 2021, "id": "row-number"}, "", None, 32648, 100, 2021, "0"),
    Known("ai4sf/4_cambodia_areas.gpkg", {"year": 2021, "id": "row-number"}, "", None, 32648, 100, 2021, "0"),
    Known("at/inspire_schlaege_2025-1_polygon.gpkg.zip", {}, "GEO_ID", "SNAR_CODE", 31287, 100, 2025, "106806035",
          "110", "winter_barley"),
    Known("at_block/inspire_referenzen_2021_polygon.gpkg.zip", {}, "RFL_ID", "REF_ART", 31287, 100, 2021, "107721939"),
    Known("be_vlg/Landbouwgebruikspercelen_2023_-_Definitief_(extractie_28-03-2024)_GPKG.zip", {}, "REF_ID",
          "GWSCOD_H", 31370, 100, 2023, "487348814", "201", "green_silo_maize"),
    Known("be_wal/LU_ExistingLandUse_SIGEC2022.gml.zip", {}, "localId", "specificLandUse_title", 3035, 10, 2022,
          "9F2DCE264866BC18C1CC6083E8E83A50", "Maïs ensilage", "green_silo_maize"),
    Known("bg/bg_arable_land_2024.zip", {}, "PHBIDENT", "USAGEENG", 32635, 100, 2024, "00151-494"),
    Known("br_ba_lem/LEM_dataset.zip", {"year": 2020, "label": "Feb_2020"}, "id", "Feb_2020", 4326, 100, 2020, "0",
          "Eucalyptus", "eucalyptus"),
    Known("ch/lwb_nutzungsflaechen_v2_0_lv95.gpkg", {}, "nutzungsidentifikator", "lnf_code", 2056, 100, 2023,
          "GE_2023_14917"),
    Known("de_bb/antrag.zip", {}, "", "code", 25833, 100, 2025, "0", "591", "unmaintained"),
    Known("de_sh/Feldbloecke_2026_GPKG.zip", {}, "FLIK", "HBN", 4647, 100, 2026, "DESHLIL080100007"),
    Known("dk/Marker_2026.zip", {}, "Journalnr+Marknr", "Afgkode", 25832, 100, 2026, "26-0023282/1-0", "1",
          "spring_barley"),
    Known("ec_lv/LV_2021.zip", {}, "PARCEL_ID", "EC_hcat_c", 3059, 100, 2021, "12268367", "3301010402",
          "spring_barley"),
    Known("ec_ro/RO_ny.zip", {"year": 2020}, "", "EC_hcat_c", 32635, 100, 2020, "0", "3306000000", "tree_wood_forest"),
    Known("ec_si/SI_2021.zip", {}, "ID", "EC_hcat_c", 3794, 100, 2021, "7010691", "3301010600",
          "grain_maize_corn_popcorn"),
    Known("es_cat/Cultius_DUN2023_GPKG.zip", {}, "", "cultiu", 25831, 100, 2023, "0"),
    Known("fi/LandUse.ExistingLandUse.GSAAAgriculturalParcel.gpkg", {}, "PERUSLOHKOTUNNUS+LOHKONUMERO", "KASVIKOODI",
          3067, 100, 2023, "0040000372/1", "1110", "winter_common_soft_wheat"),
    Known("hr/land_parcels.gpkg", {"year": 2023}, "", "land_use_id", 3765, 100, 2023, "0", "200", "arable_crops"),
    Known("ie/GSAA_2024.zip", {}, "localId", "specificLandUse_title", 4258, 100, 2024,
          "679943CC0D142D9AFD95339A657760BD808CF65DE305799DD79C88B6163A79F8", "Barley - Winter", "winter_barley"),
    Known("india_10k/india_10k.zip", {"year": 2020}, "", None, 4326, 100, 2020, "0"),
    Known("it_1/iti1_2023.parquet", {}, "cropfield", "original_code", 3035, 100, 2023, "945"),
    Known("jecam/BD_JECAM_CIRAD_2023_feb.shp", {}, "Id", "CropType1", 4326, 100, 2015, "8218", "Cotton", "cotton"),
    Known("jp/jp_field_polygons_2024.parquet", {}, "polygon_uuid", "land_type", 6668, 100, 2024,
          "1dba1043-38bb-40da-9e88-eb1ef9beaff4"),
    Known("lt/LT_2024.zip", {}, "field_id", "EC_hcat_c", 3035, 100, 2024, "12141937", "3301010500", "oats"),
    Known("nl/brpgewaspercelen_definitief_2023.gpkg", {}, "", "gewascode", 28992, 100, 2023, "0", "265",
          "pasture_meadow_grassland_grass"),
    Known("nl_block/referentiepercelen.gpkg", {"year": 2023}, "", None, 28992, 100, 2023, "0"),
    Known("nz/irrigated-land-area-raw-2020-update.zip", {}, "", None, 2193, 100, 2020, "0"),
    Known("pt/Continente.gpkg", {"year": 2021}, "CUL_ID", "CUL_CODIGO", 3763, 100, 2021, "305571", "006",
          "grain_maize_corn_popcorn"),
    Known("se/se2023.zip", {}, "blockid+skiftesbet", "grdkod_mar", 3006, 10, 2023, "61373406277/1A", "20",
          "winter_rapeseed_rape"),
    Known("us_ca_scm/i15_crop_mapping_2023_provisional_20241127.gdb.zip", {}, "UniqueID", "MAIN_CROP", 4269, 100, 2023,
          "4900289"),
    Known("us_usda_cropland/NationalCSB_2017-2024_rev23.zip", {"year": 2024}, "CSBID", "CDL2024", 5070, 100, 2024,
          "351724000000001"),
)  # fmt: skip

UNDATED = (
    "ai4sf/1_vietnam_areas.gpkg", "ai4sf/4_cambodia_areas.gpkg", "br_ba_lem/LEM_dataset.zip", "ec_ro/RO_ny.zip",
    "hr/land_parcels.gpkg", "india_10k/india_10k.zip", "nl_block/referentiepercelen.gpkg", "pt/Continente.gpkg",
    "us_usda_cropland/NationalCSB_2017-2024_rev23.zip",
)  # fmt: skip


@pytest.fixture(scope="module")
def parcels(shared_data):
    folder = shared_data / "fiboa-parcels"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.mark.parametrize("known", FILES, ids=lambda k: k.file.partition("/")[0] + "-" + k.file[-12:])
def test_a_register_opens(parcels, known):
    report = Silent()
    options = ParcelColumns(**known.options, crop_codes=str(parcels.parent / "crop-code-tables"))
    if not known.hcat:
        with pytest.raises(UsageError, match="no crop has an HCAT code"):
            read_parcels(parcels / known.file, options)
        options = ParcelColumns(**known.options)
    found = read_parcels(parcels / known.file, options, report=report)
    frame = found.frame
    assert len(frame) == known.rows
    assert frame.crs.to_epsg() == known.epsg
    assert set(frame["year"]) == {known.year}
    assert frame["parcel_id"].iloc[0] == known.first
    assert frame["parcel_id"].is_unique
    assert not frame.geometry.has_z.any()
    assert bool(frame.geometry.is_valid.all())
    told = report.messages[0]
    assert f"id from {known.id_from.replace('+', '/') or 'the row number'}" in told
    assert (f"crop code from {known.label}," in told + ",") if known.label else ("crop code" not in told)
    if known.hcat:
        named = {crop.code: tree()[crop.hcat].name for crop in found.legend("x").classes if crop.hcat}
        assert named[known.crop] == known.hcat


@pytest.mark.parametrize("file", UNDATED)
def test_a_register_without_a_year_says_what_to_do(parcels, file):
    with pytest.raises(UsageError) as caught:
        read_parcels(parcels / file, ParcelColumns())
    assert "year" in caught.value.message
    assert "\n" not in caught.value.message
    assert "--year" in (caught.value.hint or "")


def test_no_file_is_left_out(parcels):
    beside = {".md", ".txt", ".dbf", ".shx", ".prj"}
    there = {f.relative_to(parcels).as_posix() for f in parcels.rglob("*") if f.is_file() and f.suffix not in beside}
    assert there == {known.file for known in FILES}


def test_an_id_shared_by_all_names_the_way_out(parcels):
    with pytest.raises(CropgenError, match="99 rows repeat a parcel id") as caught:
        read_parcels(parcels / FILES[0].file, ParcelColumns(year=2021))
    assert "--id-column" in (caught.value.hint or "")
