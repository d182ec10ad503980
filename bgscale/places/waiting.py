"""Many small requests: one after the other where they are answered at once, else in threads."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
TRIED = 16
"""So many are made before it is judged how long one takes."""
SLOW_S = 0.0005
"""A local disk is faster, and threads would be slower; a network is slower."""


def each(function: Callable[[S], T], items: Iterable[S], readers: int) -> list[T]:
    """Return what a function that may have to wait says of each item, in their order.

    Parameters
    ----------
    function : callable
    items : iterable
    readers : int
        Threads that are worth while where there is waiting.
    """
    todo = list(items)
    begun = time.perf_counter()
    found = [function(item) for item in todo[:TRIED]]
    rest = todo[TRIED:]
    if not rest:
        return found
    if (time.perf_counter() - begun) / TRIED < SLOW_S:
        return [*found, *map(function, rest)]
    with ThreadPoolExecutor(min(readers, len(rest))) as threads:
        return [*found, *threads.map(function, rest)]
