"""Scores of a trained model on series of known class."""

from __future__ import annotations

from typing import Any

import numpy as np


def score(model: Any, series: Any, classes: np.ndarray) -> dict[str, Any]:
    """Scores on the rows whose class the model knows."""
    import torch

    from cropgen.metrics.calibration import expected_calibration_error, negative_log_likelihood
    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy
    from cropgen.series.batches import make_batch

    known = series.take(np.isin(series.label, classes)).select_bands(model.spec.bands)
    batch = make_batch(known, model.spec.calendar, classes)
    with torch.inference_mode():
        parts = [model.log_posterior(batch.take(rows)) for rows in torch.arange(len(known)).split(1024)]
    log_posterior = torch.cat(parts).double().numpy()
    true = batch.y.numpy()
    counts = confusion_matrix(true, log_posterior.argmax(1), len(classes))
    bounded = np.maximum(log_posterior, -30.0)
    return {
        "n_test": len(true),
        "macro_f1": round(float(macro_f1(counts)), 5),
        "accuracy": round(float(overall_accuracy(counts)), 5),
        "nll": round(negative_log_likelihood(bounded, true), 5),
        "ece": round(expected_calibration_error(bounded, true), 5),
    }
