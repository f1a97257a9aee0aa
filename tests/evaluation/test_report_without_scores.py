from __future__ import annotations

import pytest

from cropgen.evaluation.document import Check, Evaluation, Failure, read_evaluation
from cropgen.evaluation.page import chapter
from cropgen.evaluation.report import write_report
from cropgen.evaluation.tables import area_table
from tests.evaluation.test_write_report import CROPS, Page, detail, evaluation, full, matrix, row

LEAK = Check(
    name="parcel", asks="no parcel is on both sides", passed=False, trainings=2, failed=2, found=7, left_out=0,
    example="parcel p1 in 2021",
)  # fmt: skip
BROKEN = Failure(training="tgem, 100% labels, all, seed 0", message="no way to fit it", hint=None)


def words_of(documents, tmp_path):
    paths = [tmp_path / f"{k}.json" for k in range(len(documents))]
    for path, document in zip(paths, documents, strict=True):
        document.write(path)
        assert read_evaluation(path) == document
    write_report(paths, [], None, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    return " ".join(page.words)


def leaking(protocol="cross-year", until=()) -> Evaluation:
    document = evaluation([], protocol=protocol)
    recipe = document.recipe.model_copy(update={"until": until})
    return document.model_copy(update={"checks": (LEAK,), "failed": (BROKEN,), "recipe": recipe})


@pytest.mark.parametrize("until", [(), ("120",)])
@pytest.mark.parametrize("protocol", ["holdout", "cross-year", "toy-fold1"])
def test_an_evaluation_without_a_score_shows_its_checks_and_failures(protocol, until, tmp_path):
    words = words_of([leaking(protocol, until)], tmp_path)
    for wanted in ("No training on whole seasons has a score", "no parcel is on both sides", "no way to fit it"):
        assert wanted in words
    assert "Can the probabilities be believed?" not in words


def test_it_stands_behind_those_that_have_one(tmp_path):
    words = words_of([leaking(), full("holdout"), full("cross-year")], tmp_path)
    for wanted in ("Side by side", "no parcel is on both sides", "Crop by crop", "of 100"):
        assert wanted in words
    assert words.index("of the labels, one random split") < words.index("No training on whole seasons")


def test_a_model_that_learnt_from_short_seasons_alone_is_drawn_beside_the_others(tmp_path):
    rows = [row("all", "all", model, until=until, protocol="holdout")
            for model, ends in (("tgem", ("90", "120")), ("rf", ("90", "120", ""))) for until in ends]  # fmt: skip
    document = evaluation(rows, protocol="holdout")
    recipe = document.recipe.model_copy(update={"until": ("90", "120")})
    document = document.model_copy(update={"recipe": recipe, "failed": (BROKEN,)})
    part = chapter(document, 0, None)
    assert [style.name for style in part.key] == ["tgem", "rf"]
    assert [entry.name for entry in part.entries] == ["rf"]
    assert len(part.curves) == 1
    assert "no way to fit it" in words_of([document], tmp_path)
    alone = document.model_copy(update={"rows": tuple(rows[:2]), "details": document.details[:2]})
    assert "By the end of the season seen" in words_of([alone], tmp_path)


def test_rows_of_whole_years_alone_are_no_answer(tmp_path):
    rows = [one.model_copy(update={"scope": "all"}) for one in matrix("rf", 0.6, 0.2)]
    assert "No training on whole seasons has a score on held-out parcels" in words_of([evaluation(rows)], tmp_path)


def test_ends_of_the_season_stand_in_the_order_of_the_days():
    rows = [row("all", "all", until=until, protocol="holdout") for until in ("06-30", "90", "-20", "")]
    document = evaluation(rows, protocol="holdout")
    recipe = document.recipe.model_copy(update={"until": ("06-30", "90", "-20")})
    part = chapter(document.model_copy(update={"recipe": recipe}), 0, None)
    assert part.seasons[0].head[3:] == ("day -20", "day 90", "06-30", "whole season")
    (panel,) = part.curves
    assert panel.index("day -20") < panel.index("day 90") < panel.index("06-30")


def test_parcels_of_other_years_of_a_data_set_are_described_too(tmp_path):
    first, second = full("holdout"), full("blocks")
    fewer = second.data | {"years": [2022], "parcel_seasons": 637, "labels_per_year": {"2022": [500, 40, 10]}}
    words = words_of([first, second.model_copy(update={"data": fewer})], tmp_path)
    assert "637 parcel seasons" in words
    assert "1\u202f200 parcel seasons" in words
    assert words_of([first, second], tmp_path).count("parcel seasons,") == 1


def test_an_estimated_share_lies_between_none_and_all():
    """Ten parcels mapped as one crop, of which nine are: 90 % with a standard error of 10 %."""
    share = {"mapped": [1.0, 0.0], "adjusted": [0.9, 0.1], "standard_error": [0.1, 0.1]}
    found = area_table([detail().model_copy(update={"area": share})], CROPS, "rf")
    assert found is not None
    assert [line[2].below for line in found.rows] == ["70.4–100.0", "0.0–29.6"]
