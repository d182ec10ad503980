"""The mixture of localizations that a protein's cells are most likely drawn from.

The mean softmax is biased toward the middle: a cell of one localization gives some of its softmax
to others. The classifier's softmax is a posterior under the priors of its training, which are equal
where classes were balanced; by its ratio to them, the shares that maximise the likelihood of all
cells follow by expectation maximisation.
"""

import numpy as np
import numpy.typing as npt

from bgscale.proportions.classifier import FloatArray

STEPS = 1000
TOLERANCE = 1e-7
"""Change of every share in one step below which the estimate is taken as reached."""


def mixture(posterior: npt.ArrayLike, prior: npt.ArrayLike | None = None) -> FloatArray:
    """Return the maximum-likelihood shares of the localizations among some cells.

    Parameters
    ----------
    posterior : array (cell, localization), float64
        Softmax.
    prior : array (cell, localization) or (localization,), float64, optional
        Share of each localization in the training of the classifier that gave it; by default equal.

    Returns
    -------
    array (localization,), float64
        Sums to 1; NaN without cells.

    References
    ----------
    Saerens, Latinne & Decaestecker (2002), Adjusting the outputs of a classifier to new a priori
    probabilities: a simple procedure. Neural Computation 14:21-41.

    Examples
    --------
    >>> unsure = np.array([[0.8, 0.2]] * 8 + [[0.2, 0.8]] * 2)
    >>> unsure.mean(0).round(2).tolist(), mixture(unsure).round(2).tolist()
    ([0.68, 0.32], [1.0, 0.0])
    """
    p = np.asarray(posterior, np.float64)
    if not len(p):
        return np.full(p.shape[1], np.nan)
    # compiled when first used: it takes a second to load
    from bgscale.proportions.mixture_kernel import LANES, maximise

    if prior is not None:
        prior = np.broadcast_to(np.asarray(prior, np.float64), p.shape)
        # what was not in the training has no softmax
        p = np.divide(p, prior, out=np.zeros_like(p), where=prior > 0)
    n, k = p.shape
    whole = np.zeros((-(-n // LANES) * LANES, k))
    whole[:n] = p
    side_by_side = np.ascontiguousarray(whole.reshape(-1, LANES, k).swapaxes(1, 2))
    share = np.full(k, 1 / k)
    maximise(share, side_by_side, n, STEPS, TOLERANCE)
    found: FloatArray = share / share.sum()
    return found
