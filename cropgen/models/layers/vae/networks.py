"""Perceptrons that answer for every class at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClasswiseMLP(nn.Module):
    """out(relu(W f + V u + U_y)): the input is embedded once and the class added to the hidden layer, so that K classes
    share the product with W.

    Arguments:
        inputs: size of f.
        classes: K; 1 for a network without a class.
        outputs: size of the answer.
        beside: size of u, an input that the classes need not share; 0 for none.
        hidden: width of the hidden layer.
        start_at_zero: the last layer begins at zero.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        outputs: int,
        *,
        beside: int = 0,
        hidden: int = 128,
        start_at_zero: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.embed_beside = nn.Linear(beside, hidden, bias=False) if beside else None
        self.of_class = nn.Parameter(torch.zeros(classes, hidden))
        self.answer = nn.Linear(hidden, outputs)
        if start_at_zero:
            nn.init.zeros_(self.answer.weight)
            nn.init.zeros_(self.answer.bias)

    def forward(self, f: Tensor, u: Tensor | None = None) -> Tensor:
        """(…, K or 1, inputs) and (…, K or 1, beside) → (…, K, outputs) for all classes."""
        return self._answer(self.embed(f) + self.of_class, u)

    def chosen(self, f: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """(B, outputs) for one class per row: f (B, inputs), y (B,) and u (B, beside)."""
        return self._answer(self.embed(f) + self.of_class[y], u)

    def _answer(self, inside: Tensor, u: Tensor | None) -> Tensor:
        if self.embed_beside is not None and u is not None:
            inside = inside + self.embed_beside(u)
        return self.answer(torch.relu(inside))
