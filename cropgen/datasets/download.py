"""Many files at once, each tried until it is whole or there is no address left.

A file is whole when its size and digest are right; only then does it get its name. Several are fetched side by side
under one limit of speed. Dropped connections and busy servers are retried with exponential back-off and jitter, going
on behind what came; a refusal is final for an address, and the next mirror is tried. A mirror goes on behind what came
from elsewhere where a digest is published; where none is, nothing tells that its bytes are the same, and what came is
kept for the address it came from.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from cropgen.core.errors import CorruptInputError, CropgenError, UnfinishedError
from cropgen.core.progress import Reporter, Task
from cropgen.datasets.digests import check
from cropgen.datasets.lock import FetchLock, LockedFile
from cropgen.datasets.manifest import RemoteFile
from cropgen.datasets.transfer import Again, Part, Stopped, UnwritableError, Wire, new_session, transfer

_LONGEST_WAIT = 60.0
_LONGEST_ASKED = 600.0
_PROGRESS = 1 << 20
_POLL = 0.05


@dataclass(frozen=True)
class DownloadOptions:
    """How to download.

    Arguments:
        jobs: files fetched side by side.
        retries: attempts after the first that bring less than 1 MiB, before an address is given up.
        backoff: seconds before the first further attempt, doubled each time, with jitter.
        timeout: seconds of silence, or of less than 1 KiB, after which a connection counts as dropped.
        limit_rate: bytes per second of all together; None: as fast as it comes.
        insecure: addresses and redirects of plain http are followed.
    """

    jobs: int = 4
    retries: int = 5
    backoff: float = 0.5
    timeout: float = 30.0
    limit_rate: float | None = None
    insecure: bool = False


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    lock: FetchLock,
    options: DownloadOptions,
    report: Reporter,
    whole: Callable[[RemoteFile, LockedFile], None],
) -> None:
    """Fetch files into a folder.

    Arguments:
        folder: gets every file under its `path`.
        lock: what the files were when they were first here.
        whole: called as soon as a file is whole and in place, from the thread that fetched it.

    Raises:
        UnfinishedError: a file could not be completed; what came is kept.
        CorruptInputError: what came is not the file.
        UnwritableError: the disk is full or the folder cannot be written; what came is kept.
        CropgenError: the host refuses.
    """
    sizes = [f.size_bytes or f.about_bytes for f in files]
    total = math.ceil(sum(s for s in sizes if s) / 1e6) if all(sizes) else None
    with report.task("downloading (MB)", total) as task:
        crew = _Crew(
            files, folder, lock, options, report, _Meter(task, options.limit_rate, sized=total is not None), whole
        )
        crew.work()


class _Meter:
    """Counts bytes, keeps to the speed limit, and shows speed and remaining time.

    Arguments:
        task: counts in MB.
        limit: bytes per second, or None.
        sized: the task knows its total, so that whoever shows it can tell the remaining time.
    """

    def __init__(self, task: Task, limit: float | None, *, sized: bool) -> None:
        self.stop = threading.Event()
        self._task = task
        self._limit = limit
        self._guard = threading.Lock()
        self._begun = time.monotonic()
        self._free = self._begun
        self._bytes = 0
        self._sized = sized
        self._before = 0
        self._totals: dict[str, int] = {}

    def resume(self, number: int) -> None:
        """Bytes that were here before; they are no speed."""
        with self._guard:
            self._before += number
            self._task.advance(number / 1e6)

    def expect(self, path: str, total: int) -> None:
        """A file that has begun has this size."""
        with self._guard:
            self._totals[path] = total

    def received(self, number: int) -> None:
        with self._guard:
            self._bytes += number
            self._task.advance(number / 1e6)
            self._task.note(self._state(max(self._bytes / max(time.monotonic() - self._begun, 1e-3), 1.0)))
            wait = 0.0
            if self._limit is not None and number > 0:
                now = time.monotonic()
                self._free = max(self._free, now) + number / self._limit
                wait = self._free - now
        if wait > 0:
            self.stop.wait(wait)

    def _state(self, speed: float) -> str:
        """Speed, and what remains of the files begun where the total of all is not known."""
        text = f"{speed / 1e6:.1f} MB/s"
        if self._sized or not self._totals:
            return text
        total = sum(self._totals.values())
        left = max(total - self._before - self._bytes, 0) / speed
        return f"of {total / 1e6:,.0f} MB begun, {text}, {left // 60:.0f}:{left % 60:02.0f} left"


class _Crew:
    """Threads that take files from a queue; daemons, so that an interrupted process does not wait for a silent host."""

    def __init__(
        self, files: Sequence[RemoteFile], folder: Path, lock: FetchLock, options: DownloadOptions, report: Reporter,
        meter: _Meter, whole: Callable[[RemoteFile, LockedFile], None],
    ) -> None:  # fmt: skip
        self._queue: SimpleQueue[RemoteFile] = SimpleQueue()
        for file in files:
            self._queue.put(file)
        self._threads = min(options.jobs, len(files))
        self._folder, self._lock, self._options, self._report = folder, lock, options, report
        self._meter, self._whole = meter, whole
        self._failures: list[tuple[RemoteFile, BaseException]] = []
        self._wire = Wire(
            options.timeout, options.insecure, meter.stop, meter.received, meter.expect, report.info
        )  # fmt: skip

    def work(self) -> None:
        threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(_POLL)
                threads.append(threads.pop(0))
        finally:
            self._meter.stop.set()
        self._raise_failures()

    def _run(self) -> None:
        while not self._meter.stop.is_set():
            try:
                file = self._queue.get_nowait()
            except Empty:
                return
            try:
                self._fetch(file)
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                self._failures.append((file, error))

    def _raise_failures(self) -> None:
        unexpected = [error for _, error in self._failures if not isinstance(error, CropgenError)]
        if unexpected:
            raise unexpected[0]
        needed = []
        for file, error in self._failures:
            refused = isinstance(error, CropgenError) and not isinstance(error, UnfinishedError | UnwritableError)
            if file.optional and refused:
                self._report.warn(f"{file.path} is left out: {error}")
            elif isinstance(error, CropgenError):
                needed.append(error)
        if needed:
            needed.sort(key=lambda error: isinstance(error, UnfinishedError))
            for error in needed[1:]:
                self._report.warn(error.message)
            raise needed[0]

    def _fetch(self, file: RemoteFile) -> None:
        target = self._folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Part(target)
        self._meter.resume(part.size)
        failures: list[CropgenError] = []
        with new_session() as session:
            for url in sorted(file.addresses, key=lambda address: address != part.url):
                try:
                    locked = self._from_address(url, file, part, lambda u: transfer(session, u, part, file, self._wire))
                except UnwritableError:
                    raise
                except CropgenError as error:
                    if file.mirrors and not file.has_digest and part.size and part.tag_of(url) is not None:
                        raise _kept(file, url, part, error) from error
                    failures.append(error)
                    continue
                part.finish(target)
                self._whole(file, locked)
                return
        for error in failures[:-1]:
            self._report.warn(error.message)
        raise failures[-1]

    def _from_address(self, url: str, file: RemoteFile, part: Part, ask: Callable[[str], None]) -> LockedFile:
        """The record of a whole, right file; a wrong one is fetched once more if it was put together from pieces."""
        for _ in range(2):
            resumed = part.size > 0
            self._complete(url, file, part, ask)
            try:
                found, trust = check(part.path, file, self._lock.get(file.path), url)
            except CorruptInputError:
                self._meter.received(-part.size)
                part.drop()
                if not resumed:
                    raise
                continue
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return LockedFile(
                path=file.path, origin=url, fetched=now, size_bytes=found.size_bytes, sha256=found.sha256,
                verified=trust,
            )  # fmt: skip
        raise CorruptInputError(f"{file.path} from {url} was wrong twice", hint="use a mirror, or --from DIR")

    def _complete(self, url: str, file: RemoteFile, part: Part, ask: Callable[[str], None]) -> None:
        """Attempts until the part is whole."""
        failed = 0
        while True:
            before = part.size
            try:
                ask(url)
                return
            except Again as error:
                failed = 1 if part.size - before >= _PROGRESS else failed + 1
                if failed > self._options.retries or (error.wait or 0) > _LONGEST_ASKED:
                    raise self._unfinished(url, file, part, error) from error
                self._pause(error.wait, failed)
                self._report.info(f"{file.path}: {error}; trying again behind {part.size:,} bytes")

    def _pause(self, asked: float | None, failed: int) -> None:
        jitter = random.uniform(0.5, 1.0)
        wait = asked if asked is not None else min(self._options.backoff * 2 ** (failed - 1), _LONGEST_WAIT) * jitter
        if self._meter.stop.wait(wait):
            raise Stopped

    def _unfinished(self, url: str, file: RemoteFile, part: Part, error: Again) -> CropgenError:
        asked = f", try again in {error.wait:.0f} s" if error.wait else ""
        return UnfinishedError(
            f"{file.path} from {url}: {error}{asked}",
            hint=f"{part.size:,} bytes are kept; the same command goes on behind them. --offline uses what is here",
        )


def _kept(file: RemoteFile, url: str, part: Part, error: CropgenError) -> UnfinishedError:
    """What is raised where a mirror would begin anew, though a beginning is here."""
    if isinstance(error, UnfinishedError):
        return error
    return UnfinishedError(
        f"{file.path} from {url} is not whole: {error.message}",
        hint=f"{part.size:,} bytes are kept; the same command asks this address again; delete {part.path} to begin "
        "anew elsewhere",
    )
