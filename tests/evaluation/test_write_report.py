from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import geopandas
import numpy as np
import pandas as pd
import pytest
from shapely.geometry import box

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.core.run import RunFolder, environment
from cropgen.evaluation.atlas import make_atlas, prediction_prefix
from cropgen.evaluation.command import command_line
from cropgen.evaluation.document import Check, Contrast, Detail, Evaluation, Exhibits, Mistake, Phenology, Row
from cropgen.evaluation.figures import merge_reliability
from cropgen.evaluation.page import chapter
from cropgen.evaluation.protocols import PROTOCOLS
from cropgen.evaluation.report import write_report
from cropgen.evaluation.words import count, percent, signed, title_of
from cropgen.series.legend import CropClass, Legend
from tests.evaluation.test_horizon import FOLLOWED

VOID = {"meta", "br", "link", "img", "hr"}
NASTY = 'rye <script>alert("1")</script>'
CROPS = Legend(
    "toy", (CropClass("1", "wheat", "#c9a227"), CropClass("2", NASTY, "#3f7d4e"), CropClass("3", "flax", "#4a78a8"))
)


class Page(HTMLParser):
    """Collects what a page is made of and checks that its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.tags, self.links, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def row(train, test, model="rf", seed=0, macro_f1=0.5, **changes):
    base = {
        "data": "toy", "protocol": "cross-year", "train": train, "test": test, "scope": "held-out", "labels": "100%",
        "seed": seed, "model": model, "family": "classical", "n_labelled": 40, "n_unlabelled": 0, "n_test": 6,
        "n_out_of_legend": 0, "macro_f1": macro_f1, "macro_f1_low": macro_f1 - 0.1, "macro_f1_high": macro_f1 + 0.1,
        "macro_f1_equal_priors": macro_f1, "macro_f1_equal_priors_low": macro_f1 - 0.1,
        "macro_f1_equal_priors_high": macro_f1 + 0.1, "balanced_accuracy": 0.6, "calibration": "none",
        "tempered_nll": None, "temperature": None, "aurc": 0.2, "bits_per_value": None, "crps": None,
        "aupr_out_of_legend": None,
        "accuracy": 0.75, "accuracy_low": 0.7, "accuracy_high": 0.8, "interval_unit": "block", "kappa": 0.5,
        "nll": 0.8, "brier": 0.4, "ece": 0.1, "classwise_ece": 0.05, "auroc_out_of_legend": None,
        "novelty_score": None, "seconds": 1.5, "predict_seconds": 0.1, "peak_mb": 300.0,
    }  # fmt: skip
    return Row(**{**base, **changes})


def detail(confusion=((4, 1), (0, 1)), classes=(0, 1)):
    reliability = {"edge": [0.5, 1.0], "count": [2, 4], "confidence": [0.4, 0.8], "accuracy": [0.5, 1.0]}
    scores = dict.fromkeys(("precision", "recall", "f1"), (0.5, 0.5))
    share = {"mapped": [0.7, 0.3], "adjusted": [0.8, 0.2], "standard_error": [0.1, 0.1]}
    return Detail(
        classes=classes, confusion=confusion, support=(5, 1), reliability=reliability, facts={}, area=share,
        risk_coverage={"coverage": [0.5, 1.0], "risk": [0.1, 0.25]}, **scores,
    )  # fmt: skip


def evaluation(rows, details=None, protocol="cross-year", contrasts=(), models=("rf", "tgem")):
    recipe = EvaluateRecipe(
        protocol=protocol, models=tuple(Contender(name=m) for m in models), seeds=(0, 1),
        data=DataSection(series="data/toy/series.zarr", years=(2021, 2022)),
    )  # fmt: skip
    data = {
        "name": "toy", "parcel_seasons": 1200, "labelled": 1100, "years": [2021, 2022], "regions": [""],
        "bands": ["B04"], "labels_per_year": {"2021": [500, 40, 10], "2022": [500, 40, 10]}, "clear_dates": [3, 9, 14],
    }  # fmt: skip
    return Evaluation(
        protocol=protocol, recipe=recipe, legend=CROPS.to_json(), data=data, rows=tuple(rows),
        details=tuple(details or [detail() for _ in rows]), contrasts=tuple(contrasts), checks=(),
        provenance={"data": "d" * 64, "recipe": "e" * 64, "environment": environment()},
    )  # fmt: skip


def matrix(model, same, other):
    return [row(a, b, model, macro_f1=same if a == b else other) for a in ("2021", "2022") for b in ("2021", "2022")]


@pytest.fixture
def written(tmp_path):
    shift = Contrast(
        what="shift", model="tgem", against="tgem", labels="100%", difference=-0.3, low=-0.4, high=-0.2, cells=2,
        p_value=0.01, interval_unit="block", seeds=2,
    )  # fmt: skip
    document = evaluation([*matrix("rf", 0.6, 0.2), *matrix("tgem", 0.7, 0.4)], contrasts=[shift])
    document.write(tmp_path / "evaluation.json")
    return tmp_path / "evaluation.json"


def predictions(path, crs="EPSG:32633", **columns):
    frame = pd.DataFrame(
        {
            "parcel_id": ["a", "b", "c", "d"], "year": 2022, "crop_code": ["1", "2", "2", None],
            "pred_crop_code": ["1", "1", "2", None], "pred_crop_name": ["wheat", "wheat", NASTY, None],
            "pred_probability": [0.95, 0.6, 0.5, np.nan],
            "pred_flags": ["", "few_dates,unusual", "unusual", "no_series"],
            "pred_run_id": ["r1", "r1", "r1", None],
        }
    ).assign(**columns)  # fmt: skip
    layer = geopandas.GeoDataFrame(frame, geometry=[box(i * 100, 0, i * 100 + 100, 200) for i in range(4)], crs=crs)
    if path.suffix == ".parquet":
        layer.to_parquet(path)
    else:
        layer.to_file(path, layer="predictions")
    return path


def run_folder(tmp_path, *, metrics=True):
    folder = RunFolder(tmp_path / "runs" / "r1")
    folder.path.mkdir(parents=True)
    folder.write_manifest(
        {
            "run": "r1", "model": "tgem", "seed": 3, "status": "done", "seconds": 2.5,
            "data": {"series": "data/toy/series.zarr", "fingerprint": "f" * 64, "labels": "10%",
                     "rows": {"labelled": 40, "labels_available": 400, "unlabelled": 360}},
            "spec": {"bands": ["B04"], "calendar": {"kind": "month", "first": 0, "count": 12},
                     "legend": CROPS.to_json()},
            "facts": {"guard": {"fell_back": True, "nll": 0.123456}}, "environment": environment(),
        }
    )  # fmt: skip
    folder.labels.write_text(json.dumps({"row": [0, 1], "parcel_id": ["a", "b"], "year": [2022, 2021]}))
    if metrics:
        lines = [{"step": s, "loss": 1 / s, "rate": 0.1, "seconds": s} for s in range(10, 100, 10)]
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_page_is_whole_safe_and_reproducible(written, tmp_path):
    run, layer = run_folder(tmp_path), predictions(tmp_path / "p.gpkg")
    for name in ("one.html", "two.html"):
        write_report([written], [run.path], layer, tmp_path / name)
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "two.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "1\u202f100 parcel seasons" in text
    words = " ".join(page.words)
    for wanted in (NASTY, "r1", "tgem", "guard: fell back", "0.1235", "f" * 64, "−30.0", "no series 1"):
        assert wanted in words


def test_every_part_is_optional(written, tmp_path):
    run = run_folder(tmp_path, metrics=False)
    layer = predictions(tmp_path / "p.parquet")
    for evaluations, runs, shown in (([written], [], None), ([], [run.path], None), ([], [], layer)):
        write_report(evaluations, runs, shown, tmp_path / "page.html")
        Page((tmp_path / "page.html").read_text())
    with pytest.raises(MissingInputError, match="nothing to report"):
        write_report([], [], None, tmp_path / "page.html")


def test_a_half_written_line_of_metrics_is_passed_over(tmp_path):
    run, pages = run_folder(tmp_path), [tmp_path / "whole.html", tmp_path / "cut.html"]
    write_report([], [run.path], None, pages[0])
    with run.metrics.open("a") as stream:
        stream.write('{"step": 100, "lo')
    write_report([], [run.path], None, pages[1])
    assert pages[0].read_text() == pages[1].read_text()


def test_a_failed_report_leaves_the_old_page(written, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(MissingInputError):
        write_report([written, tmp_path / "absent.json"], [], None, page)
    assert page.read_text() == "old"


def test_settings_matrices_and_order():
    part = chapter(evaluation([*matrix("rf", 0.6, 0.2), *matrix("tgem", 0.7, 0.4)]), 0, "rf")
    assert [s.name for s in part.settings] == ["Same year", "Other year"]
    assert [e.model for e in part.entries] == ["tgem", "rf"]
    assert part.answer[0].startswith("Same year: tgem scores highest with 70.0")
    assert "lowest is rf with 20.0" in part.answer[1]
    assert part.headline.model == "rf"
    assert [line.macro_f1.value for line in part.entries[0].lines] == pytest.approx([0.7, 0.4])
    assert part.matrices[0].value == ((0.7, 0.4), (0.4, 0.7))
    assert chapter(evaluation(matrix("rf", 0.6, 0.2)), 0, "absent").headline.model == "rf"


def test_seeds_are_averaged_and_other_scopes_left_out():
    rows = [row("2021", "2022", seed=0, macro_f1=0.2), row("2021", "2022", seed=1, macro_f1=0.4),
            row("2021", "2022", macro_f1=0.9, scope="all"), row("2021", "2021", macro_f1=0.6)]  # fmt: skip
    part = chapter(evaluation(rows), 0, None)
    assert part.headline.seeds == 2
    assert part.headline.lines[1].macro_f1.value == pytest.approx(0.3)
    assert part.matrices[0].value[0] == pytest.approx((0.6, 0.3))


def test_confusions_are_summed_in_the_legend():
    rows = [row("2021", "2021"), row("2022", "2022")]
    part = chapter(evaluation(rows, [detail(), detail(classes=(0, 2))]), 0, None)
    (same,) = part.confusions
    assert [c.code for c in same.crops] == ["1", "2", "3"]
    assert same.counts == ((8, 1, 1), (0, 1, 0), (0, 0, 1))
    assert same.shares[0] == pytest.approx((0.8, 0.1, 0.1))
    wheat = part.classes[0]
    assert (wheat.crop.code, wheat.support) == ("1", 10)
    assert (wheat.recall, wheat.precision) == ((0.8, None), (1.0, None))


def test_reliability_tables_are_merged_by_count():
    one = {"edge": [0.5, 1.0], "count": [1, 0], "confidence": [0.2, 0.0], "accuracy": [0.0, 0.0]}
    two = {"edge": [0.5, 1.0], "count": [3, 2], "confidence": [0.4, 0.9], "accuracy": [1.0, 0.5]}
    merged = merge_reliability([one, two])
    assert merged.count.tolist() == [4, 2]
    assert merged.confidence.tolist() == pytest.approx([0.35, 0.9])
    assert merged.accuracy.tolist() == pytest.approx([0.75, 0.5])


def test_the_command_line_names_what_decides():
    recipe = evaluation(matrix("rf", 0.6, 0.2)).recipe
    options = Contender(name="rf", options={"trees": 7})
    document = evaluation(matrix("rf", 0.6, 0.2)).model_copy(
        update={"recipe": recipe.model_copy(update={"models": (options, Contender(name="tgem"))})}
    )
    assert command_line(document.recipe) == (
        "cropgen evaluate --protocol cross-year --model rf,tgem --labels 100% --seeds 0,1 "
        "--data data/toy/series.zarr --years 2021,2022 --test-share 0.3 --block-km 1 --set rf.trees=7"
    )


def test_numbers():
    assert (percent(0.12345), percent(None), percent(float("nan"))) == ("12.3", "–", "–")
    assert (signed(-0.05), signed(0.05)) == ("\u22125.0", "+5.0")
    assert count(1234567) == "1\u202f234\u202f567"


def test_the_map_tells_right_from_wrong_and_from_learnt(tmp_path):
    run = run_folder(tmp_path)
    atlas = make_atlas(predictions(tmp_path / "p.gpkg"), [run], [CROPS])
    assert (atlas.parcels, atlas.predicted, atlas.run_id) == (4, 3, "r1")
    assert atlas.hectares == pytest.approx(6.0)
    crops, confidence, checked = atlas.plates
    assert [(s.name, s.colour, s.parcels, s.hectares) for s in crops.key] == [
        ("wheat", "#c9a227", 2, 4.0), (NASTY, "#3f7d4e", 1, 2.0)]  # fmt: skip
    assert [s.parcels for s in confidence.key] == [0, 2, 0, 1]
    # a was learnt from; b in another year only, and is wrong; c is right; d has no prediction
    assert {s.name: s.parcels for s in checked.key} == {"right": 1, "wrong": 1, "learnt from": 1, "not checked": 1}
    assert "50.0 % of 2 parcels right" in checked.caption
    assert dict(atlas.flags) == {"few_dates": 1, "unusual": 2, "no_series": 1}


def test_labels_of_another_legend_are_no_truth(tmp_path):
    layer = predictions(tmp_path / "p.gpkg", crop_code=["MAI", "BLE", "BLE", "BLE"])
    assert [plate.title for plate in make_atlas(layer, [], []).plates] == ["Predicted crop", "Stated probability"]


def test_without_a_coordinate_system_there_is_a_key_but_no_map(tmp_path):
    (plate,) = make_atlas(predictions(tmp_path / "p.parquet", crs=None), [], [CROPS]).plates
    assert plate.svg == ""
    assert [s.hectares for s in plate.key] == [None, None]


def test_the_newest_prediction_of_a_layer_is_shown():
    assert prediction_prefix(["pred_crop_code", "pred2_crop_code", "x"]) == "pred2_"
    assert prediction_prefix(["pred_crop_code"]) == "pred_"
    assert prediction_prefix(["crop_code"]) is None


def test_files_that_are_no_predictions_are_named(tmp_path):
    layer = geopandas.GeoDataFrame({"a": [1]}, geometry=[box(0, 0, 1, 1)], crs=32633)
    layer.to_file(tmp_path / "p.gpkg", layer="predictions")
    with pytest.raises(SchemaError, match="no column pred_crop_code; found a, geometry"):
        make_atlas(tmp_path / "p.gpkg", [], [])
    (tmp_path / "q.gpkg").write_bytes(b"not a database")
    with pytest.raises(CorruptInputError, match=r"q\.gpkg cannot be read"):
        make_atlas(tmp_path / "q.gpkg", [], [])


EXHIBITS = Exhibits(
    phenology=(
        Phenology(
            model="tgem", variant="", train="2021", labels="100%", crop=0, quantity="NDVI", parcels=9, day=(15, 45, 75),
            observed=((0.1, 0.2, None),) * 3, generated=((0.1, 0.3, 0.2),) * 3,
        ),
    ),
    mistakes=(
        Mistake(
            model="tgem", variant="", labels="100%", train="2021", test="2022", seed=0, parcel_id="field 7", year=2022,
            region="", true=0, predicted=1, probability=0.98, quantity="NDVI", day=(10, 50), value=(0.2, 0.6),
        ),
    ),
    dynamics=(FOLLOWED,),
)  # fmt: skip


def full(protocol):
    """An evaluation that has everything a report can show."""
    names = ("2021", "2022") if protocol.startswith("cross-") else ("all",)
    base = [row(a, b, m, macro_f1=f, protocol=protocol) for a in names for b in names
            for m, f in (("tgem", 0.7), ("breizhcrops:tempcnn", 0.6))]  # fmt: skip
    more = [{"labels": "10%", "n_labelled": 4}, {"until": "120"}, {"until": "120", "cut": True},
            {"calibration": "temperature"}]  # fmt: skip
    rows = base + [r.model_copy(update=change) for change in more for r in base]
    rows = [r.model_copy(update={"auroc_out_of_legend": 0.8, "aupr_out_of_legend": 0.4}) for r in rows]
    lost = Contrast(
        what="model", model="breizhcrops:tempcnn", against="tgem", labels="100%", difference=-0.1, low=-0.2, high=-0.05,
        cells=1, p_value=0.01, interval_unit="block", seeds=1,
    )  # fmt: skip
    check = Check(name="same_parcel", asks="no parcel is on both sides", passed=True, trainings=2, failed=0, found=0,
                  left_out=0, example=None)  # fmt: skip
    document = evaluation(rows, protocol=protocol, contrasts=[lost])
    recipe = document.recipe.model_copy(update={"until": ("120",)})
    return document.model_copy(update={"recipe": recipe, "exhibits": EXHIBITS, "checks": (check,)})


SECTIONS = (
    "Paired differences", "Over ", "By the end of the season seen", "Crop by crop", "What was taken for what",
    "Can the probabilities be believed?", "Answering only where sure", "How much of each crop", "How crops grow",
    "The mistakes it was surest of", "What it costs", "Checks", "With and without calibration",
    "Parcels of crops that were never taught", "As published",
)  # fmt: skip


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "toy-fold1"])
def test_every_protocol_shows_every_part(protocol, tmp_path):
    document = full(protocol)
    document.write(tmp_path / "evaluation.json")
    write_report([tmp_path / "evaluation.json"], [], None, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page, words = Page(text), ""
    words = " ".join(page.words)
    for section in (title_of(document), *SECTIONS):
        assert section in words, section
    assert ("Outlined cells" in words) == protocol.startswith("cross-")
    assert "worse" in words
    assert "−10.0" in words
    assert "tempcnn, as published" in words
    assert "field 7" in words
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r'(?:href|src)="(?!#|data:)', text)
    assert text.count('role="img"') == text.count("<svg ") == text.count("aria-label=") - words.count("aria-label")
    assert len(text) < 1_000_000


def test_any_number_of_evaluations_stand_side_by_side(tmp_path):
    paths = []
    for protocol in ("holdout", "cross-year", "label-curve"):
        paths.append(tmp_path / f"{protocol}.json")
        full(protocol).write(paths[-1])
    write_report(paths, [], None, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    words = " ".join(page.words)
    assert "Side by side" in words
    assert "Every model in every evaluation" in words
    assert {"#evaluation-1", "#evaluation-2", "#evaluation-3"} <= set(page.links)
    assert len(page.ids) == len(set(page.ids))


def test_rows_that_saw_less_do_not_reach_the_scores():
    part = chapter(full("holdout"), 0, None)
    assert {(e.name, e.labels) for e in part.entries} == {
        (name, share) for name in ("tgem", "tempcnn, as published") for share in ("10%", "100%")
    }
    assert all(len(e.rows) == 1 for e in part.entries)
    assert part.headline.labels == "100%"
