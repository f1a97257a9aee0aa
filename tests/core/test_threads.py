"""Results in order, errors in their turn, and no more work taken than is asked for."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cropgen.core.threads import in_order, one_ahead, short_turns


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3 == 0))
        return number * number

    assert list(in_order(work, range(20), threads)) == [n * n for n in range(20)]
    assert list(in_order(work, [], threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_turn(threads):
    results = in_order(lambda n: 10 // n, [5, 2, 0, 1], threads)
    assert [next(results), next(results)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_little_is_taken_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda n: n, items(), 2)
    assert next(results) == 0
    assert len(taken) == 3
    results.close()
    assert len(taken) == 3


def test_threads_work_side_by_side():
    meeting = threading.Barrier(2, timeout=5)
    assert list(in_order(lambda n: meeting.wait() < 2, range(4), 2)) == [True] * 4


def test_each_is_made_while_the_one_before_is_used():
    begun, used = [], []
    with ThreadPoolExecutor(1) as pool:
        made = one_ahead(lambda n: begun.append(n) or n, [3, 1, 2], pool)
        pool.submit(lambda: None).result()
        assert begun == [3]
        for number in made:
            pool.submit(lambda: None).result()
            used.append(number)
            assert len(begun) == min(len(used) + 1, 3)
    assert used == begun == [3, 1, 2]


def test_none_ahead_of_nothing_and_errors_in_their_turn():
    with ThreadPoolExecutor(1) as pool:
        assert list(one_ahead(str, [], pool)) == []
        results = one_ahead(lambda n: 10 // n, [5, 0], pool)
        assert next(results) == 2
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_turns_are_short_for_a_while():
    before = sys.getswitchinterval()
    with short_turns():
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before
