"""The fused kernels in Triton's interpreter against the float64 specification, as operators, and as machine code.

The interpreter must be chosen before the kernels are defined, so these tests run `fused_checks.py` in processes of
their own: one small case in the default suite, every chain over ragged shapes among the slow tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cropgen.core.errors import DeviceError
from cropgen.kernels.dispatch import resolve_kernel
from cropgen.kernels.recurrence import triton
from tests.kernels.problems import KINDS, Shape, random_problem

ROOT = Path(__file__).resolve().parents[2]
FUSED = [name for name, kind in KINDS.items() if kind.cell != "lstm"]

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def checked(*arguments: str, interpret: bool = True) -> dict:
    """What `fused_checks.py` prints."""
    environment = os.environ | {"TRITON_INTERPRET": "1" if interpret else "0", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.fused_checks", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def assert_close_to_reference(found: dict[str, dict[str, float]]) -> None:
    assert found
    for case, errors in found.items():
        assert errors["path"] <= 2e-6, case
        assert errors["gradients"] <= 2e-6, case


@needs_triton
def test_interpreter_equals_reference_in_small() -> None:
    assert_close_to_reference(checked("equal", "small", "dkf"))


@needs_triton
@pytest.mark.slow
def test_interpreter_equals_reference_for_every_chain() -> None:
    """Rows that are no multiple of the tile, one date, ragged seasons with holes, a row never observed."""
    found = checked("equal", "wide", *FUSED)
    assert len(found) == 2 * len(FUSED)
    assert_close_to_reference(found)


@needs_triton
@pytest.mark.slow
def test_interpreter_equals_reference_for_the_cell_alone() -> None:
    assert_close_to_reference(checked("cell"))


@needs_triton
@pytest.mark.slow
def test_operators_are_sound() -> None:
    """Schemas, shapes without running, autograd registration; a second derivative is refused."""
    assert checked("operators") == {"chain": "SUCCESS", "cell": "SUCCESS", "second derivative": "refused"}


@needs_triton
@pytest.mark.slow
def test_autocast_rounds_factors_to_half_precision() -> None:
    found = checked("autocast")
    assert 1e-6 < found["path"] < 5e-3
    assert found["dtype"] == "torch.float32"


SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("capability", "chain", "units"), [(80, "srnn", 128), (90, "srnn", 64), (90, "srnn", 128),
                                                            (90, "gru", 128), (90, "vrnn", 64)])  # fmt: skip
def test_machine_code_keeps_everything_on_the_chip(capability: int, chain: str, units: int) -> None:
    """Compiled without a GPU: no register is spilled, and a program's shared memory is there."""
    found = checked("compile", str(capability), str(units), "fp16", chain, interpret=False)
    assert len(found) == 2
    for kernel, used in found.items():
        assert used["spilled"] == 0, kernel
        assert used["registers"] <= 255, kernel
        assert 0 < used["shared"] <= SHARED_MEMORY[capability], kernel


def test_chains_that_the_kernel_cannot_run_are_refused_with_the_reason() -> None:
    chain, inputs = random_problem(KINDS["vrnn-lstm"], Shape(2, 2, 4, 2), dtype=torch.float32)
    assert "LSTM" in (triton.why_not(chain) or "")
    with pytest.raises(DeviceError, match="cannot run this chain: its cell is an LSTM"):
        triton.run_chain(chain, inputs)
    chain, _ = random_problem(KINDS["srnn"], Shape(2, 2, 4, 2))
    assert "weights are float64" in (triton.why_not(chain) or "")
    chain, _ = random_problem(KINDS["srnn"], Shape(2, 2, 129, 2), dtype=torch.float32)
    assert "more than 128 units" in (triton.why_not(chain) or "")


@pytest.mark.parametrize(("precision", "chain", "units", "compiled"), [
    ("fp16", "vrnn", 64, 100480), ("fp16", "vrnn", 128, 268416), ("tf32", "vrnn", 64, 194688),
    ("ieee", "vrnn", 128, 538752), ("fp16", "rvae", 128, 213056), ("tf32", "rvae", 64, 155712),
    ("fp16", "srnn", 128, 80000), ("tf32", "srnn", 128, 149632), ("fp16", "dmm", 128, 94336),
    ("tf32", "dmm", 128, 176256),
])  # fmt: skip
def test_shared_memory_is_what_the_compiler_asks_for(precision: str, chain: str, units: int, compiled: int) -> None:
    """For a GPU of either capability, 16 latent dimensions; a chain without transition asks for a little less."""
    made, _ = random_problem(KINDS[chain], Shape(2, 2, units, 16), dtype=torch.float32)
    found = triton.shared_memory(made, precision)
    assert compiled <= found <= compiled + (6208 if chain == "rvae" else 0)


@needs_triton
@pytest.mark.parametrize(("capability", "chain", "units", "kernel"), [
    (80, "srnn", 128, "triton"), (80, "vrnn", 128, "hoisted"), (90, "vrnn", 128, "hoisted"),
    (80, "vrnn", 64, "hoisted"), (90, "vrnn", 64, "triton"), (80, "rvae", 64, "triton"), (80, "dmm", 128, "hoisted"),
])  # fmt: skip
def test_auto_leaves_what_does_not_fit_the_device_to_the_hoisted_kernel(
    capability: int, chain: str, units: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = SimpleNamespace(shared_memory_per_block_optin=SHARED_MEMORY[capability])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: there)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    made, _ = random_problem(KINDS[chain], Shape(2, 2, units, 16), dtype=torch.float32)
    assert resolve_kernel("auto", "cuda", made) == kernel
    reason = triton.why_not(made, torch.device("cuda"))
    assert (reason is None) == (kernel == "triton")
    assert reason is None or "of shared memory, a program has" in reason
    if reason is None:
        assert resolve_kernel("triton", "cuda", made) == "triton"
    else:
        with pytest.raises(DeviceError, match="cannot run this chain: its weights take"):
            resolve_kernel("triton", "cuda", made)


@needs_triton
def test_series_on_the_cpu_are_refused() -> None:
    chain, inputs = random_problem(KINDS["srnn"], Shape(2, 2, 4, 2), dtype=torch.float32)
    assert triton.why_not(chain) is None
    with pytest.raises(DeviceError, match="needs a CUDA device, the series are on cpu"):
        triton.run_chain(chain, inputs)
