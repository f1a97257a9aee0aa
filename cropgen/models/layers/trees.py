"""Decision trees kept as flat arrays, so that a saved ensemble is data and not a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LEAF = -1


@dataclass(frozen=True)
class Tree:
    """One grown tree of n nodes, node 0 its root.

    Arguments:
        feature: (n,) int position of the feature that a node splits on; read at inner nodes only.
        threshold: (n,) float64; a value at most this goes to the left.
        left, right: (n,) int positions of the children, negative at leaves.
        value: (n, W) what a leaf answers.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray


class FlatTrees(nn.Module):
    """Trees with answers of width W.

    Nodes of all trees lie in one array; `left` and `right` are absolute positions, −1 at a leaf.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    root: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.allocate(0, 0)

    def allocate(self, nodes: int, trees: int) -> None:
        """Bring the arrays to a size, every node a leaf."""
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.full((nodes,), _LEAF, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("value", torch.zeros(nodes, self.width))
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))

    def sizes(self) -> dict[str, Any]:
        """What `allocate` needs to hold these trees."""
        return {"nodes": len(self.feature), "trees": len(self.root)}

    def keep(self, trees: list[Tree]) -> None:
        """Hold these trees and no others."""
        sizes = np.asarray([len(tree.feature) for tree in trees])
        begins = np.cumsum(sizes) - sizes
        self.allocate(int(sizes.sum()), len(trees))
        for begin, size, tree in zip(begins.tolist(), sizes.tolist(), trees, strict=True):
            nodes = slice(begin, begin + size)
            inner = tree.left >= 0
            for name, content in (
                ("feature", tree.feature), ("left", tree.left + begin), ("right", tree.right + begin),
            ):  # fmt: skip
                getattr(self, name)[nodes] = torch.from_numpy(np.where(inner, content, _LEAF).astype(np.int32))
            self.threshold[nodes] = torch.from_numpy(tree.threshold.astype(np.float64))
            self.value[nodes] = torch.from_numpy(np.ascontiguousarray(tree.value)).to(self.value.dtype)
        self.root.copy_(torch.from_numpy(begins))

    def forward(self, x: Tensor) -> Tensor:
        """(B, trees, W) answer of every tree for features x (B, F): all rows walk down all trees together."""
        node = self.root.expand(len(x), -1)
        while True:
            feature = self.feature[node].long()
            inner = feature != _LEAF
            if not inner.any():
                return self.value[node]
            value = x.gather(1, feature.clamp(min=0))
            below = torch.where(value.double() <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(inner, below.long(), node)
