"""Arrays in `.npy` files that grow along their first axis: what was appended need not be held."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Self

import numpy as np


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
