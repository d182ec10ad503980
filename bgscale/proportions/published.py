"""The published fit: Adam, learning rate 1e-3, batches of 128, 5 epochs, no penalty, raw features.

Owns the loop, compiled: at 1,000,000 cells an epoch has 7,813 steps, each too small for a framework
that looks at every operation. The order of the cells and the first weights are functions of the
seed; a weight is how often a cell is shown. It does not converge, and classes are not balanced:
see `fit_classifier` for the fit that does.

References
----------
Kingma & Ba (2015), Adam: a method for stochastic optimization. ICLR.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.compiled import compiled
from bgscale.draw import words

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

LEARNING_RATE = 1e-3
BATCH_CELLS = 128
EPOCHS = 5


def _epoch(
    x: FloatArray,
    code: IntArray,
    rows: IntArray,
    theta: FloatArray,
    first: FloatArray,
    second: FloatArray,
    done: int,
    rate: float,
    size: int,
) -> None:
    """Take one step of Adam for each batch of rows, in place.

    Parameters
    ----------
    x : array (cell, feature), float32
    code : array (cell,), int64
    rows : array (shown,), int64
    theta, first, second : array (class, feature + 1), float32
        Coefficients and intercept; Adam's moments of both.
    done : int
        Steps before this epoch.
    rate : float
    size : int
        Cells of a batch.
    """
    classes, width = theta.shape
    features = width - 1
    b1, b2 = np.float32(0.9), np.float32(0.999)
    c1, c2, epsilon = np.float32(1) - b1, np.float32(1) - b2, np.float32(1e-8)
    batch = np.ones((size, width), np.float32)
    for start in range(0, len(rows), size):
        n = min(size, len(rows) - start)
        for i in range(n):
            own = x[rows[start + i]]
            for d in range(features):
                batch[i, d] = own[d]
        share = np.float32(1.0 / n)
        p = np.dot(theta, batch[:n].T)
        for i in range(n):
            top = p[0, i]
            for k in range(1, classes):
                top = max(top, p[k, i])
            total = np.float32(0)
            for k in range(classes):
                p[k, i] = np.exp(p[k, i] - top)
                total += p[k, i]
            for k in range(classes):
                p[k, i] = p[k, i] / total * share
            p[code[rows[start + i]], i] -= share
        gradient = np.dot(p, batch[:n])
        done += 1
        step = np.float32(rate / (1.0 - 0.9**done))
        root = np.float32(np.sqrt(1.0 - 0.999**done))
        for k in range(classes):
            for d in range(width):
                g = gradient[k, d]
                first[k, d] = b1 * first[k, d] + c1 * g
                second[k, d] = b2 * second[k, d] + c2 * g * g
                theta[k, d] -= step * first[k, d] / (np.sqrt(second[k, d]) / root + epsilon)


# sums may be reordered, so that they use whole registers: the same order on every run
epoch = compiled(_epoch, fastmath={"reassoc", "contract", "nsz"})


def first_weights(classes: int, features: int, seed: int) -> FloatArray:
    """Return uniform weights within 1 / sqrt(feature), intercepts last: (class, feature + 1)."""
    ids = np.arange(classes * (features + 1), dtype=np.uint64)
    uniform = (words(seed, "weights", ids) >> np.uint64(11)) * 2.0**-53
    bound = 1 / np.sqrt(max(features, 1))
    weights: FloatArray = ((2 * uniform - 1) * bound).astype(np.float32)
    return weights.reshape(classes, features + 1)


def adam(
    x: FloatArray,
    code: IntArray,
    shown: IntArray,
    *,
    classes: int,
    seed: int,
    rate: float = LEARNING_RATE,
    size: int = BATCH_CELLS,
    epochs: int = EPOCHS,
) -> tuple[FloatArray, int]:
    """Fit a softmax regression by minibatches of cells in seeded order.

    Call it with BLAS on one thread: how a product is split changes its last bits.

    Parameters
    ----------
    x : array (cell, feature), float32
    code : array (cell,), int64
        Class of each cell.
    shown : array (cell,), int64
        How often an epoch shows it.
    classes, seed : int
    rate : float
    size : int
        Cells a batch; the last one of an epoch is shorter.
    epochs : int

    Returns
    -------
    theta : array (class, feature + 1), float32
        Coefficients, and the intercept.
    steps : int
    """
    theta = first_weights(classes, x.shape[1], seed)
    moments = np.zeros_like(theta), np.zeros_like(theta)
    rows = np.repeat(np.arange(len(x)), shown)
    ids = np.arange(len(rows), dtype=np.uint64)
    steps = 0
    for number in range(epochs):
        dealt = rows[np.argsort(words(seed, "epoch", ids, number))]
        epoch(x, code, dealt, theta, *moments, steps, rate, size)
        steps += -(-len(rows) // size)
    return theta, steps
