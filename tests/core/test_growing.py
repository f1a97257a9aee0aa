"""Arrays that grow in a file are those that numpy writes at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cropgen.core.growing import GrowingArray, load_array

KINDS = [np.dtype("<i8"), np.dtype([("rank", "<i4"), ("box", "<f8", (4,)), ("whole", "?")])]


@pytest.mark.parametrize("dtype", KINDS, ids=["plain", "records"])
@pytest.mark.parametrize("sizes", [(), (0,), (3,), (5, 0, 1234)])
def test_equals_what_numpy_writes_at_once(tmp_path, dtype, sizes):
    rng = np.random.default_rng(0)
    parts = [np.frombuffer(rng.bytes(size * dtype.itemsize), np.uint8).view(dtype) for size in sizes]
    with GrowingArray(tmp_path / "grown.npy", dtype) as grown:
        for part in parts:
            grown.append(part)
        assert len(grown) == sum(sizes)
    np.save(tmp_path / "whole.npy", np.concatenate([np.zeros(0, dtype), *parts]))
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_other_number_types_are_converted(tmp_path):
    with GrowingArray(tmp_path / "a.npy", np.dtype("<i4")) as grown:
        grown.append(np.arange(3, dtype=np.int64)[::-1])
    assert np.load(tmp_path / "a.npy").tolist() == [2, 1, 0]


def test_headers_are_read_one_at_a_time(tmp_path, monkeypatch):
    path, inside, worst = tmp_path / "a.npy", [], []
    np.save(path, np.arange(3))

    def load(*_: object, **__: object) -> np.ndarray:
        inside.append(1)
        worst.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return np.arange(3)

    monkeypatch.setattr(np, "load", load)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load_array, [path] * 8))
    assert worst == [1] * 8
