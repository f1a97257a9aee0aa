"""What an evaluation consists of: its trainings, where each is tested, and what decides its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cropgen.core.errors import UsageError
from cropgen.core.recipe import Contender, EvaluateRecipe
from cropgen.core.run import fingerprint
from cropgen.core.sources import code_fingerprint
from cropgen.evaluation.learn import used_rows
from cropgen.evaluation.official import official_folds
from cropgen.evaluation.protocols import PROTOCOLS, Fold, Ground, TestSet, folds
from cropgen.models.calibration import require_validation
from cropgen.models.catalog import ALIASES, CATALOG, find, load
from cropgen.models.inputs import reads_pixel_sets
from cropgen.series.official import find_official, official_protocols
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore
from cropgen.series.view import SeriesView, with_pixel_sets
from cropgen.training.data import require_site_reader

_DECIDES = ("cropgen.evaluation.cell", "cropgen.evaluation.plan")
_OF_SINGLE_TRAININGS = {"data", "models", "labels", "seeds", "until", "target_unlabelled", "test_share", "parts"}
_ONLY_NAMES = ("cropgen", "cropgen.core.errors", "cropgen.core.progress", "cropgen.models.catalog")


@dataclass(frozen=True)
class Exam:
    """One test of a training.

    Arguments:
        until: the end of the season that is seen; "": all of it.
        cut: the season is cut short at the test only; the training saw all of it.
    """

    test: TestSet
    until: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Training:
    """One training of an evaluation and where it is tested.

    Arguments:
        until: the end of the season that is learnt from; "": all of it.
        cuts: ends of the season it is tested at although it learnt from all of it.
    """

    fold: Fold
    labels: str
    model: Contender
    until: str = ""
    cuts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Model and variant."""
        name = find(self.model.name).name
        return f"{name} ({self.model.variant})" if self.model.variant else name

    @property
    def title(self) -> str:
        """What a progress bar shows."""
        parts = [self.name, f"{self.labels} labels", self.fold.train, f"seed {self.fold.seed}"]
        parts += [f"until {self.until}"] if self.until else []
        parts += ["with unlabelled target"] if self.fold.target is not None else []
        return ", ".join(parts)

    def describe(self) -> dict[str, Any]:
        """What a list of trainings says of it."""
        fold = self.fold
        return {
            "model": find(self.model.name).name, "variant": self.model.variant, "labels": self.labels,
            "seed": fold.seed, "train": fold.train, "until": self.until,
            "target_unlabelled": fold.target is not None,
            "tests": [{"test": exam.test.name, "scope": exam.test.scope, "rows": len(exam.test.rows),
                       "until": exam.until, "cut": exam.cut} for exam in self.exams()],
        }  # fmt: skip

    def exams(self) -> Iterator[Exam]:
        """Every test set at the end that was learnt to, then the held-out ones at each earlier end."""
        for test in self.fold.tests:
            yield Exam(test, self.until)
        for until in self.cuts:
            for test in self.fold.tests:
                if test.scope == "held-out":
                    yield Exam(test, until, cut=True)


def protocol_view(recipe: EvaluateRecipe, store: SeriesStore) -> SeriesStore:
    """The store as the protocol sees it: one of the data set's own may merge classes or leave some out; pixel sets are
    read along where a model looks at them.

    Raises:
        UsageError: the protocol or a model is unknown.
        SchemaError: a model looks at pixel sets and there are none.
    """
    if any(reads_pixel_sets(section.name, section.options) for section in recipe.models):
        store = with_pixel_sets(store)
    if recipe.protocol in PROTOCOLS:
        return store
    try:
        return SeriesView(store, classes=find_official(store, recipe.protocol).legend(store.legend))
    except UsageError as error:
        own = [protocol.name for protocol in official_protocols(store)]
        raise UsageError(error.message, hint=f"{error.hint}; general ones: {', '.join(PROTOCOLS)}"
                         if not own else error.hint) from error  # fmt: skip


def check_recipe(recipe: EvaluateRecipe) -> None:
    """Refuse what cannot be run before anything is read.

    Raises:
        UsageError: a model is unknown, a model, seed, label share or end of the season is named twice or none is, an
            end of the season is none, choices exclude each other, or there is nothing to calibrate on, or no model
            that takes the site covariates.
    """
    names = [(find(section.name).name, section.variant) for section in recipe.models]
    repeated = sorted({name for name, variant in names if names.count((name, variant)) > 1})
    if repeated or not names:
        raise UsageError(
            f"model {repeated[0]} is named twice" if repeated else "no model is named",
            hint="name each model once; aliases count as what they stand for; --vary compares options of one",
        )
    _require_each_once(recipe)
    require_site_reader(recipe.models, recipe.data.site)
    if recipe.protocol in PROTOCOLS:
        for section in recipe.models:
            require_validation(section.calibration, recipe.data.validation_share)
    for until in recipe.until:
        SeasonEnd.parse(until)
    if recipe.protocol == "early-season" and not recipe.until:
        raise UsageError("early-season needs ends of the season", hint="for example --until 90,120,150 or 04-30,06-30")
    if recipe.protocol == "ablation" and len(names) < 2:
        raise UsageError("ablation needs options to compare", hint="for example --vary steps=200,400")
    if recipe.protocol not in PROTOCOLS and (recipe.data.years or recipe.data.regions):
        raise UsageError(
            f"{recipe.protocol} says itself which years and regions are learnt from and tested on",
            hint="leave out --years and --regions",
        )


def _require_each_once(recipe: EvaluateRecipe) -> None:
    """Refuse seeds, label shares and ends of the season that come twice, and none of the first two."""
    for what, values in (("seed", recipe.seeds), ("label share", recipe.labels), ("end of the season", recipe.until)):
        again = [value for place, value in enumerate(values) if value in values[:place]]
        if again or not (values or what == "end of the season"):
            raise UsageError(
                f"{what} {again[0]} is named twice" if again else f"no {what} is named",
                hint=f"name each {what} once: a training counts once in means and intervals",
            )


def plan(recipe: EvaluateRecipe, store: SeriesStore, index: pd.DataFrame) -> Iterator[Training]:
    """Every training of a recipe, seed by seed.

    Arguments:
        store: the store as `protocol_view` gives it.
        index: its index.

    Raises:
        UsageError, DataError: the protocol is unknown or the data cannot support it.
    """
    for seed in recipe.seeds:
        for target in (False, True) if recipe.target_unlabelled else (False,):
            models = [m for m in recipe.models if not target or find(m.name).semi_supervised]
            for fold in _folds(recipe, store, index, seed, target=target):
                for labels in recipe.labels:
                    for until in ("", *recipe.until):
                        cuts = () if until else recipe.until
                        yield from (Training(fold, labels, model, until, cuts) for model in models)


def _folds(
    recipe: EvaluateRecipe, store: SeriesStore, index: pd.DataFrame, seed: int, *, target: bool
) -> Iterable[Fold]:
    if recipe.protocol not in PROTOCOLS:
        protocol = find_official(store, recipe.protocol)
        return official_folds(store, protocol, index, recipe.block_km, seed, target=target)
    used = used_rows(recipe, index)
    ground = Ground(index, used, seed, recipe.test_share, recipe.block_km, recipe.parts, store.legend.names)
    return folds(recipe.protocol, ground, target=target)


class Keys:
    """Names the result of each training by what decides it: data, code, rows, and its part of the recipe.

    The code that counts is every source file that training and scoring reach by import, beginning at
    `cropgen.evaluation.cell` and `cropgen.evaluation.plan`, and at the modules of the model and of the models its
    options name. What only words, summarises or draws the scores does not count, so changing it trains nothing again.
    """

    def __init__(self, recipe: EvaluateRecipe, store: SeriesStore) -> None:
        self._recipe = recipe.model_dump(mode="json", exclude=_OF_SINGLE_TRAININGS)
        self._section = recipe.data.model_dump(mode="json", exclude={"series"})
        self._data = fingerprint(store.fingerprint(), store.legend.to_json())
        self._code: dict[frozenset[str], str] = {}
        self._fold: dict[int, str] = {}

    def key(self, training: Training) -> str:
        fold = self._fold.setdefault(id(training.fold), "") or training.fold.digest()
        self._fold[id(training.fold)] = fold
        modules = frozenset(model_modules(training.model))
        if modules not in self._code:
            self._code[modules] = code_fingerprint([*_DECIDES, *modules], without=_ONLY_NAMES)
        mine = [training.labels, training.model.model_dump(mode="json"), training.until, training.cuts]
        return fingerprint(self._data, self._code[modules], self._recipe, self._section, fold, mine)[:24]


def model_modules(section: Contender) -> set[str]:
    """Modules of a model and of every model that its options name, by an alias too."""
    entry = find(section.name)
    targets = {e.name: f"cropgen.models.{e.target.partition(':')[0]}" for e in CATALOG}
    options = load(entry).Settings.model_validate(section.options).model_dump(mode="json")
    named = (ALIASES.get(text, text) for text in (entry.name, *_texts(options)))
    return {targets[name] for name in named if name in targets}


def _texts(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for value in document.values():
            yield from _texts(value)
    elif isinstance(document, list):
        for value in document:
            yield from _texts(value)
