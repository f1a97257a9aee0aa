"""`cropgen bench`: a table to paste, a document with --json, and refusals."""

from __future__ import annotations

import pytest
import torch

from cropgen.cli.main import run

from .conftest import call

SMALL = ("--rows", "2", "--steps", "2", "--units", "3", "--latent", "2", "--rounds", "1")


def test_kernels_as_a_table() -> None:
    ended = call("bench", "kernels", "--chain", "rvae", *SMALL)
    assert ended.code == 0, ended.err
    assert "hoisted" in ended.out
    assert "× reference" in ended.out
    assert torch.cuda.is_available() or "triton: not measured" in ended.out


def test_kernels_as_a_document() -> None:
    found = call("bench", "kernels", "--chain", "vrnn", "--json", *SMALL).json()["result"]
    assert found["automatic"] in ("hoisted", "triton")
    assert [row["backend"] for row in found["rows"]][:2] == ["reference", "hoisted"]
    assert all(row["ms"] > 0 and row["gradient_error"] < 1e-2 for row in found["rows"])


def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((("--chain", "lstm"), 2), (("--rows", "0"), 2), (("--device", "abacus"), 2),
                        (("--device", "cuda:99"), 5)):  # fmt: skip
        assert run(["bench", "kernels", *words]) == code
        assert "hint: " in capsys.readouterr().err
