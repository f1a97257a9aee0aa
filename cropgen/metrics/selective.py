"""What is gained by answering only where the model is sure: the risk–coverage curve and the area under it.

Rows are answered in the order of their confidence. At coverage c = i/N the risk is the share of errors among the i
rows answered first, and

    AURC = (1/N) Σ_i risk(i/N).

Rows of equal confidence stand in no order, so the risk within such a group is the expectation over all orders.

Reference: Selective Classification for Deep Neural Networks, Geifman and El-Yaniv, 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cropgen.core.errors import DataError


@dataclass(frozen=True)
class RiskCoverage:
    """The curve, each (N,).

    Arguments:
        coverage: share of rows answered, 1/N … 1.
        risk: share of errors among them.
    """

    coverage: np.ndarray
    risk: np.ndarray

    @property
    def area(self) -> float:
        """AURC, between 0 and 1; lower is better, the error rate for a confidence that knows nothing."""
        return float(self.risk.mean())

    def at(self, coverage: np.ndarray) -> np.ndarray:
        """Risk where at least these shares of the rows are answered."""
        place = np.ceil(np.asarray(coverage) * len(self.risk) - 1e-9).astype(int) - 1
        return self.risk[place.clip(0)]


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """The curve of N answers.

    Arguments:
        confidence: (N,) higher is answered earlier.
        correct: (N,) bool.

    Raises:
        DataError: there is no row.
    """
    rows = len(confidence)
    if rows == 0:
        raise DataError("no test row to answer", hint="test on rows that carry labels")
    _, group, size = np.unique(-np.asarray(confidence, float), return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=~np.asarray(correct, bool)) / size
    answered = np.arange(1, rows + 1)
    return RiskCoverage(answered / rows, np.cumsum(np.repeat(wrong, size)) / answered)
