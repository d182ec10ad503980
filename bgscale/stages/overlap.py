"""Work that overlaps: the next item is read, or begun, while one is worked on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def behind(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items so many later than they are taken.

    Examples
    --------
    >>> taken = []
    >>> [(item, len(taken)) for item in behind((taken.append(i) or i for i in range(3)), 1)]
    [(0, 2), (1, 3), (2, 3)]
    """
    held: deque[T] = deque()
    for item in items:
        held.append(item)
        if len(held) > count:
            yield held.popleft()
    yield from held


def ahead(read: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield what is read of each item, in order; the next is read while one is worked on."""
    if not items:
        return
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read, items[0])
        for item in items[1:]:
            found = following.result()
            following = reader.submit(read, item)
            yield found
        yield following.result()
