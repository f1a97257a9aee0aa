"""What a training leaves on disk while it runs: the state to resume from, and the metrics stream."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from cropgen.core.errors import CorruptInputError, CropgenError, UsageError
from cropgen.core.files import atomic_output, write_text
from cropgen.training.stopping import Watch

STATE = "state.safetensors"
_RESTART = "start again without --resume, with --overwrite"


@dataclass(frozen=True)
class Elapsed:
    """Steps taken and seconds spent before this sitting began."""

    steps: int = 0
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic, compare=False)

    def seconds_by_now(self) -> float:
        """Seconds over all sittings until now."""
        return self.seconds + time.monotonic() - self.began

    def after(self, steps: int) -> Elapsed:
        """The state when `steps` are done now."""
        return Elapsed(steps, self.seconds_by_now())


@dataclass(frozen=True)
class Ledger:
    """Where a training keeps what it leaves behind.

    Arguments:
        identity: fingerprint of everything that decides the result; a checkpoint of another one is refused.
        checkpoint: folder for the state to resume from; None keeps none.
        resume: continue from `checkpoint` if it holds a state.
        metrics: file for the metrics stream; None keeps none.
    """

    identity: str = ""
    checkpoint: Path | None = None
    resume: bool = False
    metrics: Path | None = None

    def keep(self, model: nn.Module, optimiser: torch.optim.Optimizer, elapsed: Elapsed, watch: Watch) -> None:
        """Write weights, optimiser moments, the best model so far and elapsed steps as one file, atomically."""
        if self.checkpoint is None:
            return
        tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in moments.items()}
        tensors |= {f"watch.{key}": value for key, value in watch.state().items()}
        plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        header = {"identity": self.identity, "steps": str(elapsed.steps), "seconds": str(elapsed.seconds)}
        content = tensors_to_bytes(plain, metadata=header)
        with atomic_output(self.checkpoint / STATE) as part:
            part.write_bytes(content)

    def restore(self, model: nn.Module, optimiser: torch.optim.Optimizer, watch: Watch) -> Elapsed:
        """Bring model, optimiser and watch to the state that was kept; nothing changes where there is none to resume.

        Raises:
            UsageError: it belongs to a different training.
            CorruptInputError: it cannot be read whole.
        """
        if not self.resume or self.checkpoint is None or not (self.checkpoint / STATE).is_file():
            return Elapsed()
        header, tensors = self._read(self.checkpoint / STATE)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below("optimiser", tensors).items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        try:
            model.load_state_dict(_below("model", tensors))
            optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"the state in {self.checkpoint} is of another version", hint=_RESTART) from error
        watch.load(_below("watch", tensors))
        return Elapsed(int(header["steps"]), float(header["seconds"]))

    def _read(self, path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
        try:
            with safe_open(path, framework="pt") as stream:
                header = stream.metadata() or {}
                tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError) as error:
            raise CorruptInputError(f"{path} cannot be read: {error}", hint=_RESTART) from error
        if header.get("identity") != self.identity:
            raise UsageError(f"{path} belongs to a training with other data, options or seed", hint=_RESTART)
        return header, tensors


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


class MetricsLog:
    """One JSON line per logged step, readable while the training runs.

    Arguments:
        path: the file; None writes nothing.
        after: lines of later steps, left by a sitting that was killed, are dropped; 0 begins a new file.
    """

    def __init__(self, path: Path | None, *, after: int) -> None:
        self._path = path
        self._after = after
        self._stream: TextIO | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            write_text(self._path, "".join(self._kept(self._path)))
            self._stream = self._path.open("a", encoding="utf-8")
        return self

    def _kept(self, path: Path) -> list[str]:
        if not self._after or not path.is_file():
            return []
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                step = json.loads(line)["step"]
            except (json.JSONDecodeError, KeyError):
                continue
            if step <= self._after:
                kept.append(line)
        return kept

    def write(self, facts: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            CropgenError: it cannot be written; the training can be resumed.
        """
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps(facts) + "\n")
            self._stream.flush()
        except OSError as error:
            raise CropgenError(
                f"cannot write {self._path}: {error.strerror or error}",
                hint="free space, then continue with --resume",
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
