"""Names in brackets are names, not styles of the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cropgen.cli.render import facts_table, plain_table
from cropgen.cli.session import Session, TerminalReporter
from cropgen.core.paths import Workspace

NAMES = ("[/east]", "wheat [winter]")


def test_tables_show_names_in_brackets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = plain_table("crop")
    for name in NAMES:
        table.add_row(name)
    Session(Workspace(tmp_path)).show("evaluate", None, table, facts_table({name: name for name in NAMES}), NAMES[0])
    shown = capsys.readouterr().out
    assert [shown.count(name) for name in NAMES] == [4, 3]


def test_bars_show_names_in_brackets() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(Console(file=stream, force_terminal=True, width=120), quiet=False)
    with reporter.task(NAMES[0], 2) as task:
        task.note(NAMES[1])
        assert reporter._bars is not None
        reporter._bars.refresh()
    assert NAMES[0] in stream.getvalue()
    assert NAMES[1] in stream.getvalue()
