"""Answers reweighed for other class shares than the training's."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from cropgen.evaluation.score import Answers
from cropgen.models.base import Classifier
from cropgen.prediction.prior_shift import PriorShift, class_prior, estimate_prior, uniform_prior

Prior = Literal["training", "em", "uniform"]


def reweighed(answers: Answers, model: Classifier, prior: Prior) -> Answers:
    """The answers of a model under other class shares.

    Arguments:
        prior: training keeps them; uniform takes equal shares; em estimates the shares of the parcels asked about from
            the answers alone, never from their labels.
    """
    probability, trained = np.exp(answers.log_posterior), class_prior(model)
    seen = answers.observed > 0
    if prior == "training" or (prior == "em" and not seen.any()):
        return answers
    assumed = uniform_prior(len(trained)) if prior == "uniform" else estimate_prior(probability[seen], trained)
    corrected = PriorShift(trained, assumed).apply(probability)
    return replace(answers, log_posterior=np.log(np.maximum(corrected, np.finfo(float).tiny)))
