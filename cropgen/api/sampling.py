"""`sample`: a run in, seasons drawn from its density out."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from cropgen.api.data import StoreResult, stored
from cropgen.api.prediction import locate_run
from cropgen.api.requests import require_year
from cropgen.core.errors import CorruptInputError, UsageError
from cropgen.core.files import guard_output
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.run import RunFolder


@dataclass(frozen=True)
class SampleRequest:
    """What to draw; None and empty mean the default.

    Arguments:
        run: run folder or its name; None takes the newest of the workspace.
        classes: crop codes, each counts once; empty: all that the model knows.
        count: seasons of each.
        temperature: scale of the noise; 1 is the density itself, 0 what it expects.
        year: the season's; None takes the last year learnt from.
        output: the series store; None takes samples/<run>.zarr of the workspace, outside of data/, so that nothing is
            trained on it unasked.
    """

    run: Path | None = None
    classes: tuple[str, ...] = ()
    count: int = 100
    temperature: float = 1.0
    year: int | None = None
    seed: int = 0
    output: Path | None = None


def sample(
    workspace: Workspace,
    request: SampleRequest,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> StoreResult:
    """Draw seasons of crops from the density of a run, as a series store.

    Raises:
        UsageError: the run has no density, or a crop is not among its classes.
        MissingInputError, CorruptInputError: there is no such run, or it is not whole.
        OutputExistsError: the store exists, and `overwrite` is false.
    """
    from cropgen.models.checkpoint import load_model
    from cropgen.prediction.drawing import density_of, draw_store

    report, folder = report or Silent(), locate_run(workspace, request.run)
    if request.count < 1 or not 0 <= request.temperature < math.inf:
        raise UsageError(
            f"{request.count} seasons at temperature {request.temperature:g}: expected at least 1, and no less than 0",
            hint="for example --count 100 --temperature 0.7",
        )
    require_year(request.year)
    run = RunFolder(folder)
    store = request.output or workspace.root / "samples" / f"{run.run_id}.zarr"
    guard_output(store, overwrite=overwrite)
    model = density_of(load_model(folder), run.run_id)
    codes = model.spec.legend.codes
    wanted = tuple(dict.fromkeys(request.classes))
    unknown = [code for code in wanted if code not in codes]
    if unknown:
        raise UsageError(f"{run.run_id} knows no crop {unknown[0]}", hint=f"its crops: {', '.join(codes)}")
    classes = [codes.index(code) for code in wanted or codes]
    year = request.year or _last_year(run)
    report.info(f"drawing {request.count} seasons of {len(classes)} crops from {folder} into {store}")
    if dry_run:
        return StoreResult(store, request.count * len(classes), (year,), model.spec.bands, len(codes), dry_run=True)
    facts = {"kind": "sample", "run": run.run_id, "temperature": request.temperature, "seed": request.seed}
    draw_store(
        model, classes, request.count, store, report,
        year=year, seed=request.seed, temperature=request.temperature, source=facts,
    )  # fmt: skip
    return stored(store, {})


def _last_year(run: RunFolder) -> int:
    """The last year that a run learnt from.

    Raises:
        CorruptInputError: its folder does not tell.
    """
    try:
        return max(json.loads(run.labels.read_text(encoding="utf-8"))["year"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise CorruptInputError(f"{run.labels} does not tell the years learnt from", hint="give --year") from error
