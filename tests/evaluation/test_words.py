"""How models are named in tables and plots."""

from __future__ import annotations

import pytest

from cropgen.evaluation.words import model_name


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (("tempcnn", "", False), "tempcnn"),
        (("breizhcrops:tempcnn", "", False), "tempcnn, as published"),
        (("breizhcrops:lstm", "steps=10", True), "lstm, as published (steps=10) + target"),
    ],
)
def test_networks_as_published_are_told_from_ours(asked: tuple[str, str, bool], name: str) -> None:
    model, variant, target = asked
    assert model_name(model, variant, target=target) == name
