"""How many there are of something, and the first of them: what is held does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 10_000
"""Held at most."""
_SHOWN = 5


@dataclass
class Tally(Generic[T]):
    """Things counted, such as ids of parcels that are left out.

    Arguments:
        count: how many there are.
        first: the first of them, `MOST` at most.
    """

    count: int = 0
    first: list[T] = field(default_factory=list)

    @classmethod
    def of(cls, items: Sequence[T]) -> Tally[T]:
        """A tally of given things."""
        return cls(len(items), list(items[:MOST]))

    def add(self, items: Sequence[T], count: int | None = None) -> None:
        """Count further things.

        Arguments:
            items: all of them, or the first `MOST`.
            count: how many there are, where not all are given.
        """
        self.first += items[: MOST - len(self.first)]
        self.count += len(items) if count is None else count

    def __len__(self) -> int:
        return self.count

    def told(self, say: Callable[[T], str] = str) -> str:
        """The first few, for a message."""
        listed = ", ".join(map(say, self.first[:_SHOWN]))
        further = self.count - min(len(self.first), _SHOWN)
        return f"{listed} and {further} more" if further else listed
