"""evaluation.json: one versioned document per evaluation, and the ledger of the trainings it is made from.

rows        one flat record per model, label share, seed, training set and test set: what tables are made from
details     for each row, in the same order: confusion counts, scores per class, reliability bins, facts
contrasts   paired differences between trainings on the same test parcels, with intervals
tuning      for every training whose options were chosen on validation rows: all that was tried
failed      trainings that did not come to an end, and why; `evaluate --resume` tries them again
checks      what was verified about the rows of every training; one that leaks is not trained and has no row
exhibits    how crops grew against how models draw them, the mistakes that models were surest of, and how dynamical
            models follow a season
provenance  fingerprints, versions and the recipe: what it takes to repeat it
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from cropgen.core.errors import CorruptInputError, OutputExistsError, SchemaError
from cropgen.core.files import atomic_output, remove, require_input, write_text
from cropgen.core.locking import sole_writer
from cropgen.core.recipe import EvaluateRecipe, Section

EVALUATION_SCHEMA = 2
Scope = Literal["held-out", "all"]


class Row(Section):
    """One score sheet.

    `train` and `test` name the years or regions ("all" under hold-out); `scope` says whether the test parcels are those
    of the held-out blocks (comparable between all cells of a matrix) or every parcel of the test year or region.
    `variant` tells the same model with other options apart. `until` is the end of the season that was seen ("": all of
    it); `cut` says that the model learnt from whole seasons and only the test was cut short. `target_unlabelled` says
    that `n_target` unlabelled parcels of the test year or region, none of them tested on, were learnt from.
    `calibration` says how probabilities were corrected on validation parcels; a training that asks for one has a row
    with and one without. `tempered_nll` is the NLL at the one `temperature` that is best on the validation parcels.
    `macro_f1_equal_priors` is what macro-F1 would be if the classes of the test were equally frequent. `aurc` is the
    area under the risk–coverage curve. `bits_per_value` and `crps` judge densities: see `cropgen.metrics.density`.
    `macro_f1` is over the classes that were learnt and are tested, `macro_f1_legend` over all of the legend.
    Intervals are 95 % bootstrap intervals over `interval_unit`.
    """

    data: str
    protocol: str
    train: str
    test: str
    scope: Scope
    labels: str
    seed: int
    model: str
    variant: str = ""
    family: str
    until: str = ""
    cut: bool = False
    target_unlabelled: bool = False
    n_target: int = 0
    n_labelled: int
    n_unlabelled: int
    n_test: int
    n_out_of_legend: int
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    macro_f1_legend: float | None = None
    macro_f1_equal_priors: float
    macro_f1_equal_priors_low: float
    macro_f1_equal_priors_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    interval_unit: Literal["block", "parcel"]
    balanced_accuracy: float
    kappa: float
    calibration: Literal["none", "temperature", "dirichlet"]
    nll: float
    tempered_nll: float | None
    temperature: float | None
    brier: float
    ece: float
    classwise_ece: float
    aurc: float
    bits_per_value: float | None
    crps: float | None
    auroc_out_of_legend: float | None
    aupr_out_of_legend: float | None
    novelty_score: Literal["likelihood", "entropy"] | None
    seconds: float
    predict_seconds: float
    peak_mb: float | None


class Detail(Section):
    """What a row summarises.

    `classes` are positions in the document's legend; `confusion` has the true class in rows; reliability bins are those
    of `cropgen.metrics.calibration.Reliability`; `risk_coverage` gives the share of errors where only the surest share
    of the parcels is answered; `area` gives the share of the test parcels that is mapped as each class, the share
    estimated from their true classes, and its standard error; `facts` are decisions the model took in training.
    """

    classes: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]
    reliability: dict[str, list[float]]
    risk_coverage: dict[str, list[float]]
    area: dict[str, list[float]]
    facts: dict[str, Any]


class Contrast(Section):
    """A paired difference of macro-F1 on the same test parcels, averaged over cells and seeds.

    shift    `model` trained elsewhere, minus itself trained on the test year or region
    model    `model`, minus the first model named
    target   `model` with the unlabelled parcels of the target, minus itself without
    prefix   `model` trained on whole seasons and cut short at the test, minus itself trained on seasons as short

    `variant` and `against_variant` tell the same model with other options apart. The 95 % interval is over
    `interval_unit` and over seeds, of one seed over the former alone; `p_value` is that of a two-sided permutation test
    over the ground, the trainings as they are: only both together tell two models apart.
    """

    what: Literal["shift", "model", "target", "prefix"]
    model: str
    variant: str = ""
    against: str
    against_variant: str = ""
    labels: str
    until: str = ""
    cut: bool = False
    target_unlabelled: bool = False
    difference: float
    low: float
    high: float
    p_value: float
    interval_unit: Literal["block", "parcel"]
    cells: int
    seeds: int


class Check(Section):
    """A check on the rows of one training or, in the document, of all of them.

    `asks` says what must hold; `found` counts the rows it does not hold for, of which `example` is one; `left_out`
    counts those that were taken out of the training before it was checked.
    """

    name: str
    asks: str
    passed: bool
    trainings: int
    failed: int
    found: int
    left_out: int
    example: str | None


class Trial(Section):
    """One option set tried on validation rows; no scores where its training failed."""

    options: dict[str, Any]
    macro_f1: float | None
    nll: float | None
    seconds: float


class Tuning(Section):
    """How the options of one training were chosen: by macro-F1 on `n_validation` rows, then by NLL, then the earlier.

    The first trial has the defaults; without validation rows nothing is tried and the defaults are kept.
    """

    train: str
    labels: str
    seed: int
    model: str
    variant: str
    until: str
    target_unlabelled: bool
    n_validation: int
    trials: tuple[Trial, ...]
    chosen: dict[str, Any]


class Failure(Section):
    """A training that did not come to an end."""

    training: str
    message: str
    hint: str | None


class Phenology(Section):
    """How a crop grew on test parcels and how a model draws it: quartiles (25, 50, 75 %) of `quantity` by slot.

    `day` is the middle of a slot in days after 1 January; None where too few parcels were seen.
    """

    model: str
    variant: str
    train: str
    labels: str
    crop: int
    quantity: str
    parcels: int
    day: tuple[float, ...]
    observed: tuple[tuple[float | None, ...], ...]
    generated: tuple[tuple[float | None, ...], ...]


class Mistake(Section):
    """A test parcel whose crop was taken for another with a high probability, and its clear dates in days after
    1 January; `true` and `predicted` are positions in the document's legend."""

    model: str
    variant: str
    labels: str
    train: str
    test: str
    seed: int
    parcel_id: str
    year: int
    region: str
    true: int
    predicted: int
    probability: float
    quantity: str
    day: tuple[int, ...]
    value: tuple[float, ...]


class Dynamics(Section):
    """How a dynamical model follows test parcels through the season; see `cropgen.evaluation.horizon`.

    By slot, of which `day` is the middle in days after 1 January: root mean square errors in reflectance of what is
    foreseen from all earlier slots and, free running, from the slots up to a warm-up alone; and the mean KL of the
    latent state under the true class, in nats. None where nothing was observed, and for errors up to the warm-up.
    """

    model: str
    variant: str
    train: str
    labels: str
    parcels: int
    day: tuple[float, ...]
    one_step: tuple[float | None, ...]
    free_running: tuple[float | None, ...]
    kl: tuple[float | None, ...]


class Exhibits(Section):
    """What is shown of single crops and parcels, and of the season; see `cropgen.evaluation.exhibits`."""

    phenology: tuple[Phenology, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    dynamics: tuple[Dynamics, ...] = ()


class Evaluation(Section):
    """The document."""

    evaluation: Literal[2] = EVALUATION_SCHEMA
    protocol: str
    recipe: EvaluateRecipe
    legend: dict[str, Any]
    data: dict[str, Any]
    rows: tuple[Row, ...]
    details: tuple[Detail, ...]
    contrasts: tuple[Contrast, ...]
    checks: tuple[Check, ...]
    tuning: tuple[Tuning, ...] = ()
    failed: tuple[Failure, ...] = ()
    exhibits: Exhibits = Exhibits()
    provenance: dict[str, Any]

    def uncalibrated(self) -> Evaluation:
        """The document with the rows of uncorrected probabilities alone."""
        kept = [pair for pair in zip(self.rows, self.details, strict=True) if pair[0].calibration == "none"]
        rows, details = tuple(row for row, _ in kept), tuple(detail for _, detail in kept)
        return self.model_copy(update={"rows": rows, "details": details})

    def write(self, path: Path) -> None:
        """Write the document atomically."""
        write_text(path, self.model_dump_json(indent=1) + "\n")


def read_evaluation(path: Path) -> Evaluation:
    """Read and check a document.

    Raises:
        MissingInputError: there is no such file.
        CorruptInputError: it is not JSON.
        SchemaError: it is not an evaluation of this version.
    """
    return _parse(Evaluation, require_input(path, "evaluation").read_text(encoding="utf-8"), path)


class TrainingRecord(Section):
    """One finished training of an evaluation: its rows and details, and the checks it passed; no rows if it did not."""

    key: str
    rows: tuple[Row, ...]
    details: tuple[Detail, ...]
    checks: tuple[Check, ...]
    tuning: Tuning | None = None


def _parse(model: type[Any], text: str, path: Path) -> Any:
    try:
        return model.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise CorruptInputError(f"{path} is not JSON: {error}", hint="run cropgen evaluate again") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SchemaError(
            f"{path} is not an evaluation of version {EVALUATION_SCHEMA}: {key}: {first['msg']}",
            hint="run cropgen evaluate again with this version of cropgen",
        ) from error


class Ledger:
    """Finished trainings of an evaluation, one JSON and one array file each, named by what decides their result.

    Arguments:
        folder: the folder of evaluation.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document = folder / "evaluation.json"
        self._cells = folder / "cells"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder while trainings are kept in it.

        Raises:
            UsageError: another process is writing it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(self.folder / ".lock", self.folder, "wait for it, or choose another folder with -o"):
            yield

    def begin(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready.

        Raises:
            OutputExistsError: it holds an evaluation or parts of one, and neither keeping nor replacing was asked for.
        """
        if overwrite:
            remove(self._cells)
        elif not resume and (self.document.exists() or self._cells.exists()):
            raise OutputExistsError(
                f"{self.folder} holds an evaluation",
                hint="--resume keeps the trainings that are done, --overwrite starts again, -o chooses another folder",
            )

    def read(self, key: str) -> tuple[TrainingRecord, dict[str, np.ndarray]] | None:
        """A finished training, or None. A file that cannot be read whole counts as not finished."""
        record, arrays = self._cells / f"{key}.json", self._cells / f"{key}.npz"
        if not (record.is_file() and arrays.is_file()):
            return None
        try:
            parsed = _parse(TrainingRecord, record.read_text(encoding="utf-8"), record)
            with arrays.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return parsed, {name: stored[name] for name in stored.files}
        except (CorruptInputError, SchemaError, ValueError, OSError, EOFError, BadZipFile):
            return None

    def write(self, record: TrainingRecord, answers: dict[str, np.ndarray]) -> None:
        """Keep a finished training; the JSON is written last and makes it count."""
        with atomic_output(self._cells / f"{record.key}.npz") as part:
            np.savez(part, allow_pickle=False, **answers)
        write_text(self._cells / f"{record.key}.json", record.model_dump_json(indent=1) + "\n")
