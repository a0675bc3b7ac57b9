"""Work in threads, a little ahead of whoever takes the results."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_TASKS_A_THREAD = 2  # begun before their results are asked for: with more, memory grows; with fewer, threads wait


class Prefetcher:
    """Threads that any number of streams share. They end with the last reference to this."""

    def __init__(self, threads: int) -> None:
        self._ahead = _TASKS_A_THREAD * threads
        self._pool = ThreadPoolExecutor(threads, "prefetch")

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
        """work(item) of each item, in the order of the items, which are taken as results are.

        What `work` raises is raised where its result is due. Closing the generator calls off what has not begun, and
        waits for what has.
        """
        submitted = (self._pool.submit(work, item) for item in items)
        pending: deque[Future[R]] = deque()
        try:
            pending.extend(itertools.islice(submitted, self._ahead))
            while pending:
                result = pending.popleft().result()
                pending.extend(itertools.islice(submitted, 1))
                yield result
        finally:
            wait([future for future in pending if not future.cancel()])
