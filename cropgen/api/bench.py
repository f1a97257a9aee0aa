"""How right and how fast the recurrence is on the machine at hand."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cropgen.core.errors import DeviceError, UsageError
from cropgen.core.progress import Reporter

if TYPE_CHECKING:
    import torch

_CHECKED = {"rows": 19, "steps": 7, "units": 24, "latent": 5}
_PRECISIONS = ("float32", "tf32")


@dataclass(frozen=True)
class KernelRow:
    """One kernel on one chain.

    Arguments:
        ms: milliseconds of a forward and backward pass; of processor time on a CPU.
        path_error, gradient_error: largest difference from double precision, relative to the largest entry.
    """

    chain: str
    backend: str
    device: str
    dtype: str
    rows: int
    steps: int
    units: int
    latent: int
    ms: float
    path_error: float
    gradient_error: float


@dataclass(frozen=True)
class KernelBench:
    """The kernels of a machine: `machine` names it, `automatic` is what `--kernel auto` takes there."""

    machine: str
    torch: str
    threads: int
    automatic: str
    rows: tuple[KernelRow, ...]
    remarks: tuple[str, ...]


def bench_kernels(
    *,
    chains: tuple[str, ...] = (),
    rows: tuple[int, ...] = (16, 256),
    steps: int = 70,
    units: int = 64,
    latent: int = 16,
    rounds: int = 5,
    device: str = "cpu",
    report: Reporter,
) -> KernelBench:
    """Check and time every kernel that runs on a device, on every chain.

    Arguments:
        chains: names of `kernels.measure.CHAINS`; none: all of them.
        rows, steps, units, latent: B, T, H and Z of what is timed.
        rounds: passes of each kernel, which take turns; the median counts.
        device: cpu, cuda or cuda:N.

    Raises:
        UsageError: a chain is unknown, or a size is not positive.
        DeviceError: there is no such device.
    """
    import torch

    from cropgen.kernels.dispatch import resolve_kernel
    from cropgen.kernels.measure import CHAINS, Size, chain_pass, interleaved, largest_error

    where, checked, chains = _device(device), Size(**_CHECKED), chains or CHAINS
    unknown = [name for name in chains if name not in CHAINS]
    if unknown:
        raise UsageError(f"unknown chain {unknown[0]!r}", hint=f"one of {', '.join(CHAINS)}")
    if not rows or min(*rows, steps, units, latent, rounds) < 1:
        raise UsageError("sizes and rounds must be at least 1", hint="cropgen bench kernels --help")
    kernels = ("reference", "hoisted", *(("triton",) if resolve_kernel("auto", where) == "triton" else ()))
    remarks = () if "triton" in kernels else ("triton: not measured, it needs a CUDA device and the extra `kernels`",)
    found = []
    with report.task("kernels", len(chains) * len(rows)) as task:
        for chain in chains:
            errors = {kernel: largest_error(chain, kernel, checked, where) for kernel in kernels}
            for count in rows:
                size = Size(count, steps, units, latent)
                task.note(f"{chain}, {count} rows")
                passes = {kernel: chain_pass(chain, kernel, size, where) for kernel in kernels}
                for kernel, ms in interleaved(passes, rounds, where).items():
                    found.append(KernelRow(chain, kernel, where.type, _precision(kernel), count, steps, units, latent,
                                           ms, *errors[kernel]))  # fmt: skip
                task.advance()
    return KernelBench(
        _machine(where),
        torch.__version__,
        torch.get_num_threads(),
        resolve_kernel("auto", where),
        tuple(found),
        remarks,
    )


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", hint="cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"no device {name}: {torch.cuda.device_count()} CUDA devices here", hint="--device cpu")
    return device


def _precision(kernel: str) -> str:
    import torch

    return _PRECISIONS[kernel == "triton" and torch.backends.cudnn.allow_tf32]


def _machine(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"
