"""How measurements look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from cropgen.cli.render import facts_table, plain_table

if TYPE_CHECKING:
    from cropgen import api


def kernel_tables(result: api.KernelBench) -> list[RenderableType]:
    """The machine, one line per chain, size and kernel, and what was not measured."""
    first = result.rows[0]
    size = f"T = {first.steps}, H = {first.units}, Z = {first.latent}, forward + backward"
    facts = {"machine": result.machine, "torch": f"{result.torch}, {result.threads} threads", "size": size}
    table = plain_table(
        "chain", "B", "kernel", "factors", "ms", "× reference", "error", "gradients", numeric=frozenset({1, 4, 5, 6, 7})
    )
    slowest = {(row.chain, row.rows): row.ms for row in result.rows if row.backend == "reference"}
    for row in result.rows:
        table.add_row(
            row.chain, str(row.rows), row.backend, row.dtype, f"{row.ms:.1f}",
            f"{slowest[row.chain, row.rows] / max(row.ms, 1e-9):.1f}",
            f"{row.path_error:.0e}", f"{row.gradient_error:.0e}",
        )  # fmt: skip
    return [facts_table(facts | {"auto": result.automatic}), table, *(Text(remark) for remark in result.remarks)]
