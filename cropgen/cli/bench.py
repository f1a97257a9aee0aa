"""`cropgen bench`: how right and how fast this machine computes, in tables to paste."""

from __future__ import annotations

from typing import Annotated

import typer

from cropgen.cli.options import GLOBAL_NOTE
from cropgen.cli.render_bench import kernel_tables
from cropgen.cli.session import session_of

bench = typer.Typer(help="Check and time what is computed here.", no_args_is_help=True)


@bench.command(epilog=GLOBAL_NOTE)
def kernels(
    context: typer.Context,
    chain: Annotated[
        list[str] | None, typer.Option("--chain", help="dkf, dmm, srnn, vrnn or rvae; may be repeated. Default: all.")
    ] = None,
    rows: Annotated[list[int] | None, typer.Option("--rows", help="Series in a batch; may be repeated.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Dates.")] = 70,
    units: Annotated[int, typer.Option("--units", help="Hidden units.")] = 64,
    latent: Annotated[int, typer.Option("--latent", help="Latent dimensions.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", help="Passes of each kernel; the median counts.")] = 5,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Compare the kernels of the recurrence with double precision, and time a forward and backward pass."""
    from cropgen import api

    session = session_of(context)
    sizes = {"chains": tuple(chain)} if chain else {}
    result = api.bench_kernels(
        **sizes, rows=tuple(rows or (16, 256)), steps=steps, units=units, latent=latent, rounds=rounds, device=device,
        report=session.report,
    )  # fmt: skip
    session.show("bench kernels", result, *kernel_tables(result))


def register(app: typer.Typer) -> None:
    app.add_typer(bench, name="bench")
