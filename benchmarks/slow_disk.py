"""A slow disk for the processes of `soak`: what opens, lists or moves a file in a folder waits.

Read by Dask's workers as a preload, and by whoever calls `slow_down`. Python tells an audit hook of
each such call before it is made, so that zarr, the ledger and all others are slowed down alike.
"""

import os
import random
import time

FOLDER = "SOAK_SLOW_FOLDER"
WAITS_S, STALLS_S, STALLS_OF_1000 = 0.001, 0.5, 1
CALLS = {"open", "os.rename", "os.mkdir", "os.listdir", "os.scandir", "os.remove", "os.rmdir"}
"""As in a folder on a network: milliseconds a call, and now and then one that hangs."""


def slow_down() -> None:
    """Let this process wait at each file of the folder that the environment names."""
    import sys

    folder, rng = os.environ[FOLDER], random.Random(0)

    def wait(event: str, arguments: tuple[object, ...]) -> None:
        if event in CALLS and str(arguments[0]).startswith(folder):
            time.sleep(STALLS_S if rng.randrange(1000) < STALLS_OF_1000 else WAITS_S)

    sys.addaudithook(wait)


def dask_setup(_: object) -> None:
    """Slow a worker down; Dask calls this when the worker starts."""
    slow_down()
