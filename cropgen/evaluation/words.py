"""What the report says in words: protocols, settings, names of models and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cropgen.evaluation.document import Contrast, Evaluation, Row
from cropgen.evaluation.plots import ACCENT, WARM

THIN = "\u202f"
DASH = "–"
PUBLISHED = "breizhcrops:"
WHOLE = "whole season"

_TITLES = {
    "holdout": "Held-out parcels",
    "blocks": "Every block in turn",
    "cross-year": "Across years",
    "cross-region": "Across regions",
    "leave-one-year-out": "A year left out",
    "leave-one-region-out": "A region left out",
    "label-curve": "How many labels it takes",
    "early-season": "How early in the season",
    "out-of-legend": "Crops that were never taught",
    "ablation": "What each choice is worth",
}
_THEN = {
    "holdout": "The models then named the crop of every parcel inside them.",
    "label-curve": "The models learnt from growing shares of the remaining labels, each share inside the next, and "
    "named the crop of every parcel set aside.",
    "early-season": "The models saw the season only up to a day, at the training and at the test, and named the crop "
    "of every parcel set aside. Models that learnt from whole seasons were cut short at the test as well.",
    "out-of-legend": "One crop at a time was taken out of the training altogether. Among the parcels set aside, those "
    "of the missing crop ought to look strange to the model.",
    "ablation": "The models were trained with different choices and named the crop of every parcel set aside.",
}


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, without the sign; a dash for nothing."""
    return DASH if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f}"


def signed(value: float) -> str:
    """A difference of shares in points, with a true minus sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def count(value: float) -> str:
    """A whole number with thin spaces."""
    return f"{value:,.0f}".replace(",", THIN)


def number(value: float | None, digits: int = 2) -> str:
    """A plain number; a dash for nothing."""
    return DASH if value is None or not np.isfinite(value) else f"{value:.{digits}f}".replace("-", "\u2212")


@dataclass(frozen=True)
class Setting:
    """A kind of cell of an evaluation: what the test parcels have in common with the training parcels."""

    name: str
    sentence: str
    colour: str
    holds: Callable[[Row], bool]


def settings_of(protocol: str) -> tuple[Setting, ...]:
    """The settings of a protocol, the easier first."""
    if protocol.startswith("cross-"):
        unit = protocol.removeprefix("cross-")
        return (
            Setting(f"Same {unit}", f"of the {unit} learnt from, in blocks held out", ACCENT,
                    lambda row: row.scope == "held-out" and row.train == row.test),
            Setting(f"Other {unit}", f"of a {unit} never seen with labels", WARM,
                    lambda row: row.scope == "held-out" and row.train != row.test),
        )  # fmt: skip
    if protocol.startswith("leave-one-"):
        unit = protocol.removeprefix("leave-one-").removesuffix("-out")
        sentence, name = f"of a {unit} never seen with labels", f"Left-out {unit}"
    else:
        sentence, name = "of held-out blocks", "Held-out parcels"
        if protocol not in _TITLES:
            sentence, name = "of the published test set", "Published test set"
    return (Setting(name, sentence, ACCENT, lambda row: row.scope == "held-out"),)


def title_of(document: Evaluation) -> str:
    """The heading of a chapter."""
    return _TITLES.get(document.protocol, f"As published: {document.protocol}")


def intro_of(document: Evaluation) -> str:
    """The protocol in words."""
    recipe, protocol = document.recipe, document.protocol
    if protocol not in _TITLES:
        return (
            f"Training and test parcels are those that the data set was published with ({protocol}). They are taken as "
            f"published: neighbours may be on both sides, and seeds draw labels and weights, not the split."
        )
    size = f"{recipe.block_km:g}{THIN}km"
    if protocol == "blocks":
        return (
            f"Square blocks of {size} were dealt into {recipe.parts} parts of about equally many labels. Each part was "
            f"held out once while the models learnt from all others."
        )
    blocks = (
        f"Square blocks of {size} that hold about {100 * recipe.test_share:g}{THIN}% of the labelled parcels were set "
        f"aside before anything was learnt; no parcel of them, in any year, was used for training."
    )
    if protocol.startswith("cross-"):
        unit = protocol.removeprefix("cross-")
        return (
            f"{blocks} Each model learnt from one {unit} and named the crops of the blocks set aside in every {unit}: "
            f"the same parcels in every cell, so the cells of a matrix can be compared."
        )
    if protocol.startswith("leave-one-"):
        unit = protocol.removeprefix("leave-one-").removesuffix("-out")
        return f"{blocks} Each model learnt from all {unit}s but one and named the crops of the blocks set aside there."
    return f"{blocks} {_THEN[protocol]}"


def model_name(model: str, variant: str = "", *, target: bool = False) -> str:
    """A model as tables and plots name it; models as published are told from ours of the same design."""
    name = f"{model.removeprefix(PUBLISHED)}, as published" if model.startswith(PUBLISHED) else model
    name = f"{name} ({variant})" if variant else name
    return f"{name} + target" if target else name


def season(until: str) -> str:
    """The end of a season as a reader says it."""
    if not until:
        return WHOLE
    return f"day {until}" if until.removeprefix("-").isdecimal() else until


def verdict(contrast: Contrast) -> str:
    """What an interval and a permutation test allow to say together."""
    if contrast.p_value >= 0.05:
        return "not told apart"
    if contrast.low > 0:
        return "better"
    return "worse" if contrast.high < 0 else "not told apart"


def contrast_text(contrast: Contrast, unit: str) -> str:
    """What is compared with what.

    Arguments:
        unit: year or region.
    """
    mine = model_name(contrast.model, contrast.variant, target=contrast.target_unlabelled)
    if contrast.what == "shift":
        return f"{mine}: another {unit} against the same {unit}"
    if contrast.what == "target":
        return f"{model_name(contrast.model, contrast.variant)}: with unlabelled parcels of the target against without"
    if contrast.what == "prefix":
        return f"{mine}: learnt from whole seasons against learnt from seasons as short"
    other = model_name(contrast.against, contrast.against_variant, target=contrast.target_unlabelled)
    return f"{mine} against {other}"
