"""Peak memory of a piece of work."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Highest resident memory of this process while the block ran, in MB (10⁶ bytes).

    `megabytes` stays None where the system does not tell (it is read from Linux' process file system).
    """

    megabytes: float | None = None

    def __enter__(self) -> Self:
        self._reset = self._try_reset()
        return self

    @staticmethod
    def _try_reset() -> bool:
        try:
            _CLEAR.write_text("5")
        except OSError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._reset:
            return
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                self.megabytes = round(int(line.split()[1]) * 1024 / 1e6, 1)
