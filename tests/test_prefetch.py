"""Work ahead in threads: in order, bounded, ended at once, and nothing lost of what goes wrong."""

import itertools
import threading

import pytest

from pipelines.prefetch import Prefetcher


def test_results_come_in_order_whoever_is_done_first():
    second_done = threading.Event()

    def work(item):
        if item == 0:
            assert second_done.wait(60)
        second_done.set()
        return item * item

    assert list(Prefetcher(2).map(work, range(50))) == [i * i for i in range(50)]
    assert list(Prefetcher(2).map(work, [])) == []


def test_it_runs_ahead_but_not_far():
    """However long the receiver takes, and however many items there are."""
    taken = itertools.count()
    results = Prefetcher(3).map(lambda item: item, taken)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert next(taken) == 5 + 2 * 3


def test_a_failure_is_raised_where_its_result_is_due():
    received = []
    prefetcher = Prefetcher(2)
    with pytest.raises(ZeroDivisionError):
        for result in prefetcher.map(lambda item: 6 // (item - 3), range(9)):
            received.append(result)
    assert received == [-2, -3, -6]
    assert list(prefetcher.map(str, range(3))) == ["0", "1", "2"]


def test_items_that_fail_leave_nothing_running():
    running, may_end = threading.Event(), threading.Event()

    def items():
        yield 0
        running.wait(60)
        may_end.set()
        raise OSError("the disk is gone")

    ended = []

    def work(item):
        running.set()
        may_end.wait(60)
        ended.append(item)

    with pytest.raises(OSError, match="the disk is gone"):
        next(Prefetcher(1).map(work, items()))
    assert ended == [0]


def test_closing_waits_for_what_runs_and_calls_off_the_rest():
    running, may_end, ended = threading.Event(), threading.Event(), []

    def work(item):
        if item == 1:
            running.set()
            assert may_end.wait(60)
        ended.append(item)

    results = Prefetcher(1).map(work, range(9))
    next(results)
    assert running.wait(60)
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert ended == [0, 1]


def test_threads_are_shared_by_streams_and_end_with_their_owner():
    prefetcher, threads = Prefetcher(2), set()

    def work(item):
        threads.add(threading.current_thread())
        return item

    streams = [prefetcher.map(work, range(20)) for _ in range(3)]
    assert list(zip(*streams, strict=True)) == [(i, i, i) for i in range(20)]
    assert 1 <= len(threads) <= 2
    del prefetcher, streams
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
