"""Trees as flat arrays."""

from __future__ import annotations

import numpy as np
import torch

from cropgen.models.layers.trees import FlatTrees, Tree

# x0 <= 0.5 ? 1 : (x1 <= 2 ? 2 : 3), and a tree that is a single leaf
SPLIT = Tree(
    feature=np.array([0, -2, 1, -2, -2]),
    threshold=np.array([0.5, 0.0, 2.0, 0.0, 0.0]),
    left=np.array([1, -1, 3, -1, -1]),
    right=np.array([2, -1, 4, -1, -1]),
    value=np.array([[0.0], [1.0], [0.0], [2.0], [3.0]]),
)
LEAF = Tree(np.array([-2]), np.zeros(1), np.array([-1]), np.array([-1]), np.array([[7.0]]))
X = torch.tensor([[0.5, 9.0], [0.6, 2.0], [0.6, 2.1]])


def test_rows_walk_to_the_leaves_written_down() -> None:
    trees = FlatTrees(1)
    trees.keep([SPLIT, LEAF, SPLIT])
    assert trees(X)[..., 0].tolist() == [[1, 7, 1], [2, 7, 2], [3, 7, 3]]
    assert trees.sizes() == {"nodes": 11, "trees": 3}


def test_they_fit_into_arrays_of_their_sizes() -> None:
    trees, other = FlatTrees(1), FlatTrees(1)
    trees.keep([LEAF, SPLIT])
    other.allocate(**trees.sizes())
    other.load_state_dict(trees.state_dict())
    assert torch.equal(other(X), trees(X))


def test_keeping_others_forgets_the_first() -> None:
    trees = FlatTrees(1)
    trees.keep([SPLIT, SPLIT])
    trees.keep([LEAF])
    assert trees(X)[..., 0].tolist() == [[7], [7], [7]]
