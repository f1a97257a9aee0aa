"""Items of three catalogues: which asset is which band, and where its zero lies."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.imagery.catalogs import CATALOGS, find_catalog
from cropgen.imagery.stac import Access, newest, open_items, read_items, write_items
from cropgen.imagery.stac_items import parse_item

SQUARE = {"type": "Polygon", "coordinates": [[[4, 51], [5, 51], [5, 52], [4, 52], [4, 51]]]}


def item(assets: dict, name: str = "S2A_31UFS_20210605_0_L2A", **properties) -> dict:
    return {
        "type": "Feature", "id": name, "geometry": SQUARE,
        "properties": {"datetime": "2021-06-05T10:56:18.024Z", "eo:cloud_cover": 12.5, **properties},
        "assets": {key: {"href": f"https://host.example/{key}.tif", **asset} for key, asset in assets.items()},
    }  # fmt: skip


STATED = {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}


@pytest.mark.parametrize(
    ("facts", "asset", "offset"),
    [
        ({"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": True}, STATED, 0.0),
        ({"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": False}, STATED, -0.1),
        ({"s2:processing_baseline": "03.01", "earthsearch:boa_offset_applied": False}, STATED, 0.0),
        ({"s2:processing_baseline": "05.11"}, STATED, -0.1),
        ({"s2:processing_baseline": "05.11"}, {}, -0.1),
        ({"s2:processing_baseline": "02.12"}, {}, 0.0),
        ({}, {}, 0.0),
        ({"processing:version": "05.11"}, {"raster:scale": 0.0001, "raster:offset": -0.1}, -0.1),
        ({"processing:version": "05.11"}, {"bands": [{"name": "B04", "raster:offset": -0.1}]}, -0.1),
        ({"processing:version": "02.14"}, {"raster:scale": 0.0001, "raster:offset": 0}, 0.0),
    ],
    ids=[
        "earth-search, taken off", "earth-search, not taken off", "earth-search, before 04.00", "collection 1",
        "planetary computer", "planetary computer, before 04.00", "nothing stated", "cdse", "STAC 1.1",
        "cdse, before 04.00",
    ],
)  # fmt: skip
def test_where_zero_lies(facts, asset, offset):
    band = parse_item(item({"B04": asset}, **facts)).assets["B04"]
    assert (band.scale, band.offset, band.nodata) == (1e-4, pytest.approx(offset), 0)


def test_names_of_assets():
    earth_search = parse_item(item({k: {} for k in ("red", "red-jp2", "nir", "nir08", "scl", "visual", "thumbnail")}))
    assert set(earth_search.assets) == {"B04", "B08", "B8A", "SCL"}
    assert earth_search.assets["B04"].address.endswith("/red.tif")
    cdse = parse_item(item({k: {} for k in ("B04_60m", "B04_10m", "B04_20m", "SCL_60m", "SCL_20m", "TCI_10m")}))
    assert {band: a.address.rpartition("/")[2] for band, a in cdse.assets.items()} == {
        "B04": "B04_10m.tif", "SCL": "SCL_20m.tif",
    }  # fmt: skip
    named = parse_item(item({"a1": {"eo:bands": [{"name": "B11"}]}, "rgb": {"eo:bands": [{"name": "B04"}] * 3}}))
    assert set(named.assets) == {"B11"}


def test_facts_of_an_item():
    document = item(
        {"SCL": {"proj:shape": [4, 6], "proj:transform": [20, 0, 600000, 0, -20, 5700000, 0, 0, 1], "file:size": 7}},
        **{"proj:code": "EPSG:32631", "grid:code": "MGRS-1UFS", "s2:processing_baseline": "05.09"},
    )
    parsed = parse_item(document)
    scl = parsed.assets["SCL"]
    assert (parsed.tile, parsed.date, parsed.cloud, parsed.baseline) == ("01UFS", "2021-06-05", 12.5, (5, 9))
    assert (scl.scale, scl.offset, scl.nodata, scl.size) == (1.0, 0.0, None, 7)
    assert scl.grid is not None
    assert scl.grid.bounds == (600000, 5700000 - 80, 600000 + 120, 5700000)
    assert "31N" in scl.grid.crs
    assert parse_item(item({"SCL": {}}, name="S2A_MSIL2A_20210605T105031_N0500_R051_T31UFS_x")).tile == "31UFS"
    assert parse_item(item({"SCL": {}}, name="scene-7")).tile == "tile"


@pytest.mark.parametrize(
    "broken",
    [
        {"id": None},
        {"properties": {}},
        {"assets": {"B04": {}}},
        {"assets": {"B04": {"href": "x", "raster:scale": "?"}}},
    ],
)
def test_broken_items(broken):
    with pytest.raises(SchemaError, match="item"):
        parse_item({**item({"B04": {}}), **broken})


def test_the_newest_processing_of_a_strip_is_kept():
    strip = {"s2:datastrip_id": "S2A_OPER_MSI_L2A_DS_2APS_20230101T000000_S20210605T105050_N{}"}
    documents = []
    for baseline in ("03.00", "05.00"):
        facts = {key: text.format(baseline) for key, text in strip.items()}
        documents.append(item({"B04": {}}, name=f"31UFS {baseline}", **facts, **{"s2:processing_baseline": baseline}))
    documents.append(item({"B04": {}}, name="31UFS other strip"))
    report = Silent()
    assert [i.id for i in newest(map(parse_item, documents), report)] == ["31UFS 05.00", "31UFS other strip"]
    assert report.messages == ["1 items left out: newer or further processings of the same are there"]


def test_level_2a_stands_for_a_granule_that_a_catalogue_holds_in_both_levels():
    documents = [item({"B04": {}, "SCL": {}}, name="31UFS L2A"), item({"B04": {}}, name="31UFS L1C")]
    documents[1]["properties"]["updated"] = "2030-01-01T00:00:00Z"
    assert [i.id for i in newest(map(parse_item, documents), Silent())] == ["31UFS L2A"]


def test_items_on_disk(tmp_path):
    document = item({"B04": {}})
    write_items(tmp_path / "i.json", CATALOGS["cdse"], [document])
    features, access = read_items(tmp_path / "i.json")
    assert features == [document]
    assert access == Access(endpoint="https://eodata.dataspace.copernicus.eu", own_host="stac.dataspace.copernicus.eu")
    foreign = copy.deepcopy(document)
    foreign["links"] = [{"rel": "root", "href": CATALOGS["planetary-computer"].url}]
    (tmp_path / "f.json").write_text(json.dumps({"type": "FeatureCollection", "features": [foreign]}))
    assert read_items(tmp_path / "f.json")[1].tokens == CATALOGS["planetary-computer"].tokens
    (tmp_path / "f.json").write_text("[]")
    with pytest.raises(SchemaError, match="no ItemCollection"):
        read_items(tmp_path / "f.json")
    (tmp_path / "f.json").write_text("{")
    with pytest.raises(CorruptInputError, match=r"f\.json"):
        open_items(tmp_path / "f.json", Silent())
    write_items(tmp_path / "i.json", CATALOGS["cdse"], [item({"thumbnail": {}})])
    with pytest.raises(MissingInputError, match="no Sentinel-2 band"):
        open_items(tmp_path / "i.json", Silent())


def test_catalogues():
    assert find_catalog("earth-search", collection="sentinel-2-c1-l2a").collection == "sentinel-2-c1-l2a"
    assert str(find_catalog("planetary-computer", collection="x").tokens).endswith("/token/x")
    own = find_catalog("https://stac.example.org/v1", endpoint="http://127.0.0.1:1")
    assert (own.name, own.collection, own.endpoint) == ("stac.example.org", None, "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="no catalogue 'earthsearch': expected earth-search"):
        find_catalog("earthsearch")
    assert np.all([catalog.url.startswith("https://") for catalog in CATALOGS.values()])
