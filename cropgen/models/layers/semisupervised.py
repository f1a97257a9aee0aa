"""Losses that let a density learn from labelled and unlabelled parcels, and a recognition head learn from both.

With J_y(x) = log p(x, y) or a lower bound of it, F the mean number of observed values of a row, π the class prior,
β a learnt inverse temperature and q(y | x) the recognition head:

    generative    −J_y / F                                     labelled
    marginal      −log Σ_y exp J_y / F                         unlabelled; classes weighted by the density, never by q
    hybrid        −log softmax_y(β (J_y − log π_y) + log π_y)  labelled
    recognition   −log q(y | x)                                labelled
    distillation  −Σ_y sg[p(y | x)] log q(y | x)               unlabelled; Bayes teaches the head

J is an estimate from draws of the latent. Its value at the draw stands in the two losses that are not linear in it, so
by Jensen's inequality the mean of log Σ_y exp J_y lies above that of the exact J and need not be a bound; scores are
importance-weighted and are one.

What classifies is the start, Bayes' rule, the head, or their product; `choose_rule` lets held-out rows judge.

References:
    Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014.
    Principled Hybrids of Generative and Discriminative Models, Lasserre, Bishop and Minka, 2006.
    Classification and Regression Trees, Breiman, Friedman, Olshen and Stone, 1984 (one standard error).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cropgen.models.base import GradientOptions, Objective

Rule = Literal["product", "learnt", "bayes", "q", "start", "densities"]
Decision = Literal["product", "learnt", "bayes", "q", "auto"]
RULES: tuple[Rule, ...] = get_args(Rule)
FIRST_LOG_BETA = -0.7
UNIFORM_SHARE = 0.01


class SemiSupervisedOptions(GradientOptions):
    """Weights of the losses and the rule of decision, shared by the deep generative models."""

    learning_rate: float = Field(
        1e-3, gt=0, description="peak of the one-cycle schedule", json_schema_extra={"search": [3e-4, 1e-3, 3e-3]}
    )
    generative: float = Field(1.0, ge=0, description="weight of the density of labelled parcels")
    marginal: float = Field(1.0, ge=0, description="weight of the density of unlabelled parcels, classes summed out")
    hybrid: float = Field(1.0, ge=0, description="weight of the cross-entropy of Bayes' rule on labelled parcels")
    recognition: float = Field(1.0, ge=0, description="weight of the cross-entropy of q(y|x) on labelled parcels")
    distillation: float = Field(1.0, ge=0, description="weight of teaching q(y|x) by Bayes' rule on unlabelled parcels")
    decide: Decision = Field(
        "auto",
        description="what classifies: bayes, q (the recognition head), learnt (the product of both), product (of both "
        "and the start), or auto: learnt from 10 labels a class on, else product, unless validation rows find better; "
        "and the densities alone where a season lacks the last quarter of those learnt from",
        json_schema_extra={"search": ["auto", "product", "bayes", "q"]},
    )


@dataclass(frozen=True)
class Evidence:
    """What a model says of a mini-batch.

    Arguments:
        joint: (B, K) log p(x, y) or a bound, in any units that do not depend on the class.
        logits: (B, K) of q(y | x).
        log_prior: (K,) log π.
        log_beta: () logarithm of the inverse temperature of Bayes' rule.
        observed: (B,) number of observed values of each row.
        y: (B,) class, −1 unknown.
    """

    joint: Tensor
    logits: Tensor
    log_prior: Tensor
    log_beta: Tensor
    observed: Tensor
    y: Tensor


def tempered_posterior(joint: Tensor, log_prior: Tensor, log_beta: Tensor) -> Tensor:
    """(B, K) normalised β (log p(x, y) − log π_y) + log π_y."""
    return torch.log_softmax(log_beta.exp() * (joint - log_prior) + log_prior, -1)


def _mean_over(rows: Tensor, values: Tensor) -> Tensor:
    """Mean of (B,) values over the rows (B,) bool; 0 when there are none."""
    return torch.where(rows, values, 0).sum() / rows.sum().clamp(min=1)


def semisupervised_objective(evidence: Evidence, options: SemiSupervisedOptions) -> Objective:
    """The five losses of the module's table, weighted by the options."""
    known = evidence.y >= 0
    seen = evidence.observed > 0
    size = evidence.observed.to(evidence.joint.dtype).mean().clamp(min=1)
    answer = evidence.y.clamp(min=0)[:, None]
    log_bayes = tempered_posterior(evidence.joint, evidence.log_prior, evidence.log_beta)
    log_q = torch.log_softmax(evidence.logits, -1)
    teacher = torch.softmax(evidence.joint.detach(), -1)
    parts = {
        "generative": _mean_over(known & seen, -evidence.joint.gather(1, answer)[:, 0]) / size,
        "marginal": _mean_over(~known & seen, -torch.logsumexp(evidence.joint, -1)) / size,
        "hybrid": _mean_over(known & seen, -log_bayes.gather(1, answer)[:, 0]),
        "recognition": _mean_over(known & seen, -log_q.gather(1, answer)[:, 0]),
        "distillation": _mean_over(~known & seen, -(teacher * log_q).sum(-1)),
    }
    total = torch.stack([getattr(options, name) * value for name, value in parts.items()]).sum()
    return Objective(total, parts)


def choose_rule(said: dict[Rule, Tensor], y: Tensor, otherwise: Rule = "product") -> Rule:
    """The rule of the least mean NLL where it is better than `otherwise` by more than one standard error.

    Arguments:
        said: (N, K) log p(y | x) of rows that nothing was fitted to, by rule; that of `otherwise` among them.
        y: (N,) their classes.
    """
    nll: dict[Rule, Tensor] = {
        rule: functional.nll_loss(told.double(), y, reduction="none") for rule, told in said.items()
    }
    best = min(nll, key=lambda rule: float(nll[rule].mean()))
    gain = nll[otherwise] - nll[best]
    error = float(gain.std(correction=1)) / math.sqrt(len(y)) if len(y) > 1 else math.inf
    return best if float(gain.mean()) > error else otherwise


def decide(
    rule: Rule,
    log_bayes: Tensor,
    logits: Tensor,
    log_prior: Tensor,
    observed: Tensor,
    log_start: Tensor | None = None,
) -> Tensor:
    """(B, K) log p(y | x) by a rule of decision, mixed with 1 % of the uniform; the prior where nothing was observed.

    A product is the equal log-linear pool, renormalised: `learnt` of Bayes' rule and q, `densities` of Bayes' rule and
    the posterior the model began with, `product` of all three.

    Arguments:
        log_bayes: (B, K) tempered log posterior of the density.
        logits: (B, K) of q(y | x).
        log_prior: (K,).
        observed: (B,) number of observed values.
        log_start: (B, K) tempered log posterior of the tied Gaussian; None where the model did not begin there.
    """
    log_q = torch.log_softmax(logits, -1)
    experts = [log_bayes] if rule == "densities" else [log_bayes, log_q]
    if log_start is not None and rule != "learnt":
        experts.insert(0, log_start)
    chosen = {"bayes": log_bayes, "q": log_q, "start": log_start}.get(rule)
    if chosen is None:
        chosen = torch.log_softmax(torch.stack(experts).mean(0), -1)
    mixed = (1 - UNIFORM_SHARE) * chosen.exp() + UNIFORM_SHARE / chosen.shape[-1]
    return torch.where((observed > 0)[:, None], mixed.log(), functional.log_softmax(log_prior, -1))
