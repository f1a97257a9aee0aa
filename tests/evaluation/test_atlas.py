"""Maps of the report on layers that are not what most layers are."""

from __future__ import annotations

import geopandas
import pytest

from cropgen.core.errors import SchemaError
from cropgen.evaluation.atlas import make_atlas
from tests.evaluation.test_write_report import CROPS, predictions, run_folder


def test_parcels_that_are_points_are_drawn_as_dots_and_have_no_area(tmp_path):
    layer = geopandas.read_file(predictions(tmp_path / "p.gpkg"), layer="predictions")
    layer.set_geometry(layer.centroid).to_file(tmp_path / "points.gpkg", layer="predictions")
    atlas = make_atlas(tmp_path / "points.gpkg", [], [CROPS])
    assert atlas.hectares is None
    assert [line.hectares for line in atlas.plates[0].key] == [None, None]
    assert atlas.plates[0].svg.count("<use ") == 3
    assert all(f"dots{k}" in atlas.plates[0].svg for k in (0, 1))
    layer[:1].set_geometry(layer.centroid[:1]).to_file(tmp_path / "one.gpkg", layer="predictions")
    assert make_atlas(tmp_path / "one.gpkg", [], [CROPS]).plates[0].svg.count("<use ") == 1


@pytest.mark.parametrize("name", ["crop_name", "probability", "flags", "run_id"])
def test_a_column_that_was_taken_out_is_named(name, tmp_path):
    layer = geopandas.read_file(predictions(tmp_path / "p.gpkg"), layer="predictions")
    layer.drop(columns=f"pred_{name}").to_file(tmp_path / "q.gpkg", layer="predictions")
    with pytest.raises(SchemaError, match=f"holds no column pred_{name}; found"):
        make_atlas(tmp_path / "q.gpkg", [], [])


def test_the_run_that_made_the_predictions_is_looked_up_or_missed(tmp_path):
    run, layer = run_folder(tmp_path), predictions(tmp_path / "p.gpkg")
    found = make_atlas(layer, [], [CROPS], run.path.parent).plates[-1]
    assert found == make_atlas(layer, [run], [CROPS]).plates[-1]
    assert "2 parcels right" in found.caption
    assert "not known" not in found.caption
    for library in (None, tmp_path / "elsewhere"):
        missed = make_atlas(layer, [], [CROPS], library).plates[-1]
        assert "3 parcels right. Which parcels were learnt from is not known here" in missed.caption
    run.labels.unlink()
    assert "is not known here" in make_atlas(layer, [run], [CROPS]).plates[-1].caption
