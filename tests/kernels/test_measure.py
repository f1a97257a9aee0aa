"""Whether kernels are right and how fast they are: what is reported is what was computed."""

from __future__ import annotations

import time

import pytest
import torch

from cropgen.kernels.measure import CHAINS, Size, interleaved, largest_error, learnt, random_chain
from cropgen.kernels.recurrence import triton

SMALL = Size(rows=3, steps=4, units=6, latent=2)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", CHAINS)
def test_every_kernel_here_is_right(name: str) -> None:
    for kernel in ("reference", "hoisted"):
        path, gradients = largest_error(name, kernel, SMALL, CPU)
        assert 0 < path < 1e-5
        assert 0 < gradients < 1e-5


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_the_same_in_every_type_and_fit_the_fused_kernel(name: str) -> None:
    single, _ = random_chain(name, SMALL, dtype=torch.float32, device=CPU)
    double, inputs = random_chain(name, SMALL, dtype=torch.float64, device=CPU)
    torch.testing.assert_close(single.inference.state.double(), double.inference.state, rtol=0, atol=1e-7)
    assert triton.why_not(single) is None
    assert (inputs.mask == 0).any()
    assert all(leaf.requires_grad for leaf in learnt(double, inputs))


def test_medians_are_of_processor_time_without_the_first_round() -> None:
    calls = []

    def busy() -> None:
        calls.append(1)
        begun = time.process_time()
        while time.process_time() - begun < (0.05 if len(calls) == 1 else 0.003):
            pass

    found = interleaved({"busy": busy, "idle": lambda: time.sleep(0.01)}, 3, CPU)
    assert len(calls) == 4
    assert 2.9 < found["busy"] < 40
    assert found["idle"] < found["busy"]
