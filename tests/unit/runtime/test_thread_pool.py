"""Members compute at once, each with its own cores, and hand their results back in order."""

import threading

import pytest
import torch

from tuition.runtime.thread_pool import MAX_THREADS, NO_POOL, ThreadPool

CPU = torch.device("cpu")


def test_results_come_in_the_order_of_the_calls() -> None:
    """The first call waits for the second: it can only end if both run at once."""
    second_began = threading.Event()

    def first() -> str:
        assert second_began.wait(30)
        return "first"

    def second() -> str:
        second_began.set()
        return "second"

    assert ThreadPool(2).run([first, second]) == ["first", "second"]


def test_a_member_uses_only_its_own_cores_and_the_caller_keeps_all() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        pool = ThreadPool(2, threads=6)
        both = threading.Barrier(2, timeout=30)

        def cores() -> int:
            both.wait()
            return torch.get_num_threads()

        assert pool.run([cores, cores]) == [3, 3]
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


def test_alone_is_the_caller_itself() -> None:
    assert NO_POOL.run([threading.get_ident, threading.get_ident]) == [threading.get_ident()] * 2


def test_a_failure_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        ThreadPool(2).run([lambda: 1, lambda: 1 // 0])


def test_as_many_members_as_rows_threads_and_python_allow() -> None:
    assert ThreadPool.for_rows(16, 2, CPU).size == 2
    assert ThreadPool.for_rows(1, 8, CPU).size == 1
    assert ThreadPool.for_rows(64, 64, CPU).size == MAX_THREADS
    assert ThreadPool.for_rows(64, 64, torch.device("meta")).size == 1  # any device that computes by itself
