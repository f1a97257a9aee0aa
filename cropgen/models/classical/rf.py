"""Random forest on gap-filled bands and vegetation indices, with trees kept as flat arrays.

Each slot of the calendar gives its bands, linearly interpolated over gaps, and, where the bands exist,
NDVI = (B08 − B04)/(B08 + B04) and NDWI = (B08 − B11)/(B08 + B11). The forest is grown by scikit-learn; its nodes are
then held as tensors and walked here, so a saved forest is data, not a program.

References:
    Random Forests, Breiman, 2001.
    NDWI: A Normalized Difference Water Index for Remote Sensing of Vegetation Liquid Water from Space, Gao, 1996.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cropgen.core.errors import DataError
from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.layers.grid import grid_view
from cropgen.series.augment import fill_gaps
from cropgen.series.batches import Batch

_INDICES = (("B08", "B04"), ("B08", "B11"))
_LEAF = -1
_ROWS_AT_ONCE = 1024


class ForestOptions(Options):
    """Options of the random forest."""

    trees: int = Field(300, ge=1, description="number of trees")
    features: Literal["sqrt", "log2"] = Field("sqrt", description="features tried at a split, of all features")
    smallest_leaf: int = Field(1, ge=1, description="least parcels in a leaf")
    balanced: bool = Field(False, description="weight parcels by the inverse of their crop's frequency")
    smoothing: float = Field(1.0, gt=0, description="pseudo-trees that vote by class prior, so no probability is 0")


class RandomForest(Classifier):
    """p(y | x) as the mean vote of the trees.

    Nodes of all trees lie in one array; `left` and `right` are absolute positions, −1 at a leaf.
    """

    Settings: ClassVar[type[Options]] = ForestOptions
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    vote: Tensor
    root: Tensor
    log_prior: Tensor

    def __init__(self, spec: InputSpec, options: ForestOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self._allocate(0, 0)

    def _allocate(self, nodes: int, trees: int) -> None:
        classes = self.spec.classes
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.full((nodes,), _LEAF, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("vote", torch.zeros(nodes, classes))
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))
        self.register_buffer("log_prior", torch.full((classes,), 1 / classes).log())

    def fixed_state(self) -> dict[str, Any]:
        return {"nodes": len(self.feature), "trees": len(self.root)}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        self._allocate(state["nodes"], state["trees"])

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, F) float32 features and (B,) bool, false for rows without a clear date."""
        starts = torch.from_numpy(self.spec.calendar.start_days()).to(batch.day.device)
        values, mask, _ = grid_view(batch, starts)
        filled = fill_gaps(values, mask)
        columns = [filled]
        for high, low in _INDICES:
            if high in self.spec.bands and low in self.spec.bands:
                a, b = (filled[..., self.spec.bands.index(name)] for name in (high, low))
                total = a + b
                ratio = torch.where(total.abs() > 1e-6, (a - b) / torch.where(total == 0, 1, total), 0)
                columns.append(ratio.clamp(-1, 1)[..., None])
        return torch.cat(columns, -1).flatten(1).float(), mask.any(1)

    def prepare(self, data: TrainingData, context: Context) -> None:
        from sklearn.ensemble import RandomForestClassifier

        x, seen = self.features(data.labelled)
        usable = seen & data.labelled.y_mask
        if not usable.any():
            raise DataError(
                "no labelled parcel with a clear date", hint="check the labels, the clear classes and the cloud mask"
            )
        y = data.labelled.y[usable]
        seed = int(torch.randint(2**31 - 1, (1,), generator=context.generator("forest")))
        forest = RandomForestClassifier(
            self.settings.trees, max_features=self.settings.features, min_samples_leaf=self.settings.smallest_leaf,
            class_weight="balanced" if self.settings.balanced else None, random_state=seed, n_jobs=1,
        )  # fmt: skip
        with context.report.task("growing trees", None):
            forest.fit(x[usable].numpy(), y.numpy())
        self._keep([tree.tree_ for tree in forest.estimators_], np.asarray(forest.classes_))
        count = torch.bincount(y, minlength=self.spec.classes).double().clamp(min=1)
        self.log_prior.copy_((count / count.sum()).log())

    def _keep(self, trees: list[Any], classes: np.ndarray) -> None:
        """Copy scikit-learn's trees into the buffers."""
        sizes = np.asarray([tree.node_count for tree in trees])
        begins = np.cumsum(sizes) - sizes
        self._allocate(int(sizes.sum()), len(trees))
        for begin, size, tree in zip(begins.tolist(), sizes.tolist(), trees, strict=True):
            nodes = slice(begin, begin + size)
            inner = tree.children_left >= 0
            self.feature[nodes] = torch.from_numpy(np.where(inner, tree.feature, _LEAF).astype(np.int32))
            self.threshold[nodes] = torch.from_numpy(tree.threshold.copy())
            self.left[nodes] = torch.from_numpy(np.where(inner, tree.children_left + begin, _LEAF).astype(np.int32))
            self.right[nodes] = torch.from_numpy(np.where(inner, tree.children_right + begin, _LEAF).astype(np.int32))
            share = tree.value[:, 0, :]
            share = share / share.sum(1, keepdims=True)
            self.vote[nodes.start : nodes.stop, torch.from_numpy(classes)] = torch.from_numpy(share).float()
        self.root.copy_(torch.from_numpy(begins))

    def probabilities(self, x: Tensor) -> Tensor:
        """(B, K) mean vote of the trees for features x (B, F): all rows walk down all trees together."""
        node = self.root.expand(len(x), -1)
        while True:
            feature = self.feature[node].long()
            inner = feature != _LEAF
            if not inner.any():
                return self.vote[node].mean(1)
            value = x.gather(1, feature.clamp(min=0))
            below = torch.where(value.double() <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(inner, below.long(), node)

    def log_posterior(self, batch: Batch) -> Tensor:
        x, seen = self.features(batch)
        share = torch.cat([self.probabilities(part) for part in x.split(_ROWS_AT_ONCE)])
        trees, pseudo = len(self.root), self.settings.smoothing
        smoothed = (trees * share + pseudo * self.log_prior.exp()) / (trees + pseudo)
        return torch.where(seen[:, None], smoothed.log(), self.log_prior)
