"""What every verb shares: the workspace, how to speak, and where to."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from cropgen.core.paths import Workspace
from cropgen.core.progress import Task

DOCUMENT_VERSION = 1
_UNICODE = ("utf-8", "utf8")


class _BarTask:
    def __init__(self, bars: Progress, identity: Any) -> None:
        self._bars = bars
        self._identity = identity

    def advance(self, amount: float = 1.0) -> None:
        self._bars.advance(self._identity, amount)

    def note(self, text: str) -> None:
        self._bars.update(self._identity, state=text)


class TerminalReporter:
    """Shows bars on a terminal, messages on stderr unless quiet, warnings always.

    Bars nest: a task opened inside another is drawn below it.
    """

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._bars: Progress | None = None

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Task]:
        outermost = self._bars is None
        if self._bars is None:
            self._bars = self._open_bars()
            self._bars.start()
        identity = self._bars.add_task(description, total=total, state="")
        try:
            yield _BarTask(self._bars, identity)
        finally:
            self._bars.remove_task(identity)
            if outermost:
                self._bars.stop()
                self._bars = None

    def _open_bars(self) -> Progress:
        return Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=28),
            MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}", style="dim", markup=False),
            console=self._console, transient=True, disable=self._quiet or not self._console.is_terminal,
        )  # fmt: skip

    def info(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self._console.print("[yellow]warning:[/yellow]", end=" ")
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class Session:
    """One invocation of the command line.

    Arguments:
        workspace: where defaults are resolved.
        as_json: print one JSON document on stdout instead of text.
        quiet, verbose: how often -q and -v were given.
    """

    workspace: Workspace
    as_json: bool = False
    quiet: int = 0
    verbose: int = 0

    def __post_init__(self) -> None:
        self.out = Console(soft_wrap=False, markup=False)
        self.err = Console(stderr=True)
        self.report = TerminalReporter(self.err, quiet=self.quiet > 0 or self.as_json)
        logging.basicConfig(level=30 - 10 * (self.verbose - self.quiet), stream=sys.stderr, format="%(message)s")

    def show(self, verb: str, result: Any, *renderables: RenderableType) -> None:
        """End a verb: the document with --json, the renderables otherwise."""
        if self.as_json:
            document = {"cropgen": DOCUMENT_VERSION, "verb": verb, "result": to_document(result)}
            plain = (sys.stdout.encoding or "").casefold() not in _UNICODE
            sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=plain) + "\n")
        elif not self.quiet:
            for item in renderables:
                self.out.print(item, highlight=False)
        sys.stdout.flush()


def to_document(value: Any) -> Any:
    """JSON-able form of a result: dataclasses, paths, tuples and numpy scalars unwrapped, NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_document(asdict(value))
    if isinstance(value, dict):
        return {str(k): to_document(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_document(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, type) and hasattr(value, "tolist"):
        return to_document(value.tolist())
    if isinstance(value, float) and value != value:
        return None
    return value


def session_of(context: typer.Context) -> Session:
    """The session of a running command."""
    return context.find_object(Session) or Session(Workspace(Path.cwd()))
