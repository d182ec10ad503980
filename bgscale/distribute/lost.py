"""A scheduler that is gone: what Dask makes of it, in one sentence.

A client that has lost its scheduler tries to find it again for a while, and then closes itself.
What it is asked meanwhile raises, by the moment: a connection that is closed or refused, a future
that is cancelled, an attribute of a scheduler that is None. None of them is a fault of the run. The
same holds for a client that is closed while it still looks.
"""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress

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


@contextmanager
def closed_at_last(client: Client) -> Iterator[Client]:
    """Close the client at the end of the block; a scheduler that is gone cannot fail it.

    Closing waits for the search for the scheduler that is under way, and raises what that raises:
    tornado's time-out is neither the built-in one nor an `OSError`, and Dask lets it through.
    """
    try:
        yield client
    finally:
        with suppress(InterruptedRunError), scheduler_needed(client):
            client.close()  # type: ignore[no-untyped-call]
