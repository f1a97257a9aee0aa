"""Progress as an argument: the library reports, whoever called decides what is shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Task(Protocol):
    """One piece of long work."""

    def advance(self, amount: float = 1.0) -> None:
        """`amount` more units are done."""
        ...

    def note(self, text: str) -> None:
        """A few words on the present state, shown beside the bar."""
        ...


class Reporter(Protocol):
    """Receives progress and messages."""

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Open a task of `total` units (None: unknown)."""
        ...

    def info(self, text: str) -> None:
        """One line a user wants to know."""
        ...

    def warn(self, text: str) -> None:
        """One line a user must not miss."""
        ...


class _SilentTask:
    def advance(self, amount: float = 1.0) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Nothing is shown."""


class Silent:
    """A reporter that shows nothing and remembers what it was told.

    `messages` and `warnings` let tests and `--json` callers read what a terminal would have shown.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Task]:
        yield _SilentTask()

    def info(self, text: str) -> None:
        self.messages.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
