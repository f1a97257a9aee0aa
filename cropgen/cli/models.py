"""`cropgen models`: what can be trained, and with which options."""

from __future__ import annotations

from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE
from cropgen.cli.session import session_of


def models(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show one model and its options.", show_default=False)] = None,
) -> None:
    """List the models, or the options of one."""
    from cropgen import api

    session = session_of(context)
    if name is None:
        entries = api.models()
        session.show("models", entries, render.models_table(entries))
    else:
        card = api.model_card(name)
        session.show("models", card, *render.model_card(card))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(models)
