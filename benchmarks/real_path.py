"""Does the whole path work on real input: tables and scenes in, trained models, a GeoPackage of crops out?

    python benchmarks/real_path.py --data ../shared/data

Fergana (polygons with NDVI, 2015–2018): import → train → evaluate cross-year → predict the polygons of 2018.
Bavaria (301 polygons, Sentinel-2 means of 2018): import → train → predict.
Flanders (two Sentinel-2 stacks with scene classes): polygonise the crop raster → aggregate → train → predict.

Each prediction is compared with its input: rows, ids, coordinate system, geometry byte for byte, and a second run byte
for byte. Writes `results/real_path.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from cropgen import api
from cropgen.core.files import sha256_file
from cropgen.core.paths import Workspace

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "real_path.json"
PREDICTED_BY = "dvae"


def fergana(root: Path, workspace: Workspace, models: Sequence[str]) -> dict[str, Any]:
    """Import the polygons with their NDVI, train every model, evaluate across years, predict 2018."""
    mapping = {
        "layout": "wide", "pattern": "{doy}", "bands": {"NDVI": "NDVI"}, "label": "label_1", "region": "region",
        "attributes": str(root / "DERIVED_attributes_from_rds.csv"), "merge": {"wheat*": "wheat"}, "year": "year",
    }  # fmt: skip
    made = api.import_table(
        workspace, root / "CAWa_CropType_time-series.csv", parcels=root / "CAWa_CropType_samples.shp",
        options=mapping, name="fergana",
    )  # fmt: skip
    choice = {"series": made.series, "regions": ("Fergana",)}
    report: dict[str, Any] = {"rows": made.rows, "years": list(made.years), "trained": {}}
    for model in models:
        for labels in ("10%", "100%"):
            name = f"fergana-{model}-{labels.rstrip('%')}"
            request = api.TrainRequest(model=model, labels=labels, years=(2015, 2016), name=name, **choice)
            done = api.train(workspace, request)
            report["trained"][f"{model} {labels}"] = {"labelled": done.labelled, "seconds": round(done.seconds, 1)}
    request = api.EvaluateRequest(
        "cross-year", ("rf", "tgem"), ("100%",), (0,), years=(2015, 2016, 2017, 2018), block_km=2.0, **choice
    )
    scored = api.evaluate(workspace, request).summary
    keep = ("model", "train", "test", "macro_f1", "accuracy")
    report["cross-year"] = [{key: row[key] for key in keep} for row in scored]
    attributes = pd.read_csv(root / "DERIVED_attributes_from_rds.csv")
    polygons = gpd.read_file(root / "CAWa_CropType_samples.shp")
    chosen = ((attributes["region"] == "Fergana") & (attributes["year"] == 2018)).to_numpy()
    layer = polygons[chosen].drop(columns="geometry").assign(field=[str(i) for i in chosen.nonzero()[0]])
    parcels = gpd.GeoDataFrame(layer, geometry=polygons.geometry[chosen], crs=polygons.crs)
    report["predicted"] = predicted(
        workspace, parcels, "fergana-2018", f"fergana-{PREDICTED_BY}-100", made.series, 2018
    )
    return report


def bavaria(root: Path, workspace: Workspace) -> dict[str, Any]:
    """Import the long table with its polygons, train, predict the polygons."""
    made = api.import_table(
        workspace, root / "Test_bavaria.xlsx", parcels=root / "Test_area.shp", options={"id": "id"}, name="bavaria"
    )
    api.train(workspace, api.TrainRequest(made.series, "tgem", "100%", name="bavaria"))
    parcels = gpd.read_file(root / "Test_area.shp")
    parcels["id"] = [str(row) for row in range(len(parcels))]
    return {"rows": made.rows, "bands": list(made.bands), "crops": made.classes,
            "predicted": predicted(workspace, parcels, "bavaria", "bavaria", made.series, 2018)}  # fmt: skip


def flanders(root: Path, workspace: Workspace) -> dict[str, Any]:
    """Aggregate two stacks over their parcels, train on one, predict it."""
    import readers

    report: dict[str, Any] = {}
    for patch in sorted((root / "patches").iterdir())[:2]:
        parcels = readers.patch_parcels(patch)
        layer = workspace.root / f"{patch.name}.gpkg"
        parcels.to_file(layer)
        made = api.aggregate(workspace, patch, [layer], name=patch.name)
        content = api.info(workspace, made.series).content
        report[patch.name] = {
            "rows": made.rows, "bands": list(made.bands), "clear_dates": content["clear_dates"]["quantiles"],
            "left_out": {reason: len(ids) for reason, ids in made.dropped.items()},
        }  # fmt: skip
        api.train(workspace, api.TrainRequest(made.series, "tgem", "100%", name=patch.name))
        year = int(parcels["year"].iloc[0])
        report[patch.name]["predicted"] = predicted(workspace, parcels, patch.name, patch.name, made.series, year)
    return report


def predicted(
    workspace: Workspace, parcels: gpd.GeoDataFrame, name: str, run: str, series: Path, year: int
) -> dict[str, Any]:
    """Predict a layer twice and compare the output with the input and with itself."""
    layer = workspace.root / f"{name}-parcels.gpkg"
    parcels.to_file(layer)
    key = next(c for c in ("field", "id", "parcel_id") if c in parcels.columns)
    outputs = [workspace.predictions / f"{name}-{turn}.gpkg" for turn in (1, 2)]
    for output in outputs:
        request = api.PredictRequest(layer, Path(run), series=series, output=output, year=year, id_column=key)
        done = api.predict(workspace, request)
    given, got = gpd.read_file(layer), gpd.read_file(outputs[0], layer="predictions")
    return {
        "run": run, "features": len(got), "flags": done.flags,
        "rows equal": len(given) == len(got), "ids equal": given[key].equals(got[key]),
        "crs equal": given.crs == got.crs,
        "geometry equal": given.geometry.to_wkb().equals(got.geometry.to_wkb()),
        "second run identical": sha256_file(outputs[0]) == sha256_file(outputs[1]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch))
        document = {
            "command": "python benchmarks/real_path.py",
            "fergana": fergana(
                options.data / "central-asia-crops", workspace, ("dvae", "flow", "vae", "rf", "tempcnn", "pool")
            ),
            "bavaria": bavaria(options.data / "worldcrops-bavaria", workspace),
            "flanders": flanders(options.data / "worldcereal-classification", workspace),
        }
    document["seconds"] = round(time.monotonic() - began)
    RESULTS.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
