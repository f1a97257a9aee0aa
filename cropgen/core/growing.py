"""Arrays in `.npy` files: that grow along their first axis, so that what was appended need not be held; and read."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import BinaryIO, Literal, Self

import numpy as np

_ONE_HEADER = threading.Lock()


def load_array(path: Path, mode: Literal["r"] | None = "r") -> np.ndarray:
    """The array in a `.npy` file, mapped, or held where `mode` is None; safe to call from several threads.

    numpy parses the header as Python, and the parser of CPython 3.11 fails where two threads are in it
    (SystemError: AST constructor recursion depth mismatch; github.com/python/cpython/issues/106905).

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with _ONE_HEADER:
        return np.load(path, mmap_mode=mode)


class GrowingArray:
    """An array of one dimension in a file, appended to until it is closed; the file is as `numpy.save` writes it.

    numpy leaves room in the header of a file for the first axis to grow, so the header is written again at the end.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._dtype = np.dtype(dtype)
        self._stream: BinaryIO = path.open("wb")
        self._length = 0
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._length

    def append(self, part: np.ndarray) -> None:
        """Add an array (K,) of the same type."""
        self._stream.write(np.ascontiguousarray(part, self._dtype).data)
        self._length += len(part)

    def close(self) -> None:
        """Write the length and close the file."""
        if not self._stream.closed:
            self._stream.seek(0)
            self._write_header()
            self._stream.close()

    def _write_header(self) -> None:
        shape = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._stream, shape)
