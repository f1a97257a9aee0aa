"""`cropgen doctor`: versions, devices and folders, to paste into a question."""

from __future__ import annotations

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE
from cropgen.cli.session import session_of


def doctor(context: typer.Context) -> None:
    """Check the installation: versions, devices, formats, space."""
    from cropgen import api

    session = session_of(context)
    result = api.doctor(session.workspace)
    session.show("doctor", result, render.doctor_table(result))
    if not result.healthy:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(doctor)
