"""Random forest on gap-filled bands and vegetation indices.

The forest is grown by scikit-learn; its nodes are then held as tensors and walked here. p(y | x) is the mean vote of
the trees, smoothed by pseudo-trees that vote by class prior.

Reference: Random Forests, Breiman, 2001.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.layers.features import class_log_prior, labelled_features, season_features
from cropgen.models.layers.trees import FlatTrees, Tree
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 1024


class ForestOptions(Options):
    """Options of the random forest."""

    trees: int = Field(300, ge=1, description="number of trees")
    features: Literal["sqrt", "log2"] = Field(
        "sqrt", description="features tried at a split, of all features", json_schema_extra={"search": ["sqrt", "log2"]}
    )
    smallest_leaf: int = Field(1, ge=1, description="least parcels in a leaf", json_schema_extra={"search": [1, 2, 5]})
    balanced: bool = Field(
        False, description="weight parcels by the inverse of their crop's frequency",
        json_schema_extra={"search": [False, True]},
    )  # fmt: skip
    smoothing: float = Field(1.0, gt=0, description="pseudo-trees that vote by class prior, so no probability is 0")


class RandomForest(Classifier):
    """p(y | x) as the mean vote of the trees."""

    Settings: ClassVar[type[Options]] = ForestOptions
    log_prior: Tensor

    def __init__(self, spec: InputSpec, options: ForestOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self.trees = FlatTrees(spec.classes)
        self.register_buffer("log_prior", torch.full((spec.classes,), 1 / spec.classes).log())

    def fixed_state(self) -> dict[str, Any]:
        return self.trees.sizes()

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        self.trees.allocate(state["nodes"], state["trees"])

    def prepare(self, data: TrainingData, context: Context) -> None:
        from sklearn.ensemble import RandomForestClassifier

        x, y = labelled_features(data.labelled, self.spec)
        seed = int(torch.randint(2**31 - 1, (1,), generator=context.generator("forest")))
        forest = RandomForestClassifier(
            self.settings.trees, max_features=self.settings.features, min_samples_leaf=self.settings.smallest_leaf,
            class_weight="balanced" if self.settings.balanced else None, random_state=seed, n_jobs=1,
        )  # fmt: skip
        with context.report.task("growing trees", None):
            forest.fit(x.numpy(), y.numpy())
        classes = np.asarray(forest.classes_)
        self.trees.keep([self._flat(grown.tree_, classes) for grown in forest.estimators_])
        self.log_prior.copy_(class_log_prior(y, self.spec.classes))

    def _flat(self, tree: Any, classes: np.ndarray) -> Tree:
        """A tree of scikit-learn with the vote of each node over all classes."""
        vote = np.zeros((tree.node_count, self.spec.classes))
        share = tree.value[:, 0, :]
        vote[:, classes] = share / share.sum(1, keepdims=True)
        return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, vote)

    def probabilities(self, x: Tensor) -> Tensor:
        """(B, K) mean vote of the trees for features x (B, F)."""
        return self.trees(x).mean(1)

    def log_posterior(self, batch: Batch) -> Tensor:
        x, seen = season_features(batch, self.spec)
        share = torch.cat([self.probabilities(part) for part in x.split(_ROWS_AT_ONCE)])
        trees, pseudo = len(self.trees.root), self.settings.smoothing
        smoothed = (trees * share + pseudo * self.log_prior.exp()) / (trees + pseudo)
        return torch.where(seen[:, None], smoothed.log(), self.log_prior)
