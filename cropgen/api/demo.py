"""`demo`: the whole chain on the embedded region."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cropgen.api.data import aggregate
from cropgen.api.evaluation import EvaluateRequest, EvaluateResult, evaluate, write_page
from cropgen.api.fetch import simulate
from cropgen.api.prediction import PredictRequest, PredictResult, predict
from cropgen.api.training import TrainRequest, TrainResult, train
from cropgen.core.files import guard_output, remove
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent

LABELS = "30%"
COMPARED = ("rf", "tgem")


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made."""

    folder: Path
    map: Path
    report: Path
    training: TrainResult
    prediction: PredictResult
    evaluation: EvaluateResult
    seconds: float


def demo(
    folder: Path, *, parcels: int = 600, seed: int = 0, overwrite: bool = False, report: Reporter | None = None
) -> DemoResult:
    """Simulate a region, aggregate it, train on all years but the last, predict the last, compare across years, report.

    Arguments:
        folder: a fresh workspace.

    Raises:
        OutputExistsError: `folder` exists and `overwrite` is false.
    """
    reporter = report or Silent()
    guard_output(folder, overwrite=overwrite, folder=True)
    remove(folder)
    workspace = Workspace(folder)
    began = time.monotonic()
    reporter.info(f"1/5 simulating {parcels} parcels, their weather, crops and satellite scenes")
    region = simulate(workspace, parcels=parcels, seed=seed, report=reporter)
    reporter.info("2/5 aggregating the scenes over the parcels")
    store = aggregate(workspace, region.scenes, region.parcels, name="demo", report=reporter)
    *past, last = store.years
    reporter.info(f"3/5 training on {LABELS} of the labels of {', '.join(map(str, past))}")
    training = train(workspace, TrainRequest(labels=LABELS, years=tuple(past), seed=seed, name="demo"), report=reporter)
    reporter.info(f"4/5 predicting {last}")
    layer = next(p for p in region.parcels if str(last) in p.stem)
    prediction = predict(workspace, PredictRequest(layer, year=last), report=reporter)
    reporter.info(f"5/5 comparing {' and '.join(COMPARED)} across years")
    comparison = EvaluateRequest("cross-year", COMPARED, (LABELS,), (seed,), block_km=0.5)
    evaluation = evaluate(workspace, comparison, report=reporter)
    page = write_page(workspace, overwrite=True, report=reporter).report
    seconds = time.monotonic() - began
    return DemoResult(folder, prediction.output, page, training, prediction, evaluation, seconds)
