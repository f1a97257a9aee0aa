"""Histogram gradient boosting on gap-filled bands and vegetation indices.

    p(y | x) = softmax_y(b_y + Σ_i f_iy(x))

with one shallow tree f_iy per class and iteration, each a step down the gradient of the cross-entropy (of two classes,
one tree per iteration gives the log-odds). The trees are grown by scikit-learn; their nodes are then held as tensors
and walked here, and the posterior is tempered by an inverse temperature from cross-validation on the labels.

References:
    Greedy Function Approximation: A Gradient Boosting Machine, Friedman, 2001;
    LightGBM: A Highly Efficient Gradient Boosting Decision Tree, Ke et al., 2017.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.layers.features import class_log_prior, labelled_features, require_classes, season_features
from cropgen.models.layers.held_out import fit_temperature, held_out_scores
from cropgen.models.layers.innovations import tempered
from cropgen.models.layers.trees import FlatTrees, Tree
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 1024
_ABSENT = -30.0


class BoostingOptions(Options):
    """Options of histogram gradient boosting."""

    iterations: int = Field(100, ge=1, description="trees per class", json_schema_extra={"search": [50, 100, 200]})
    learning_rate: float = Field(
        0.1, gt=0, description="step down the gradient", json_schema_extra={"search": [0.05, 0.1, 0.2]}
    )
    leaves: int = Field(15, ge=2, description="most leaves of a tree", json_schema_extra={"search": [7, 15, 31]})
    smallest_leaf: int = Field(5, ge=1, description="least parcels in a leaf", json_schema_extra={"search": [2, 5, 20]})
    features: float = Field(0.1, gt=0, le=1, description="share of the features tried at a split")
    penalty: float = Field(1.0, ge=0, description="L2 penalty on the answers of leaves")
    temper: bool = Field(True, description="temper the posterior by cross-validation on the labels")


class HistogramGradientBoosting(Classifier):
    """p(y | x) as the softmax of summed trees.

    `column` (trees,) is the class that each tree answers for.
    """

    Settings: ClassVar[type[Options]] = BoostingOptions
    column: Tensor
    baseline: Tensor
    log_prior: Tensor
    beta: Tensor

    def __init__(self, spec: InputSpec, options: BoostingOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self.trees = FlatTrees(1)
        self.register_buffer("column", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("baseline", torch.zeros(spec.classes))
        self.register_buffer("log_prior", torch.full((spec.classes,), 1 / spec.classes).log())
        self.register_buffer("beta", torch.tensor(1.0))

    def fixed_state(self) -> dict[str, Any]:
        return self.trees.sizes()

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        self.trees.allocate(state["nodes"], state["trees"])
        self.column = torch.zeros(state["trees"], dtype=torch.int64)

    def prepare(self, data: TrainingData, context: Context) -> None:
        x, y = labelled_features(data.labelled, self.spec)
        require_classes(y, self.spec)
        seed = int(torch.randint(2**31 - 1, (1,), generator=context.generator("boosting")))
        self.log_prior.copy_(class_log_prior(y, self.spec.classes))
        with context.report.task("growing trees", None):
            if self.settings.temper:
                self._find_temperature(x, y, seed, context)
            self._grow(x, y, seed)

    def _find_temperature(self, x: Tensor, y: Tensor, seed: int, context: Context) -> None:
        def score(learn: Tensor, judge: Tensor) -> Tensor:
            if len(y[learn].unique()) < 2:
                return self.log_prior.expand(int(judge.sum()), -1)
            self._grow(x[learn], y[learn], seed)
            return self.scores(x[judge])

        scores, answers = held_out_scores(y, score, context.generator("boosting/folds"))
        if len(answers):
            held_out = fit_temperature(scores.double(), answers)
            self.beta.fill_(held_out.beta)
            context.facts["hgb"] = {"nll": round(held_out.nll, 4), "beta": held_out.beta}

    def _grow(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Fit the trees to features x (N, F) of classes y (N,) and hold them."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        chosen = self.settings
        boosted = HistGradientBoostingClassifier(
            learning_rate=chosen.learning_rate, max_iter=chosen.iterations, max_leaf_nodes=chosen.leaves,
            min_samples_leaf=chosen.smallest_leaf, l2_regularization=chosen.penalty, max_features=chosen.features,
            early_stopping=cast(Any, False), random_state=seed,
        )  # fmt: skip
        boosted.fit(x.numpy(), y.numpy())
        classes = np.asarray(boosted.classes_)
        answering = classes[1:] if len(classes) == 2 else classes
        self.trees.keep([_flat(predictor.nodes) for iteration in boosted._predictors for predictor in iteration])
        self.column = torch.from_numpy(np.tile(answering, len(boosted._predictors)))
        self.baseline.fill_(_ABSENT)
        self.baseline[torch.from_numpy(classes)] = 0
        self.baseline[torch.from_numpy(answering)] = torch.from_numpy(boosted._baseline_prediction).float().flatten()

    def scores(self, x: Tensor) -> Tensor:
        """(B, K) what the softmax is taken of, for features x (B, F)."""
        answer = torch.cat([self.trees(part)[..., 0] for part in x.split(_ROWS_AT_ONCE)])
        return self.baseline.expand(len(x), -1).index_add(1, self.column, answer)

    def log_posterior(self, batch: Batch) -> Tensor:
        x, seen = season_features(batch, self.spec)
        return torch.where(seen[:, None], tempered(self.scores(x), self.beta), self.log_prior)


def _flat(nodes: Any) -> Tree:
    """A tree of scikit-learn."""
    inner = ~nodes["is_leaf"].astype(bool)
    left, right = (np.where(inner, nodes[side].astype(np.int64), -1) for side in ("left", "right"))
    value = nodes["value"][:, None]
    return Tree(nodes["feature_idx"].astype(np.int64), nodes["num_threshold"], left, right, value)
