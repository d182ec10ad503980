"""A scheduler that is gone: what Dask makes of it, in one sentence.

A client that has lost its scheduler tries to find it again for a while, and then closes itself.
What it is asked meanwhile raises, by the moment: a connection that is closed or refused, a future
that is cancelled, an attribute of a scheduler that is None. None of them is a fault of the run.
"""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from distributed import Client

from bgscale.errors import BgscaleError, InterruptedRunError

LOST = "lost the Dask scheduler; what was done is kept: run again to go on"


@contextmanager
def scheduler_needed(client: Client) -> Iterator[None]:
    """Within the block the scheduler is asked, through its client alone.

    Raises
    ------
    InterruptedRunError
        The scheduler does not answer any more.
    """
    try:
        yield
    except BgscaleError:
        raise
    except Exception as broken:
        if isinstance(broken, (OSError, CancelledError)) or client.status != "running":
            raise InterruptedRunError(LOST) from broken
        raise
