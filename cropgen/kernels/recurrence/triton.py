"""The latent chain in one launch forward and one backward."""

from __future__ import annotations

from cropgen.core.errors import DeviceError
from cropgen.kernels.recurrence.reference import Chain, ChainInputs, ChainPath


def why_not(chain: Chain) -> str | None:
    """What keeps the fused kernel from running a chain; None: nothing."""
    return "it is not part of this release"


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain; arguments and answer as `hoisted.run_chain`."""
    raise DeviceError(f"kernel 'triton' cannot run this chain: {why_not(chain)}", hint="pass --kernel auto")
