"""The losses by hand, and the rules of decision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cropgen.models.layers.semisupervised import (
    Evidence,
    SemiSupervisedOptions,
    choose_rule,
    decide,
    semisupervised_objective,
    tempered_posterior,
)

PRIOR = torch.tensor([0.25, 0.75], dtype=torch.float64)
JOINT = torch.tensor([[-1.0, -2.0], [-5.0, -3.0]], dtype=torch.float64)
LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=torch.float64)


def evidence(y: list[int], observed: list[int], log_beta: float = 0.0) -> Evidence:
    return Evidence(
        JOINT.clone().requires_grad_(),
        LOGITS.clone().requires_grad_(),
        PRIOR.log(),
        torch.tensor(log_beta, dtype=torch.float64),
        torch.tensor(observed),
        torch.tensor(y),
    )


def only(name: str) -> SemiSupervisedOptions:
    weights = dict.fromkeys(("generative", "marginal", "hybrid", "recognition", "distillation"), 0.0)
    return SemiSupervisedOptions.model_validate(weights | {name: 2.0})


def test_each_loss_by_hand() -> None:
    found = semisupervised_objective(evidence([1, -1], [4, 6]), SemiSupervisedOptions.model_validate({})).terms
    bayes = [math.exp(-1), math.exp(-2)]
    total = math.exp(-5) + math.exp(-3)
    teacher = [math.exp(-5) / total, math.exp(-3) / total]
    expected = {
        "generative": 2.0 / 5,
        "marginal": -math.log(total) / 5,
        "hybrid": -math.log(bayes[1] / sum(bayes)),
        "recognition": -math.log(0.75),
        "distillation": -sum(t * math.log(0.5) for t in teacher),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["generative", "marginal", "hybrid", "recognition", "distillation"])
def test_options_weight_the_losses(name: str) -> None:
    objective = semisupervised_objective(evidence([1, -1], [4, 6]), only(name))
    assert torch.isclose(objective.total, 2 * objective.terms[name])


def test_rows_without_observations_and_absent_kinds_count_nothing() -> None:
    silent = semisupervised_objective(evidence([1, -1], [0, 0]), SemiSupervisedOptions.model_validate({}))
    assert silent.total.item() == 0
    labelled = semisupervised_objective(evidence([1, 0], [4, 4]), SemiSupervisedOptions.model_validate({})).terms
    assert labelled["marginal"].item() == 0
    assert labelled["distillation"].item() == 0


def test_the_teacher_receives_no_gradient() -> None:
    material = evidence([-1, -1], [4, 4])
    semisupervised_objective(material, only("distillation")).total.backward()
    assert material.logits.grad is not None
    assert material.joint.grad is None or not material.joint.grad.any()


def test_temperature_acts_on_the_likelihood_only() -> None:
    frozen = tempered_posterior(JOINT, PRIOR.log(), torch.tensor(-50.0, dtype=torch.float64))
    assert torch.allclose(frozen.exp(), PRIOR.expand(2, 2))
    plain = tempered_posterior(JOINT, PRIOR.log(), torch.tensor(0.0, dtype=torch.float64))
    assert torch.allclose(plain, torch.log_softmax(JOINT, -1))


def _decide(rule: str, observed: list[int]) -> Tensor:
    bayes = torch.log_softmax(JOINT, -1)
    return decide(rule, bayes, LOGITS, PRIOR.log(), torch.tensor(observed))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rule", ["bayes", "q", "learnt", "product"])
def test_decisions_are_normalised_and_fall_back_to_the_prior(rule: str) -> None:
    answer = _decide(rule, [3, 0]).exp()
    assert torch.allclose(answer.sum(-1), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(answer[1], PRIOR)
    assert answer.min() >= 0.01 / 2 - 1e-12


def test_the_product_is_the_geometric_mean() -> None:
    bayes, q = torch.softmax(JOINT[0], -1), torch.softmax(LOGITS[0], -1)
    pooled = (bayes * q).sqrt() / (bayes * q).sqrt().sum()
    assert torch.allclose(_decide("product", [3, 3])[0].exp(), 0.99 * pooled + 0.005)


def test_the_start_joins_the_product_and_nothing_else() -> None:
    start = torch.log_softmax(torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64), -1)
    bayes, q = torch.log_softmax(JOINT, -1), torch.log_softmax(LOGITS, -1)
    pooled = torch.softmax((start + bayes + q) / 3, -1)
    observed = torch.tensor([3, 3])
    answer = decide("product", bayes, LOGITS, PRIOR.log(), observed, start)
    assert torch.allclose(answer.exp(), 0.99 * pooled + 0.005)
    for rule in ("bayes", "q", "learnt"):
        assert torch.equal(decide(rule, bayes, LOGITS, PRIOR.log(), observed, start), _decide(rule, [3, 3]))


def told(*right: float) -> Tensor:
    """log p(y | x) of rows of class 0 that get these probabilities of it."""
    p = torch.tensor(right, dtype=torch.float64)
    return torch.stack([p, 1 - p], 1).log()


@pytest.mark.parametrize(
    ("q", "chosen"),
    [
        ((0.9, 0.9, 0.9, 0.9), "q"),
        ((0.7, 0.7, 0.7, 0.7), "product"),  # worse
        ((0.99, 0.8, 0.75, 0.8), "product"),  # better by 0.037 nats, but the standard error is 0.061
        ((0.99, 0.9, 0.75, 0.9), "q"),  # better by 0.096 nats, more than the standard error of 0.058
    ],
)
def test_a_rule_replaces_the_product_beyond_one_standard_error(q: tuple[float, ...], chosen: str) -> None:
    said = {"product": told(0.8, 0.8, 0.8, 0.8), "bayes": told(0.5, 0.5, 0.5, 0.5), "q": told(*q)}
    assert choose_rule(said, torch.zeros(4, dtype=torch.int64)) == chosen  # pyright: ignore[reportArgumentType]


def test_one_row_overturns_nothing() -> None:
    one = torch.zeros(1, dtype=torch.int64)
    assert choose_rule({"product": told(0.1), "start": told(0.9)}, one) == "product"
    assert choose_rule({"product": told(0.1), "learnt": told(0.1), "start": told(0.9)}, one, "learnt") == "learnt"
