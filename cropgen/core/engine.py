"""Map units of work: one after another, in processes of this machine, or on a dask cluster.

What a unit gives depends on the unit alone, so the engine and the number of workers decide only how long it takes. A
unit that fails, or whose worker dies, is reported as failed and the others go on. An interruption ends all workers.

    serial      in this process
    processes   `jobs` processes of this machine; one that dies is replaced
    dask        `jobs` processes of a cluster started here, or the workers of a scheduler that runs already; they must
                have this package and see the same files
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, get_args

from cropgen.core.errors import CropgenError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from distributed import Client

Kind = Literal["serial", "processes", "dask"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_END_SECONDS = 5.0
_CONNECT_SECONDS = 20

_Unit = TypeVar("_Unit")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Engine:
    """Where units of work are done.

    Arguments:
        kind: serial, processes or dask.
        jobs: how many at a time; a scheduler has as many as it has.
        scheduler: address of a dask scheduler that runs already, such as tcp://host:8786.
    """

    kind: Kind = "serial"
    jobs: int = 1
    scheduler: str | None = None

    @classmethod
    def chosen(cls, kind: str | None = None, jobs: int = 1, scheduler: str | None = None) -> Engine:
        """What is meant where not everything is said: a scheduler means dask, several jobs mean processes.

        Raises:
            UsageError: the kind is unknown, or does not go with the rest.
            MissingDependencyError: dask is asked for and not installed.
        """
        if jobs < 1:
            raise UsageError(f"--jobs: expected 1 or more, got {jobs}", hint="for example --jobs 2")
        kind = kind or ("dask" if scheduler else "processes" if jobs > 1 else "serial")
        named: dict[str, Kind] = {str(k): k for k in KINDS}
        known = named.get(kind)
        if known is None:
            raise UsageError(f"unknown engine {kind!r}", hint=f"one of {', '.join(KINDS)}")
        if known == "serial" and jobs > 1:
            raise UsageError(f"--engine serial does one job at a time, got --jobs {jobs}", hint="--engine processes")
        if known != "dask" and scheduler:
            raise UsageError(f"--scheduler is of dask, got --engine {known}", hint="leave --engine out")
        if known == "dask":
            _import_dask()
        return cls(known, jobs, scheduler)


@dataclass(frozen=True)
class Outcome(Generic[_Value]):
    """What became of one unit.

    Arguments:
        position: of the unit among those given.
        value: what the work returned; None where it failed.
        failure: why it failed; None where it did not.
    """

    position: int
    value: _Value | None = None
    failure: CropgenError | None = None


def run_units(
    work: Callable[[_Unit], _Value], units: Sequence[_Unit], engine: Engine | None = None
) -> Iterator[Outcome[_Value]]:
    """Do the work of every unit and give the outcomes as they come, in any order.

    Arguments:
        work: called with one unit; for processes and dask it, the units and what it returns must be picklable.
        engine: where; None means serial.

    Raises:
        CropgenError: the scheduler cannot be reached.
    """
    engine = engine or Engine()
    if engine.kind == "serial":
        return (_attempt(work, position, unit) for position, unit in enumerate(units))
    if engine.kind == "processes":
        return _in_processes(work, units, engine.jobs)
    return _on_dask(work, units, engine)


def _attempt(work: Callable[[_Unit], _Value], position: int, unit: _Unit) -> Outcome[_Value]:
    try:
        return Outcome(position, work(unit))
    except CropgenError as error:
        return Outcome(position, failure=error)
    except MemoryError:
        return Outcome(position, failure=CropgenError("out of memory", hint="use fewer --jobs or fewer parcels"))
    except OSError as error:
        return Outcome(position, failure=CropgenError(f"{error.strerror or error}", hint="check space and permissions"))


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """What a worker process does: units in, outcomes out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_master, daemon=True).start()
    while True:
        try:
            position, unit = pipe.recv()
        except EOFError:
            return
        pipe.send(_attempt(work, position, unit))


def _end_with_master() -> None:
    """End this process as soon as the one that started it is gone."""
    master = multiprocessing.parent_process()
    if master is not None:
        wait([master.sentinel])
        os._exit(1)


class _Worker:
    """A process and the unit it is at."""

    def __init__(self, context: SpawnContext, work: Callable[[Any], Any]) -> None:
        self.pipe, far = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(work, far), daemon=True)
        self._process.start()
        far.close()
        self._position = -1

    def give(self, position: int, unit: object) -> None:
        self._position = position
        self.pipe.send((position, unit))

    def take(self) -> tuple[Outcome[Any], bool]:
        """The outcome that waits, and whether the worker lives on."""
        try:
            return self.pipe.recv(), True
        except (EOFError, ConnectionError):
            self._process.join()
            return Outcome(self._position, failure=_death(self._process.exitcode)), False

    def end(self) -> None:
        """Close the pipe, which ends an idle worker, and stop one that is busy."""
        self.pipe.close()
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(_END_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _death(code: int | None) -> CropgenError:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "perhaps out of memory: use fewer --jobs" if name == "SIGKILL" else "repeat it with --engine serial"
        return CropgenError(f"its worker was ended by {name}", hint=hint)
    return CropgenError(f"its worker ended with code {code}", hint="what it said is above")


def _in_processes(work: Callable[[_Unit], _Value], units: Sequence[_Unit], jobs: int) -> Iterator[Outcome[_Value]]:
    context = multiprocessing.get_context("spawn")
    waiting = deque(enumerate(units))
    busy: dict[Connection, _Worker] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker = _Worker(context, work)
                busy[worker.pipe] = worker
                worker.give(*waiting.popleft())
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # pyright: ignore[reportArgumentType]
                outcome, lives = worker.take()
                if lives and waiting:
                    worker.give(*waiting.popleft())
                else:
                    del busy[worker.pipe]
                    worker.end()
                yield outcome
    finally:
        for worker in busy.values():
            worker.end()


def _import_dask() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingDependencyError(
            "dask is not installed", hint="pip install 'cropgen[scale]', or use --engine processes"
        ) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return distributed


def _on_dask(work: Callable[[_Unit], _Value], units: Sequence[_Unit], engine: Engine) -> Iterator[Outcome[_Value]]:
    """Outcomes from a cluster. A dead worker takes down what waited beside the unit that killed it, so those units are
    done again, one at a time: what then fails is to blame itself."""
    with _client(engine) as client:
        suspects, workers = [], cast("dict[str, int]", client.nthreads())
        for outcome, killed in _stream(client, work, list(enumerate(units)), max(len(workers), 1)):
            if killed:
                suspects.append((outcome.position, units[outcome.position]))
            else:
                yield outcome
        for outcome, _ in _stream(client, work, suspects, 1):
            yield outcome


def _stream(
    client: Client, work: Callable[[_Unit], _Value], units: list[tuple[int, _Unit]], width: int
) -> Iterator[tuple[Outcome[_Value], bool]]:
    """Outcomes of numbered units, `width` of them submitted at a time, each with whether its worker died."""
    distributed = _import_dask()
    waiting, flying, done = iter(units), {}, distributed.as_completed()

    def submit() -> None:
        position, unit = next(waiting, (-1, None))
        if position >= 0:
            future = client.submit(work, unit, pure=False, retries=0)
            flying[future] = position
            done.add(future)

    try:
        for _ in range(width):
            submit()
        for future in done:
            position, failed = flying.pop(future), future.exception()
            submit()
            value, failure = (future.result(), None) if failed is None else (None, _dask_failure(failed))
            yield Outcome(position, value, failure), isinstance(failed, distributed.KilledWorker)
    finally:
        if flying:
            client.cancel(list(flying))


def _client(engine: Engine) -> Client:
    """A client of the scheduler named, or of a cluster of its own that ends with it.

    The workers of its own cluster share the memory there is, as processes do: dask would end one that takes more than
    the machine's memory by the number of its cores, however few workers there are.

    Raises:
        CropgenError: the scheduler does not answer.
    """
    distributed = _import_dask()
    if engine.scheduler is None:
        from dask import config

        with config.set({"distributed.scheduler.allowed-failures": 0}):
            return distributed.Client(
                n_workers=engine.jobs, threads_per_worker=1, memory_limit=0, dashboard_address=None
            )
    try:
        return distributed.Client(engine.scheduler, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise CropgenError(
            f"no dask scheduler at {engine.scheduler}: {error}", hint="start one, or leave --scheduler out"
        ) from error


def _dask_failure(error: BaseException) -> CropgenError:
    if isinstance(error, CropgenError):
        return error
    return CropgenError(
        f"its worker failed: {type(error).__name__}: {error}".split("\n")[0], hint="see the worker's log"
    )
