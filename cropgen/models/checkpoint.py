"""Trained models on disk: weights as safetensors, everything else as JSON, nothing executable.

model.json         schema number, name, options, input, fixed state, kind of calibrator, SHA-256 of the weights
model.safetensors  parameters and buffers
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from cropgen.core.errors import CorruptInputError, SchemaError, UsageError
from cropgen.core.files import atomic_output, require_input, write_text
from cropgen.core.recipe import validate
from cropgen.models.base import Classifier, InputSpec
from cropgen.models.catalog import find, load
from cropgen.models.layers.affine_calibrator import AffineCalibrator

MODEL_SCHEMA = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_RETRAIN = "train the model again, or copy its run folder again from where it was made"
_KEYS = {"model": int, "name": str, "options": dict, "spec": dict, "fixed_state": dict, "sha256": str}


def build_model(name: str, settings: dict[str, Any], spec: InputSpec, *, seed: int = 0) -> Classifier:
    """A model of the catalogue with fresh weights that depend on `seed` alone.

    Arguments:
        name: a name or alias of the catalogue.
        settings: options that differ from the model's defaults.

    Raises:
        UsageError: the name or an option is unknown, or a value is not allowed.
    """
    entry = find(name)
    kind = load(entry)
    options = validate(kind.Settings, settings, where=f"options of {entry.name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(spec, options)


def plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module as contiguous copies in main memory, each with storage of its own."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict(keep_vars=False).items()}


def save_model(folder: Path, model: Classifier, name: str) -> None:
    """Write a model into a folder; the weights come last, so a folder with weights is whole.

    Arguments:
        folder: made if absent.
        model: a fitted model.
        name: its name or alias in the catalogue.
    """
    weights = tensors_to_bytes(plain_tensors(model))
    document = {
        "model": MODEL_SCHEMA,
        "name": find(name).name,
        "options": model.options.model_dump(mode="json"),
        "spec": model.spec.to_json(),
        "fixed_state": model.fixed_state(),
        "calibration": "none" if model.calibrator is None else model.calibrator.kind,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_text(folder / DESCRIPTION, json.dumps(document, indent=1) + "\n")
    with atomic_output(folder / WEIGHTS) as part:
        part.write_bytes(weights)


def load_model(folder: Path) -> Classifier:
    """The model of a folder, ready to classify.

    Raises:
        MissingInputError: the folder holds no model.
        CorruptInputError: a file is truncated or was changed.
        SchemaError: the files are whole but do not describe a model of this version.
    """
    document = _read_description(require_input(folder / DESCRIPTION, "model description"))
    path = require_input(folder / WEIGHTS, "model weights")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != document["sha256"]:
        raise CorruptInputError(f"{path} is not the file that {DESCRIPTION} was written for", hint=_RETRAIN)
    try:
        tensors = tensors_from_bytes(raw)
    except SafetensorError as error:
        raise CorruptInputError(f"{path} is not a safetensors file: {error}", hint=_RETRAIN) from error
    model = _rebuild(document, folder / DESCRIPTION)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SchemaError(f"{path} does not fit the model {document['name']}: {reason}", hint=_RETRAIN) from error
    return model.eval()


def _read_description(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptInputError(f"{path} is not JSON: {error}", hint=_RETRAIN) from error
    if not isinstance(document, dict):
        raise SchemaError(f"{path}: expected an object, got {type(document).__name__}", hint=_RETRAIN)
    for key, kind in _KEYS.items():
        if not isinstance(document.get(key), kind):
            found = type(document[key]).__name__ if key in document else "nothing"
            raise SchemaError(f"{path}: {key}: expected {kind.__name__}, got {found}", hint=_RETRAIN)
    if document["model"] != MODEL_SCHEMA:
        raise SchemaError(
            f"{path}: expected model schema {MODEL_SCHEMA}, got {document['model']}",
            hint="use the version of cropgen that wrote it, or train the model again",
        )
    return document


def _rebuild(document: dict[str, Any], path: Path) -> Classifier:
    try:
        spec = InputSpec.from_json(document["spec"])
        model = build_model(document["name"], document["options"], spec)
        model.restore_fixed_state(document["fixed_state"])
        if document.get("calibration", "none") != "none":
            model.calibrator = AffineCalibrator(spec.classes, document["calibration"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise SchemaError(f"{path} does not describe a model of this version: {error}", hint=_RETRAIN) from error
    return model
