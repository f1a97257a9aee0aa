"""Names in brackets are names, not styles of the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cropgen.api.data import StoreResult
from cropgen.cli.render import facts_table, plain_table, store_summary
from cropgen.cli.session import Session, TerminalReporter
from cropgen.core.paths import Workspace
from cropgen.core.tally import Tally

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


def test_what_is_left_out_is_counted_and_its_first_ids_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = {"outside the scenes": Tally(7, list("abcdef"))}
    result = StoreResult(tmp_path, 3, (2021,), ("B04",), 2, left)
    Session(Workspace(tmp_path), as_json=True).show("aggregate", result)
    told = json.loads(capsys.readouterr().out)["result"]["dropped"]
    assert told == {"outside the scenes": {"count": 7, "first": list("abcdef")}}
    Session(Workspace(tmp_path)).show("aggregate", result, *store_summary(result))
    assert "outside the scenes: a, b, c, d, e and 2 more" in capsys.readouterr().out
