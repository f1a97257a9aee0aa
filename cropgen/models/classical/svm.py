"""Support vector machine on gap-filled bands and vegetation indices, linear or with a radial kernel.

Features are standardised by the labelled rows; one that is constant there is only centred. For every pair of classes
i < j one margin is learnt,

    d_ij(x) = Σ_s a_ijs k(x_s, x) + b_ij,    k(x, z) = x·z   or   exp(−γ/F |x − z|²)

with F the number of features; d_ij > 0 votes for i. The machine is trained by scikit-learn; support vectors, their dual
coefficients and intercepts are then held as tensors and evaluated here. Margins become a posterior by smooth votes,

    score_i(x) = 2/K Σ_{j ≠ i} log σ(α d_ij(x)),   d_ji = −d_ij,      p(y | x) = softmax_y(β score_y(x))

with the steepness α and the inverse temperature β chosen by cross-validation on the labels; of two classes this is
Platt's sigmoid.

References:
    Support-Vector Networks, Cortes and Vapnik, 1995;
    Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods, Platt, 1999.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.layers.features import (
    class_log_prior,
    labelled_features,
    require_classes,
    scale_of,
    season_features,
)
from cropgen.models.layers.held_out import fit_temperature, held_out_scores
from cropgen.models.layers.innovations import tempered
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 2048
_STEEPNESS = (0.5, 1.0, 2.0, 4.0, 8.0)


class SupportVectorOptions(Options):
    """Options of the support vector machine."""

    kernel: Literal["rbf", "linear"] = Field(
        "rbf", description="radial or linear", json_schema_extra={"search": ["rbf", "linear"]}
    )
    cost: float = Field(
        100.0,
        gt=0,
        description="weight of a margin that is not kept",
        json_schema_extra={"search": [10.0, 100.0, 1000.0]},
    )
    gamma: float = Field(
        0.03, gt=0, description="sharpness of the radial kernel, times 1/features",
        json_schema_extra={"search": [0.03, 0.1, 0.3]},
    )  # fmt: skip
    balanced: bool = Field(False, description="weight parcels by the inverse of their crop's frequency")


class SupportVectorMachine(Classifier):
    """p(y | x) from pairwise margins.

    Attributes:
        centre, scale: (F,) standardisation of the features.
        support: (S, F) support vectors, ordered by class.
        dual: (S, P) what each support vector adds to the margin of each of the P = L(L − 1)/2 pairs.
        intercept: (P,).
        first, second: (P,) the classes of each pair, of the L classes that have labels.
    """

    Settings: ClassVar[type[Options]] = SupportVectorOptions
    centre: Tensor
    scale: Tensor
    support: Tensor
    dual: Tensor
    intercept: Tensor
    first: Tensor
    second: Tensor
    log_prior: Tensor
    steepness: Tensor
    beta: Tensor

    def __init__(self, spec: InputSpec, options: SupportVectorOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self._allocate(0, 0, 0)
        self.register_buffer("log_prior", torch.full((spec.classes,), 1 / spec.classes).log())
        self.register_buffer("steepness", torch.tensor(2.0))
        self.register_buffer("beta", torch.tensor(1.0))

    def _allocate(self, features: int, vectors: int, pairs: int) -> None:
        shapes = {"centre": (features,), "scale": (features,), "support": (vectors, features), "dual": (vectors, pairs)}
        for name, shape in (shapes | {"intercept": (pairs,)}).items():
            self.register_buffer(name, torch.zeros(shape))
        for name in ("first", "second"):
            self.register_buffer(name, torch.zeros(pairs, dtype=torch.int64))

    def fixed_state(self) -> dict[str, Any]:
        return {"features": len(self.centre), "vectors": len(self.support), "pairs": len(self.first)}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        self._allocate(state["features"], state["vectors"], state["pairs"])

    def prepare(self, data: TrainingData, context: Context) -> None:
        x, y = labelled_features(data.labelled, self.spec)
        require_classes(y, self.spec)
        self.log_prior.copy_(class_log_prior(y, self.spec.classes))
        with context.report.task("support vectors", None):
            self._calibrate(x, y, context)
            self._separate(x, y)
        context.facts["svm"] = context.facts.get("svm", {}) | {"support_vectors": len(self.support)}

    def _calibrate(self, x: Tensor, y: Tensor, context: Context) -> None:
        """Choose α and β on labels that were held out."""

        def votes(learn: Tensor, judge: Tensor) -> Tensor:
            if len(y[learn].unique()) < 2:
                return self.log_prior.expand(len(_STEEPNESS), int(judge.sum()), -1).transpose(0, 1)
            self._separate(x[learn], y[learn])
            margins = self.margins(x[judge])
            return torch.stack([self._votes(margins, steepness) for steepness in _STEEPNESS], 1)

        scores, answers = held_out_scores(y, votes, context.generator("svm/folds"))
        if not len(answers):
            return
        judged = {a: fit_temperature(scores[:, i].double(), answers) for i, a in enumerate(_STEEPNESS)}
        best = min(judged, key=lambda a: judged[a].nll)
        self.steepness.fill_(best)
        self.beta.fill_(judged[best].beta)
        context.facts["svm"] = {"nll": round(judged[best].nll, 4), "beta": judged[best].beta, "steepness": best}

    def _separate(self, x: Tensor, y: Tensor) -> None:
        """Learn the margins from features x (N, F) of classes y (N,) and hold them."""
        from sklearn.svm import SVC

        centre = x.double().mean(0)
        scale = scale_of(x.double().std(0, correction=0))
        standard = ((x.double() - centre) / scale).numpy()
        machine = SVC(
            kernel=self.settings.kernel, C=self.settings.cost, gamma=cast(Any, self.settings.gamma / x.shape[1]),
            class_weight="balanced" if self.settings.balanced else None, decision_function_shape="ovo",
        ).fit(standard, y.numpy())  # fmt: skip
        dual, first, second = _pairwise(machine)
        self._allocate(x.shape[1], *dual.shape)
        for name, content in (
            ("centre", centre), ("scale", scale), ("support", torch.from_numpy(machine.support_vectors_)),
            ("dual", torch.from_numpy(dual)), ("intercept", torch.from_numpy(_intercept(machine))),
            ("first", torch.from_numpy(first)), ("second", torch.from_numpy(second)),
        ):  # fmt: skip
            getattr(self, name).copy_(content)

    def margins(self, x: Tensor) -> Tensor:
        """(B, P) d_ij of every pair for features x (B, F)."""
        return torch.cat([self._margins(part) for part in x.split(_ROWS_AT_ONCE)])

    def _margins(self, x: Tensor) -> Tensor:
        standard = (x.to(self.scale.dtype) - self.centre) / self.scale
        if self.settings.kernel == "linear":
            return standard @ (self.support.T @ self.dual) + self.intercept
        squares = standard.square().sum(1)[:, None] + self.support.square().sum(1) - 2 * standard @ self.support.T
        kernel = torch.exp(-self.settings.gamma / x.shape[1] * squares.clamp(min=0))
        return kernel @ self.dual + self.intercept

    def _votes(self, margins: Tensor, steepness: Tensor | float) -> Tensor:
        """(B, K) scores; −inf for a class without labels."""
        classes = torch.cat([self.first, self.second]).unique()
        zero = margins.new_zeros(len(margins), self.spec.classes)
        won = zero.index_add(1, self.first, functional.logsigmoid(steepness * margins))
        score = won.index_add(1, self.second, functional.logsigmoid(-steepness * margins)) * (2 / len(classes))
        absent = torch.ones(self.spec.classes, dtype=torch.bool, device=margins.device)
        absent[classes] = False
        return score.masked_fill(absent, -torch.inf)

    def log_posterior(self, batch: Batch) -> Tensor:
        x, seen = season_features(batch, self.spec)
        score = self._votes(self.margins(x), self.steepness)
        return torch.where(seen[:, None], tempered(score, self.beta), self.log_prior)


def _pairwise(machine: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dual coefficients (S, P), and the first and second class (P,) of each pair, a positive margin for the first.

    scikit-learn keeps for a support vector of class i its coefficient against class j in row j − 1 (j > i) or j
    (j < i). It turns the sign of a two-class machine, so that a positive margin is for the second class there.
    """
    classes, stored = machine.classes_, machine.dual_coef_
    sign = -1.0 if len(classes) == 2 else 1.0
    owner = np.repeat(np.arange(len(classes)), machine.n_support_)
    pairs = [(i, j) for i in range(len(classes)) for j in range(i + 1, len(classes))]
    dual = np.zeros((len(owner), len(pairs)))
    for position, (i, j) in enumerate(pairs):
        dual[owner == i, position] = sign * stored[j - 1, owner == i]
        dual[owner == j, position] = sign * stored[i, owner == j]
    first, second = (np.asarray([classes[pair[side]] for pair in pairs], np.int64) for side in (0, 1))
    return dual, first, second


def _intercept(machine: Any) -> np.ndarray:
    return -machine.intercept_ if len(machine.classes_) == 2 else machine.intercept_
