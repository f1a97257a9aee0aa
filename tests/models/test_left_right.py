"""Chains that go one way, against every path written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.models.layers.left_right import Chain


def chain(stages: int, seed: int) -> tuple[Chain, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = torch.softmax(torch.randn(stages, generator=generator, dtype=torch.float64), 0)
    stay = torch.rand(stages, generator=generator, dtype=torch.float64)
    return Chain.of(start, stay), start, stay


def paths(start: torch.Tensor, stay: torch.Tensor, emission: torch.Tensor) -> list[tuple[tuple[int, ...], float]]:
    """Every passage through the stages with its joint probability with the observations (L, S)."""
    steps, stages = emission.shape
    found = []
    for path in itertools.product(range(stages), repeat=steps):
        p = float(start[path[0]] * emission[0, path[0]].exp())
        for step in range(1, steps):
            here, to = path[step - 1], path[step]
            kept = 1.0 if here == stages - 1 else float(stay[here])
            p *= (kept if to == here else 1 - kept if to == here + 1 else 0.0) * float(emission[step, to].exp())
        found.append((path, p))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 999))
def test_likelihood_and_expectations_are_sums_over_all_paths(stages: int, steps: int, seed: int) -> None:
    one, start, stay = chain(stages, seed)
    emission = torch.randn(steps, stages, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    listed = paths(start, stay, emission)
    total = sum(p for _, p in listed)
    assert float(one.log_likelihood(emission)) == pytest.approx(math.log(total))
    found = one.expect(emission[None])
    assert float(found.log_likelihood[0]) == pytest.approx(math.log(total))
    occupied, stayed, went = torch.zeros(steps, stages), torch.zeros(stages), torch.zeros(stages)
    for path, p in listed:
        for step, stage in enumerate(path):
            occupied[step, stage] += p / total
            if step:
                (stayed if stage == path[step - 1] else went)[path[step - 1]] += p / total
    torch.testing.assert_close(found.occupied[0].float(), occupied)
    torch.testing.assert_close(found.stayed.float(), stayed)
    torch.testing.assert_close(found.went.float(), went)


def test_a_gap_is_crossed_by_the_power_of_the_transition_matrix() -> None:
    one, start, stay = chain(3, 5)
    matrix = torch.diag(torch.cat([stay[:2], torch.ones(1).double()])) + torch.diag(1 - stay[:2], 1)
    emission = torch.zeros(7, 3, dtype=torch.float64)
    emission[0] = torch.tensor([0.3, -1.0, 0.2])
    emission[6] = torch.tensor([-0.5, 0.4, 1.0])
    expected = (start * emission[0].exp()) @ torch.linalg.matrix_power(matrix, 6) @ emission[6].exp()
    torch.testing.assert_close(one.log_likelihood(emission), expected.log())


def test_nothing_seen_has_probability_one_and_many_chains_run_together() -> None:
    start = torch.softmax(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), 1)
    many = Chain.of(start, torch.rand(4, 5, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(many.log_likelihood(torch.zeros(3, 4, 9, 5)), torch.zeros(3, 4))
    emission = torch.randn(3, 4, 9, 5, generator=torch.Generator().manual_seed(2))
    for k in range(4):
        single = Chain(many.log_start[k], many.log_stay[k], many.log_go[k])
        torch.testing.assert_close(single.log_likelihood(emission[:, k]), many.log_likelihood(emission)[:, k])
        torch.testing.assert_close(single.forward(emission[:, k]), many.forward(emission)[:, k])


def test_walks_go_one_way_and_as_often_as_they_should() -> None:
    start, stay = torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.8, 0.5, 0.9])
    walk = Chain.of(start.expand(4000, -1), stay.expand(4000, -1)).walk(6, torch.Generator().manual_seed(0))
    step = walk[:, 1:] - walk[:, :-1]
    assert set(step.unique().tolist()) == {0, 1}
    assert float((walk[:, 0] == 1).double().mean()) == pytest.approx(0.3, abs=0.03)
    for stage, expected in ((0, 0.2), (1, 0.5), (2, 0.0)):
        assert float(step[walk[:, :-1] == stage].double().mean()) == pytest.approx(expected, abs=0.03)
