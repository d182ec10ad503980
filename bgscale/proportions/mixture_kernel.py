"""The steps of expectation maximisation, compiled: some hundreds of them, each of microseconds.

Blocks of 64 cells are worked on side by side, on any processor, and nothing is added in another
order than is written here: the values are the same everywhere.
"""

import numpy as np
import numpy.typing as npt

from bgscale.compiled import compiled

LANES = 64


def _maximise(
    share: npt.NDArray[np.float64],
    posterior: npt.NDArray[np.float64],
    cells: int,
    steps: int,
    tolerance: float,
) -> None:
    """Move shares to where the likelihood of all cells is largest, or so many steps toward it.

    Parameters
    ----------
    share : array (localization,), float64
        Changed in place.
    posterior : array (block, localization, lane), float64
        0 beyond the last cell.
    cells : int
    steps : int
    tolerance : float
        Change of every share in one step below which there is no further one.
    """
    blocks, classes, _ = posterior.shape
    expected, gathered = np.empty(LANES), np.empty((classes, LANES))
    for _ in range(steps):
        gathered[:] = 0
        for b in range(blocks):
            for lane in range(LANES):
                # where there is no cell nothing may be divided by
                expected[lane] = 0.0 if b * LANES + lane < cells else 1.0
            for k in range(classes):
                for lane in range(LANES):
                    expected[lane] += posterior[b, k, lane] * share[k]
            for lane in range(LANES):
                expected[lane] = 1 / expected[lane]
            for k in range(classes):
                for lane in range(LANES):
                    gathered[k, lane] += posterior[b, k, lane] * expected[lane]
        moved = 0.0
        for k in range(classes):
            after = 0.0
            for lane in range(LANES):
                after += gathered[k, lane]
            after *= share[k] / cells
            moved = max(moved, abs(after - share[k]))
            share[k] = after
        if moved < tolerance:
            return


maximise = compiled(_maximise)
