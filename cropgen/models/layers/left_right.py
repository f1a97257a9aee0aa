"""Chains that pass through stages in one direction: exact likelihoods and expected counts, in log space.

A chain of L steps and S stages starts in stage s with probability π_s and at every step stays with probability a_s or
goes on to the next stage; the last stage is kept. A step without an observation has the emission 1, so a gap of n steps
is crossed by the n-th power of the transition matrix.

Reference: A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition, Rabiner, 1989.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chain:
    """Left-to-right chains; leading dimensions (…) are those of independent chains.

    Arguments:
        log_start: (…, S) log π.
        log_stay: (…, S) log a; 0 in the last stage.
        log_go: (…, S) log(1 − a); −inf in the last stage.
    """

    log_start: Tensor
    log_stay: Tensor
    log_go: Tensor

    @classmethod
    def of(cls, start: Tensor, stay: Tensor) -> Chain:
        """From probabilities: start (…, S), and staying (…, S), which is 1 in the last stage whatever is given."""
        final = torch.zeros(stay.shape[-1], dtype=torch.bool, device=stay.device)
        final[-1] = True
        kept = torch.where(final, 1.0, stay)
        return cls(start.log(), kept.log(), (1 - kept).log())

    def forward(self, emission: Tensor) -> Tensor:
        """(…, L, S) log p(x_1…l, stage at l) for log emissions (…, L, S)."""
        alpha = self.log_start + emission[..., 0, :]
        steps = [alpha]
        for step in range(1, emission.shape[-2]):
            alpha = self._advance(alpha) + emission[..., step, :]
            steps.append(alpha)
        return torch.stack(steps, -2)

    def log_likelihood(self, emission: Tensor) -> Tensor:
        """(…) log p(x) for log emissions (…, L, S)."""
        alpha = self.log_start + emission[..., 0, :]
        for step in range(1, emission.shape[-2]):
            alpha = self._advance(alpha) + emission[..., step, :]
        return torch.logsumexp(alpha, -1)

    def expect(self, emission: Tensor) -> Expected:
        """What Baum-Welch counts, for log emissions (N, L, S) of N rows."""
        alpha = self.forward(emission)
        total = torch.logsumexp(alpha[:, -1], -1)
        beta = torch.zeros_like(alpha[:, 0])
        occupied = [torch.exp(alpha[:, -1] - total[:, None])]
        stayed, went = torch.zeros_like(self.log_stay), torch.zeros_like(self.log_stay)
        for step in range(emission.shape[1] - 2, -1, -1):
            later = emission[:, step + 1] + beta
            following = torch.cat([later[:, 1:], torch.full_like(later[:, :1], -torch.inf)], 1)
            stay, go = self.log_stay + later, self.log_go + following
            here = alpha[:, step] - total[:, None]
            stayed = stayed + torch.exp(here + stay).sum(0)
            went = went + torch.exp(here + go).sum(0)
            beta = torch.logaddexp(stay, go)
            occupied.append(torch.exp(here + beta))
        return Expected(torch.stack(occupied[::-1], 1), stayed, went, total)

    def _advance(self, alpha: Tensor) -> Tensor:
        gone = (alpha + self.log_go)[..., :-1]
        arrived = torch.cat([torch.full_like(alpha[..., :1], -torch.inf), gone], -1)
        return torch.logaddexp(alpha + self.log_stay, arrived)

    def walk(self, steps: int, generator: torch.Generator) -> Tensor:
        """(B, L) int64 a random passage of each of B chains; `log_start` is (B, S)."""
        start = self.log_start.exp().double().cpu()
        stage = torch.multinomial(start, 1, generator=generator)
        stages = [stage]
        stay = self.log_stay.exp().double().cpu()
        for _ in range(steps - 1):
            chance = torch.rand(stage.shape, generator=generator, dtype=torch.float64)
            stage = stage + (chance >= stay.gather(1, stage)).long()
            stages.append(stage)
        return torch.cat(stages, 1)


@dataclass(frozen=True)
class Expected:
    """Expectations given the observations.

    Arguments:
        occupied: (N, L, S) p(stage at l | x).
        stayed, went: (S,) expected number of steps that stayed in a stage and that left it, over all rows.
        log_likelihood: (N,).
    """

    occupied: Tensor
    stayed: Tensor
    went: Tensor
    log_likelihood: Tensor
