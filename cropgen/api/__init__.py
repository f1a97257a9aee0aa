"""The Python interface: one typed function per verb of the command line, none of which prints.

Functions take a `Workspace` and a frozen request, report progress through a `Reporter`, raise the errors of
`cropgen.core.errors`, and return frozen results.
"""

from __future__ import annotations

from cropgen.api.bench import KernelBench, KernelRow, bench_kernels
from cropgen.api.data import StoreResult, aggregate, import_table
from cropgen.api.demo import DemoResult, demo
from cropgen.api.evaluation import EvaluateRequest, EvaluateResult, ReportResult, evaluate, write_page
from cropgen.api.fetch import (
    DatasetListing,
    FetchedFile,
    FetchRequest,
    FetchResult,
    VerifyResult,
    fetch,
    list_datasets,
    verify,
)
from cropgen.api.inventory import Doctor, Info, ModelCard, Option, doctor, info, model_card, models
from cropgen.api.prediction import PredictRequest, PredictResult, predict
from cropgen.api.sampling import SampleRequest, sample
from cropgen.api.scenes import ScenesRequest, ScenesResult, fetch_scenes, verify_scenes
from cropgen.api.training import TrainRequest, TrainResult, train
from cropgen.api.transform import transform
from cropgen.core.paths import Workspace
from cropgen.models.catalog import Entry

__all__ = [
    "DatasetListing", "DemoResult", "Doctor", "Entry", "EvaluateRequest", "EvaluateResult", "FetchRequest",
    "FetchResult", "FetchedFile", "Info", "KernelBench", "KernelRow", "ModelCard", "Option", "PredictRequest",
    "PredictResult", "ReportResult", "SampleRequest", "ScenesRequest", "ScenesResult", "StoreResult",
    "TrainRequest", "TrainResult", "VerifyResult", "Workspace", "aggregate", "bench_kernels", "demo", "doctor",
    "evaluate", "fetch", "fetch_scenes", "import_table", "info", "list_datasets", "model_card", "models",
    "predict", "sample", "train", "transform", "verify", "verify_scenes", "write_page",
]  # fmt: skip
