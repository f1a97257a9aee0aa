"""Which kernel runs the recurrence: `--kernel auto|reference|hoisted`."""

from __future__ import annotations

from collections.abc import Callable

from cropgen.core.errors import DeviceError, UsageError
from cropgen.kernels.recurrence import hoisted, reference
from cropgen.kernels.recurrence.reference import Chain, ChainInputs, ChainPath

RunChain = Callable[[Chain, ChainInputs], ChainPath]

KERNELS: dict[str, RunChain] = {"reference": reference.run_chain, "hoisted": hoisted.run_chain}
CHOICES: tuple[str, ...] = ("auto", *KERNELS)


def select_kernel(name: str = "auto") -> RunChain:
    """The function that runs the latent chain.

    Arguments:
        name: `auto` (the fastest there is: hoisted), or the name of a kernel.

    Raises:
        DeviceError: the fused GPU kernel was asked for.
        UsageError: there is no such kernel.
    """
    if name == "auto":
        return KERNELS["hoisted"]
    if name in KERNELS:
        return KERNELS[name]
    hint = f"one of {', '.join(CHOICES)}"
    if name == "triton":
        raise DeviceError("kernel 'triton' is not part of this release", hint=hint)
    raise UsageError(f"unknown kernel {name!r}", hint=hint)
