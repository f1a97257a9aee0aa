"""What the tests of the readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from cropgen.series.store import SeriesStore


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A block that must be interrupted, in which a store takes a number of shards and dies at the next."""

    @contextmanager
    def killed(shards: int) -> Iterator[None]:
        append, left = SeriesStore.append, [shards]

        def dies(store: SeriesStore, *content: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            append(store, *content)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(SeriesStore, "append", dies)
            with pytest.raises(KeyboardInterrupt):
                yield

    return killed
