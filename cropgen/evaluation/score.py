"""From a model's answers on test parcels to a score sheet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from cropgen.evaluation.document import Detail
from cropgen.metrics.area import adjusted_area
from cropgen.metrics.bootstrap import confusion_replicates, interval
from cropgen.metrics.calibration import (
    brier_score,
    classwise_calibration_error,
    negative_log_likelihood,
    temper,
    top_label_reliability,
)
from cropgen.metrics.classification import (
    balanced_accuracy,
    class_scores,
    confusion_matrix,
    equal_priors,
    kappa,
    macro_f1,
    overall_accuracy,
)
from cropgen.metrics.density import bits_per_value
from cropgen.metrics.novelty import aupr, auroc
from cropgen.metrics.selective import RiskCoverage, risk_coverage
from cropgen.models.layers.affine_calibrator import AffineCalibrator

MIN_BLOCKS = 10
COVERAGES = np.linspace(0.05, 1, 20)
_FLOOR = -30.0


@dataclass(frozen=True)
class Answers:
    """What a model said about M labelled test parcels.

    Arguments:
        rows: (M,) rows of the store.
        true: (M,) positions in the legend of the store.
        log_posterior: (M, K) normalised log-probabilities of the model's classes.
        classes: (K,) positions of the model's classes in the legend of the store.
        block: (M,) spatial block of each parcel.
        novelty: (M,) higher means less like the training parcels.
        novelty_score: what `novelty` was computed from.
        observed: (M,) observed values: bands times slots of the model's calendar with a clear date.
        log_likelihood: (M,) log p(x) in nats per unit of reflectance, or None.
        crps: (M,) mean CRPS of withheld values, NaN where none was withheld, or None.
    """

    rows: np.ndarray
    true: np.ndarray
    log_posterior: np.ndarray
    classes: np.ndarray
    block: np.ndarray
    novelty: np.ndarray
    novelty_score: Literal["likelihood", "entropy"]
    observed: np.ndarray
    log_likelihood: np.ndarray | None = None
    crps: np.ndarray | None = None

    @property
    def in_legend(self) -> np.ndarray:
        """(M,) bool: the true class is one the model knows."""
        return np.isin(self.true, self.classes)

    def take(self, keep: np.ndarray) -> Answers:
        """The parcels of a boolean or index array."""
        named = ("rows", "true", "log_posterior", "block", "novelty", "observed", "log_likelihood", "crps")
        parts = {name: getattr(self, name) for name in named}
        return replace(self, **{name: None if part is None else part[keep] for name, part in parts.items()})

    def calibrated(self, calibrator: AffineCalibrator | None) -> Answers:
        """The same with corrected probabilities; parcels without an observation keep theirs."""
        if calibrator is None:
            return self
        said = calibrator(torch.from_numpy(self.log_posterior)).numpy()
        log_posterior = np.where(self.observed[:, None] > 0, said, self.log_posterior)
        entropy = -(np.exp(log_posterior) * log_posterior).sum(1)
        novelty = entropy if self.novelty_score == "entropy" else self.novelty
        return replace(self, log_posterior=log_posterior, novelty=novelty)


def score(
    answers: Answers, facts: dict[str, Any], seed: int, temperature: float | None = None
) -> tuple[dict[str, Any], Detail]:
    """Score the parcels whose class the model knows, and how well it singles out the others.

    A probability below e^−30 counts as e^−30 in the log score, so one certain mistake costs 30 nats and not infinity.

    Arguments:
        answers: at least one parcel of a known class.
        facts: kept in the detail.
        seed: of the bootstrap.
        temperature: the best one on validation parcels, or None.

    Returns:
        The scores of a `Row` by name, and the detail.
    """
    known = answers.take(answers.in_legend)
    position = np.searchsorted(known.classes, known.true)
    predicted = known.log_posterior.argmax(1)
    confusion = confusion_matrix(position, predicted, len(known.classes))
    curve = risk_coverage(known.log_posterior.max(1), predicted == position)
    outside = ~answers.in_legend
    scores: dict[str, Any] = {
        "n_test": len(position),
        "n_out_of_legend": int(outside.sum()),
        "kappa": float(kappa(confusion)),
        "balanced_accuracy": float(balanced_accuracy(confusion)),
        "aurc": curve.area,
        "auroc_out_of_legend": auroc(answers.novelty, outside),
        "aupr_out_of_legend": aupr(answers.novelty, outside),
        "novelty_score": answers.novelty_score if outside.any() else None,
        **_probability_scores(known, position, temperature),
        **_density_scores(known),
        **_intervals(position, predicted, confusion, known.block, seed),
    }
    return scores, _detail(known, position, confusion, curve, facts)


def macro_f1_over_legend(answers: Answers, classes: int) -> float:
    """Mean F1 over every class of a legend, as benchmarks with a fixed legend report it.

    A parcel of a class that the model was not taught is an error, and a class that is not tested counts 0, so the mean
    stays below 1 where a class cannot be learnt or tested; `macro_f1` of a row is that over the testable classes.

    Arguments:
        classes: size of the legend.
    """
    predicted = answers.classes[answers.log_posterior.argmax(1)]
    return float(class_scores(confusion_matrix(answers.true, predicted, classes)).f1.mean())


def _probability_scores(known: Answers, position: np.ndarray, temperature: float | None) -> dict[str, Any]:
    log_posterior = np.maximum(known.log_posterior, _FLOOR)
    tempered = None
    if temperature is not None:
        moved = np.where(known.observed[:, None] > 0, temper(log_posterior, temperature), log_posterior)
        tempered = negative_log_likelihood(np.maximum(moved, _FLOOR), position)
    return {
        "nll": negative_log_likelihood(log_posterior, position),
        "tempered_nll": tempered,
        "temperature": temperature,
        "brier": brier_score(log_posterior, position),
        "ece": top_label_reliability(log_posterior, position).error,
        "classwise_ece": classwise_calibration_error(log_posterior, position),
    }


def _density_scores(known: Answers) -> dict[str, Any]:
    bits = None if known.log_likelihood is None else bits_per_value(known.log_likelihood, known.observed)
    asked = np.zeros(0) if known.crps is None else known.crps[np.isfinite(known.crps)]
    return {"bits_per_value": bits, "crps": float(asked.mean()) if len(asked) else None}


def _detail(
    known: Answers, position: np.ndarray, confusion: np.ndarray, curve: RiskCoverage, facts: dict[str, Any]
) -> Detail:
    per_class = class_scores(confusion)
    area = adjusted_area(confusion.T, confusion.sum(0))
    columns = {"mapped": area.mapped, "adjusted": area.adjusted, "standard_error": area.standard_error}
    risk = {"coverage": COVERAGES, "risk": curve.at(COVERAGES)}
    return Detail(
        classes=tuple(known.classes.tolist()),
        confusion=tuple(map(tuple, confusion.tolist())),
        precision=tuple(per_class.precision.round(6).tolist()),
        recall=tuple(per_class.recall.round(6).tolist()),
        f1=tuple(per_class.f1.round(6).tolist()),
        support=tuple(per_class.support.tolist()),
        reliability=top_label_reliability(np.maximum(known.log_posterior, _FLOOR), position).to_json(),
        risk_coverage={name: column.round(6).tolist() for name, column in risk.items()},
        area={name: column.round(6).tolist() for name, column in columns.items()},
        facts=facts,
    )


def resampling_unit(block: np.ndarray) -> np.ndarray | None:
    """The blocks (N,) to resample, or None for single parcels where fewer than 10 blocks are left."""
    return block if len(np.unique(block)) >= MIN_BLOCKS else None


def _macro_f1_equal_priors(confusion: np.ndarray) -> np.ndarray:
    return macro_f1(equal_priors(confusion))


def _intervals(
    true: np.ndarray, predicted: np.ndarray, confusion: np.ndarray, block: np.ndarray, seed: int
) -> dict[str, Any]:
    """Macro-F1, also at equal class priors, and accuracy with 95 % bootstrap intervals."""
    groups = resampling_unit(block)
    generator = np.random.default_rng(seed)
    measures = {
        "macro_f1": macro_f1, "macro_f1_equal_priors": _macro_f1_equal_priors, "accuracy": overall_accuracy,
    }  # fmt: skip
    portions = confusion_replicates(true, [predicted], len(confusion), generator, groups=groups)
    scored = [[measure(resampled) for measure in measures.values()] for (resampled,) in portions]
    found: dict[str, Any] = {"interval_unit": "parcel" if groups is None else "block"}
    for (name, measure), replicates in zip(measures.items(), np.concatenate(scored, axis=1), strict=True):
        around = interval(float(measure(confusion)), replicates)
        found |= {name: around.value, f"{name}_low": around.low, f"{name}_high": around.high}
    return found
