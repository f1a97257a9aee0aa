"""From rows to a fitted model, in memory or into a run folder."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from cropgen.core.errors import DeviceError, UsageError
from cropgen.core.progress import Reporter, Silent
from cropgen.core.run import fingerprint
from cropgen.models.base import Classifier, Context, InputSpec, TrainingData
from cropgen.models.catalog import find
from cropgen.models.checkpoint import build_model
from cropgen.series.batches import Batch
from cropgen.training.ledger import Ledger
from cropgen.training.loop import learn


@dataclass(frozen=True)
class FitResult:
    """A fitted model, ready to classify.

    Arguments:
        facts: decisions the model took and figures worth keeping.
        seconds: time the fit took, over all sittings.
    """

    model: Classifier
    facts: dict[str, Any]
    seconds: float


def fit_model(
    name: str,
    settings: dict[str, Any],
    spec: InputSpec,
    data: TrainingData,
    *,
    seed: int = 0,
    report: Reporter | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    metrics: Path | None = None,
) -> FitResult:
    """Build a model of the catalogue and fit it: closed forms first, then gradient steps, then closing fits.

    The result depends on name, settings, spec, data and seed; on the processor and its number of threads only by
    rounding. What has a closed form is fitted again on resuming, gradient steps continue.

    Arguments:
        name: a name or alias of the catalogue.
        settings: options that differ from the model's defaults.
        spec: what the model sees and answers; `data` must have its bands, calendar and classes.
        data: rows to learn from.
        checkpoint: folder for the state to resume from; None keeps none.
        resume: continue from `checkpoint` if it holds a state.
        metrics: file for the metrics stream; None keeps none.

    Raises:
        UsageError: the name or an option is unknown, or the checkpoint belongs to a different training.
        DeviceError: the device is not there, or the model cannot learn on it as asked.
        MissingDependencyError: it needs a package for that which is not installed.
        CropgenError: the training diverged.
    """
    where = find_device(device)
    context = Context(seed, report or Silent())
    model = build_model(name, settings, spec, seed=context.generator("weights").initial_seed())
    model.check_device(where)
    identity = fingerprint(
        find(name).name, model.options.model_dump(mode="json"), spec.to_json(), seed, data_digest(data)
    )
    began = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.generator("prepare").initial_seed())
        model.prepare(data, context)
    seconds = time.monotonic() - began
    if model.learners():
        ledger = Ledger(identity, checkpoint, resume, metrics)
        seconds += learn(model, data, context, device=where, ledger=ledger).seconds
    model.cpu().eval()
    began = time.monotonic()
    model.finish(data, context)
    return FitResult(model, context.facts, seconds + time.monotonic() - began)


def find_device(name: str) -> torch.device:
    """The device of a name such as `cpu` or `cuda:1`.

    Raises:
        UsageError: the name is not a device's.
        DeviceError: this machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", hint="one of cpu, cuda, cuda:0, …") from error
    if device.type == "cpu":
        return device
    there = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if (device.index or 0) >= there:
        raise DeviceError(f"device {name} is not there: {there} CUDA devices found", hint="use --device cpu")
    return device


def data_digest(data: TrainingData) -> str:
    """Hex SHA-256 over every value a model may learn from."""
    digest = hashlib.sha256()
    for role in fields(TrainingData):
        batch = getattr(data, role.name)
        if batch is not None:
            digest.update(role.name.encode())
            for field in fields(Batch):
                tensor = getattr(batch, field.name).contiguous()
                if not tensor.numel():
                    continue
                digest.update(f"{field.name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
