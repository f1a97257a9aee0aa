"""Work on several threads whose results come in the order of the work, a bounded number of them at a time."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


_TURN_SECONDS = 5e-4


@contextmanager
def short_turns() -> Iterator[None]:
    """Let threads that wait for the interpreter have it sooner: work that needs it seldom and briefly, such as reading,
    goes on beside work that holds it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_order(work: Callable[[_Item], _Value], items: Iterable[_Item], threads: int = 1) -> Iterator[_Value]:
    """What `work` gives for each item, in the order of the items; an exception comes in its turn.

    Unlike `Executor.map`, no more than `threads` + 1 items are taken ahead of what is asked for, so neither items nor
    results pile up. What waits when the caller stops is not begun.

    Arguments:
        threads: that work side by side; with one there is none but the caller's own.
    """
    if threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[_Value]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def one_ahead(work: Callable[[_Item], _Value], items: Iterable[_Item], pool: ThreadPoolExecutor) -> Iterator[_Value]:
    """What `work` gives for each item, in the order of the items, each made beside what the caller does meanwhile.

    The first is begun at once, whether it is asked for or not, every other one when the one before it is handed out.
    """
    rest = iter(items)
    waiting = deque(pool.submit(work, item) for item in islice(rest, 1))

    def results() -> Iterator[_Value]:
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
            yield value

    return results()
