"""`predict --prior` and `--adapt`, and `--standardise`, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import call


@pytest.mark.slow
def test_shares_are_estimated_and_told(workspace: Path, tmp_path: Path) -> None:
    words = ("predict", workspace / "parcels.gpkg", "--run", "base", "--workspace", workspace)
    ended = call(*words, "--prior", "em", "-o", tmp_path / "em.gpkg", "--json")
    assert ended.code == 0, ended.err
    shares = ended.json()["result"]["shares"]
    assert set(shares) == {"wheat", "maize", "beet"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    table = tmp_path / "shares.csv"
    table.write_text("crop_code,share\n0101,1\n")
    ended = call(*words, "--prior", table, "-o", tmp_path / "only.gpkg")
    assert ended.code == 0, ended.err
    assert "assumed %" in ended.out
    assert "100.0" in ended.out


def test_nothing_is_adapted_to_what_was_learnt_from(workspace: Path, tmp_path: Path) -> None:
    ended = call(
        "predict", workspace / "parcels.gpkg", "--run", "base", "--adapt", "-o", tmp_path / "a.gpkg",
        "--workspace", workspace,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "nothing to adapt to" in ended.err
    assert not list((workspace / "runs").glob("*-adapted-*"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--adapt", "--until", "06-30"), 2, "--adapt and --until exclude each other"),
        (("--prior", "none.csv"), 3, "class shares not found: none.csv"),
    ],
)
def test_choices_that_cannot_be_met(workspace: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str):
    output = tmp_path / "x.gpkg"
    ended = call("predict", workspace / "parcels.gpkg", *words, "-o", output, "--workspace", workspace)
    assert ended.code == code
    assert said in ended.err
    assert not output.exists()


@pytest.mark.slow
def test_standardised_from_training_to_prediction(workspace: Path, tmp_path: Path) -> None:
    trained = call(
        "train", "--model", "tgem", "--standardise", "region-year", "--name", "level", "--workspace", workspace
    )
    assert trained.code == 0, trained.err
    assert (workspace / "runs" / "level" / "standardisation.json").is_file()
    output = tmp_path / "s.gpkg"
    ended = call("predict", workspace / "parcels.gpkg", "--run", "level", "-o", output, "--workspace", workspace)
    assert ended.code == 0, ended.err
    refused = call("train", "--standardise", "year", "--workspace", workspace)
    assert refused.code == 2
    assert "standardise" in refused.err
