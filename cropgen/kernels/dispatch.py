"""Which kernel runs the recurrence: `--kernel auto|reference|hoisted|triton`.

reference   the specification, everything inside the loop over dates; any device and floating type
hoisted     what does not depend on z_{t−1} computed for all dates at once; any device and floating type
triton      one launch forward and one backward; CUDA, with the extra `kernels`
auto        triton where it can run the chain at hand, else hoisted
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from cropgen.core.errors import DeviceError, MissingDependencyError, UsageError
from cropgen.kernels.recurrence import hoisted, reference
from cropgen.kernels.recurrence.reference import Chain, ChainInputs, ChainPath

RunChain = Callable[[Chain, ChainInputs], ChainPath]

CHOICES: tuple[str, ...] = ("auto", "reference", "hoisted", "triton")


def check_kernel(name: str) -> None:
    """Raises UsageError where there is no kernel of this name, on whatever device."""
    if name not in CHOICES:
        raise UsageError(f"unknown kernel {name!r}", hint=f"one of {', '.join(CHOICES)}")


def resolve_kernel(name: str, device: torch.device | str, chain: Chain | None = None) -> str:
    """The kernel that `name` stands for on a device, to be recorded with what it makes.

    Arguments:
        chain: what the kernel must be able to run; None: any chain.

    Raises:
        UsageError: there is no such kernel.
        DeviceError: the fused kernel was asked for without a GPU, or cannot run the chain there.
        MissingDependencyError: the fused kernel was asked for and triton is not installed.
    """
    check_kernel(name)
    on_gpu = torch.device(device).type == "cuda"
    installed = importlib.util.find_spec("triton") is not None
    if name == "auto":
        return "triton" if on_gpu and installed and _why_not_fused(chain, torch.device(device)) is None else "hoisted"
    if name == "triton" and not on_gpu:
        raise DeviceError(
            f"kernel 'triton' needs a CUDA device, the model is on {torch.device(device).type}",
            hint="pass --kernel auto, which takes the hoisted kernel here",
        )
    if name == "triton" and not installed:
        raise MissingDependencyError("kernel 'triton' needs the package triton", hint="pip install 'cropgen[kernels]'")
    if name == "triton" and (reason := _why_not_fused(chain, torch.device(device))):
        raise DeviceError(f"kernel 'triton' cannot run this chain: {reason}", hint="pass --kernel auto")
    return name


def select_kernel(name: str = "auto") -> RunChain:
    """The function that runs the latent chain.

    Arguments:
        name: `auto` (decided at every call, by the device of the noise and by the chain), or the name of a kernel.

    Raises:
        UsageError: there is no such kernel.
        DeviceError: the fused GPU kernel was asked for and there is no GPU.
        MissingDependencyError: the fused GPU kernel was asked for and triton is not installed.
    """
    if name == "auto":
        return _run_auto
    resolved = resolve_kernel(name, "cuda" if torch.cuda.is_available() else "cpu")
    return {"reference": reference.run_chain, "hoisted": hoisted.run_chain, "triton": _run_fused}[resolved]


def _why_not_fused(chain: Chain | None, device: torch.device) -> str | None:
    from cropgen.kernels.recurrence import triton

    return None if chain is None else triton.why_not(chain, device)


def _run_auto(chain: Chain, inputs: ChainInputs) -> ChainPath:
    run = _run_fused if resolve_kernel("auto", inputs.noise.device, chain) == "triton" else hoisted.run_chain
    return run(chain, inputs)


def _run_fused(chain: Chain, inputs: ChainInputs) -> ChainPath:
    from cropgen.kernels.recurrence import triton

    return triton.run_chain(chain, inputs)
