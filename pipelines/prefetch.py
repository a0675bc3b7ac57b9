"""Work in threads, a little ahead of whoever takes the results."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Like `ThreadPoolExecutor.map`, but never more than two tasks for each worker ahead: memory stays bounded."""
    with ThreadPoolExecutor(workers) as pool:
        remaining = iter(items)
        pending: deque[Future[R]] = deque(pool.submit(work, i) for i in itertools.islice(remaining, 2 * workers))
        try:
            while pending:
                yield pending.popleft().result()
                for item in itertools.islice(remaining, 1):
                    pending.append(pool.submit(work, item))
        finally:
            for future in pending:
                future.cancel()
