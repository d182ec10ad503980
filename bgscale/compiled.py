"""Loops that are compiled when first called, and kept beside their module where it can be written.

Loading it takes most of a second: import it, and what uses it, where the loop is called.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

T = TypeVar("T", bound=Callable[..., Any])


def compiled(function: T, **options: Any) -> T:
    """Return the function, compiled, without Python's lock.

    Parameters
    ----------
    function : callable
        Of arrays and numbers.
    **options
        Of `numba.njit`, such as `fastmath`.
    """
    made: T
    try:
        made = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        # nowhere to keep it: a read-only installation without a home
        made = numba.njit(nogil=True, **options)(function)
    return made
