"""Recipes: everything that decides a result, as one typed file.

A run folder holds the recipe it was made from, resolved: defaults written out, aliases replaced. The same recipe, data
and code give the same weights.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.files import write_text

RECIPE_SCHEMA = 1


class Section(BaseModel):
    """A table of a recipe: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(Section):
    """Which parcels are learnt from."""

    series: str = Field(description="series store, relative to the workspace or absolute")
    years: tuple[int, ...] = Field((), description="years learnt from; empty: all")
    regions: tuple[str, ...] = Field((), description="regions learnt from; empty: all")
    bands: tuple[str, ...] = Field((), description="input bands, in order; empty: all of the store")
    site: tuple[str, ...] = Field(
        (), description="covariates of the place: lon, lat, or channels that are the same at every date"
    )
    standardise: Literal["none", "region-year"] = Field(
        "none", description="bring every region and year to one level and spread, band by band, without labels"
    )
    calendar: str = Field("auto", description="grid of slots: auto, pentad, dekad, half-month, 16-day or month")
    labels: str = Field("100%", description="labels used: a share (10%, 0.1) or a number per class (50/class)")
    unlabelled_years: tuple[int, ...] = Field((), description="further years whose parcels are used without labels")
    unlabelled_regions: tuple[str, ...] = Field((), description="further regions used without labels")
    max_unlabelled: int = Field(20_000, ge=0, description="unlabelled parcels kept, a seeded sample beyond that")
    reference_share: float = Field(
        0.05, ge=0, lt=0.5, description="share of the parcels that is not learnt from but judges what is usual"
    )
    max_labelled: int = Field(100_000, ge=1, description="labelled parcels kept, a seeded sample beyond that")
    validation_share: float = Field(
        0.0, ge=0, lt=1, description="share of the labelled parcels kept for choices such as when to stop; 0: none"
    )
    validation_block_km: float = Field(1.0, gt=0, description="side of the spatial blocks that are kept whole for it")


class ModelSection(Section):
    """Which model learns."""

    name: str = Field("pool", description="a name of `cropgen models`; aliases are resolved when the run begins")
    options: dict[str, Any] = Field(default_factory=dict, description="options that differ from the model's defaults")
    calibration: Literal["none", "temperature", "dirichlet"] = Field(
        "none", description="how probabilities are corrected on the validation parcels once the model is fitted"
    )


class Contender(ModelSection):
    """A model of an evaluation."""

    variant: str = Field("", description="what tells it from the same model with other options")


class TrainRecipe(Section):
    """A training, whole."""

    recipe: Literal[1] = RECIPE_SCHEMA
    seed: int = Field(0, ge=0, description="every random number derives from it")
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    data: DataSection
    model: ModelSection = ModelSection.model_validate({})

    @classmethod
    def read(cls, path: Path) -> Self:
        return read_toml(cls, path)

    def write(self, path: Path) -> None:
        write_toml(self, path)


class EvaluateRecipe(Section):
    """An evaluation, whole: a protocol over models, label shares and seeds."""

    recipe: Literal[1] = RECIPE_SCHEMA
    protocol: str = Field("holdout", description="what is held out: a general protocol, or one of the data set's own")
    models: tuple[Contender, ...] = Field(description="models compared on the same splits")
    labels: tuple[str, ...] = Field(("100%",), description="label shares")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="each seed draws its own split, labels and weights")
    until: tuple[str, ...] = Field((), description="ends of the season, MM-DD or days after 1 January; empty: whole")
    target_unlabelled: bool = Field(
        False, description="train a second time with the unlabelled parcels of the test year or region"
    )
    prior: Literal["training", "em", "uniform"] = Field(
        "training", description="class shares assumed at the test: em estimates them from the parcels, without labels"
    )
    tune: int = Field(0, ge=0, description="option sets each model may try on validation rows; 0: its defaults")
    parts: int = Field(5, ge=2, description="parts of the protocol blocks")
    test_share: float = Field(0.3, gt=0, lt=1, description="share of the spatial blocks that is held out")
    block_km: float = Field(1.0, gt=0, description="side of the spatial blocks; a block is wholly train or wholly test")
    neighbour_m: float = Field(10.0, ge=0, description="parcels nearer than this are neighbours to the leak checks")
    on_leak: Literal["fail", "drop"] = Field(
        "fail", description="a training with a leak is not run, or its leaking rows are left out"
    )
    data: DataSection

    @classmethod
    def read(cls, path: Path) -> Self:
        return read_toml(cls, path)

    def write(self, path: Path) -> None:
        write_toml(self, path)


_M = TypeVar("_M", bound=BaseModel)


def read_toml(model: type[_M], path: Path) -> _M:
    """Read and check a TOML file.

    Raises:
        MissingInputError: there is no such file.
        UsageError: it is not TOML, or a key is unknown or has a wrong value; the message names the key.
    """
    if not path.is_file():
        raise MissingInputError(f"recipe not found: {path}", hint="a run folder holds one as recipe.toml")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="see recipe.toml of any run folder") from error
    return validate(model, document, where=str(path))


def validate(model: type[_M], document: dict[str, Any], *, where: str) -> _M:
    """Check a document against a pydantic model and turn its complaint into one line.

    Raises:
        UsageError: the first wrong key, what was expected and what was found.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the document"
        allowed = ", ".join(model.model_fields)
        hint = f"known keys: {allowed}" if first["type"] == "extra_forbidden" else f"see the description of {key}"
        raise UsageError(f"{where}: {key}: {first['msg']} (got {first['input']!r})", hint=hint) from error


def write_toml(model: BaseModel, path: Path) -> None:
    """Write a model as TOML, atomically; None is left out because TOML has no such value."""
    import tomli_w

    write_text(path, tomli_w.dumps(model.model_dump(mode="json", exclude_none=True)))
