"""Class shares that differ between training and use: reweighing of posteriors, and estimation of the shares by EM.

With the training shares π and the new ones ρ, and p(x | y) the same in both,

    p'(y | x) ∝ p(y | x) ρ_y / π_y

Where ρ is not known, EM finds the shares that make the parcels most likely: from ρ = π, the mean of p'(y | x) over the
parcels becomes the next ρ. That is right where posteriors are calibrated and only the shares have changed. Where the
seasons themselves have changed, or the posteriors are too sure or too vague, the estimate runs off, because it explains
by shares what is another season; so it is never done unasked.

Reference:
    Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure, Saerens, Latinne and
    Decaestecker, 2002.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cropgen.core.errors import CropgenError, DataError, SchemaError
from cropgen.core.files import require_input
from cropgen.models.base import Classifier
from cropgen.prediction.infer import infer
from cropgen.series.batches import Batch
from cropgen.series.legend import Legend

_CHUNK = 1 << 16
_MOST_STEPS = 1000
_TOLERANCE = 1e-6
_CODE_COLUMNS = ("crop_code", "code", "crop_name", "name", "crop")
_SHARE_COLUMNS = ("share", "prior", "probability", "area")


@dataclass(frozen=True)
class PriorShift:
    """Class shares in training and in use.

    Arguments:
        trained: (K,) shares that the posteriors assume.
        assumed: (K,) shares of the parcels they are about.
    """

    trained: np.ndarray
    assumed: np.ndarray

    @property
    def distance(self) -> float:
        """Total variation between both: the share of parcels that would have to change class, 0–1."""
        return float(np.abs(self.assumed - self.trained).sum() / 2)

    def apply(self, probability: np.ndarray) -> np.ndarray:
        """(N, K) posteriors under the assumed shares; those shares where all of a row's classes are assumed absent."""
        weighted = probability * (self.assumed / self.trained)
        total = weighted.sum(1, keepdims=True)
        return np.where(total > 0, weighted / np.where(total > 0, total, 1), self.assumed)


def class_prior(model: Classifier) -> np.ndarray:
    """(K,) class shares that a model assumes: what it says of a parcel that was never seen, at an unknown site."""
    bands, covariates = len(model.spec.bands), len(model.spec.site)
    never = Batch(
        torch.zeros(1, 1, bands), torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1, 1),
        torch.full((1, 1), -1), torch.full((1,), -1), site=torch.full((1, covariates), torch.nan),
    )  # fmt: skip
    prior = np.maximum(infer(model, never).probability[0], np.finfo(np.float32).tiny)
    return prior / prior.sum()


def uniform_prior(classes: int) -> np.ndarray:
    """(K,) equal shares."""
    return np.full(classes, 1 / classes)


def estimate_prior(posterior: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """(K,) class shares of the rows, by EM; memory does not grow with N.

    Arguments:
        posterior: (N, K) class probabilities under the training shares; may be mapped from disk.
        trained: (K,) training shares, all above 0.

    Raises:
        DataError: there is no row.
    """
    if not len(posterior):
        raise DataError("no parcel with a clear date: class shares cannot be estimated", hint="leave out --prior em")
    share = trained
    for _ in range(_MOST_STEPS):
        shift = PriorShift(trained, share)
        total = sum((shift.apply(part).sum(0) for part in _parts(posterior)), np.zeros(len(trained)))
        before, share = share, total / len(posterior)
        if np.abs(share - before).max() < _TOLERANCE:
            break
    return share


def estimate_streaming(posteriors: Iterable[np.ndarray], trained: np.ndarray) -> np.ndarray:
    """`estimate_prior` of posteriors that come in parts; they wait on disk, so memory does not grow with their number.

    Raises:
        DataError: there is no row.
        CropgenError: the temporary folder is full.
    """
    try:
        with tempfile.TemporaryFile() as spool:
            rows = 0
            for part in posteriors:
                spool.write(np.ascontiguousarray(part, np.float32).tobytes())
                rows += len(part)
            spool.flush()
            shape = (rows, len(trained))
            kept = np.memmap(spool, np.float32, "r", shape=shape) if rows else np.zeros(shape, np.float32)
            return estimate_prior(kept, trained)
    except OSError as error:
        raise CropgenError(
            f"cannot keep class probabilities in {tempfile.gettempdir()}: {error.strerror or error}",
            hint="free space, or point TMPDIR to a larger disk",
        ) from error


def _parts(posterior: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(posterior), _CHUNK):
        yield np.asarray(posterior[start : start + _CHUNK], np.float64)


def read_prior(path: Path, legend: Legend) -> np.ndarray:
    """(K,) class shares from a csv file: a column of crop codes or names, and one of shares or areas, scaled to sum 1.

    Classes that the file does not name get no share; crops that the legend does not know, and names that several of its
    crops bear, are an error.

    Raises:
        MissingInputError, SchemaError: the file is not there, or a column or crop of it cannot be used.
    """
    import pandas

    require_input(path, "class shares")
    try:
        table = pandas.read_csv(path, dtype=str, encoding="utf-8")
    except (ValueError, OSError, pandas.errors.ParserError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise SchemaError(f"{path} is not csv: {reason}", hint="two columns: crop_code,share") from error
    crop, amount = (_column(path, table.columns.tolist(), names) for names in (_CODE_COLUMNS, _SHARE_COLUMNS))
    position = {name: k for names in (legend.names, legend.codes) for k, name in enumerate(names)}
    unknown = [name for name in table[crop] if name not in position]
    if unknown:
        raise SchemaError(
            f"{path}: {crop} {unknown[0]} is not a crop of the model", hint=f"it knows {', '.join(legend.codes)}"
        )
    shared = [name for name in table[crop] if name not in legend.codes and legend.names.count(name) > 1]
    if shared:
        codes = [code for code, name in zip(legend.codes, legend.names, strict=True) if name == shared[0]]
        raise SchemaError(
            f"{path}: {crop} {shared[0]} is the name of {len(codes)} crops of the model: {', '.join(codes)}",
            hint="name them by their codes",
        )
    value = np.asarray(pandas.to_numeric(table[amount], errors="coerce"), np.float64)
    if not (np.isfinite(value).all() and (value >= 0).all() and value.sum() > 0):
        raise SchemaError(f"{path}: {amount} must hold numbers of at least 0, not all 0", hint="shares or areas")
    share = np.zeros(len(legend))
    np.add.at(share, [position[name] for name in table[crop]], value)
    return share / share.sum()


def _column(path: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    found = [name for choice in wanted for name in names if name.strip().casefold() == choice]
    if not found:
        raise SchemaError(
            f"{path}: expected a column {' or '.join(wanted[:2])}, got {', '.join(names)}", hint="crop_code,share"
        )
    return found[0]
