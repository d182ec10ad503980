"""The sums over cells that every proportion, shift and test is derived from.

The one idea: sum first, divide last. A cell's softmax enters integer sums by protein and field;
blocks are added in any order with the same bits, and no later question needs a feature again.
"""

from dataclasses import dataclass, fields
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from bgscale.errors import InputError

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

SUM_SCALE = 2**38
"""Integer steps per 1 in all sums: a resolution of 3.6e-12, and room for 2**25 cells in a sum."""


@dataclass(frozen=True, eq=False)
class ProportionState:
    """All that is kept of the cells' softmax, by protein and field: integer sums that add.

    A cell counts under a setting if it is present there and under `original`, which is setting 0;
    ``baseline`` sums are those of `original` over the same cells. Sums are in steps of
    1 / `SUM_SCALE`; `in_units` converts them.

    Parameters
    ----------
    protein : array (protein,), int64
        Codes, sorted; only proteins that were seen.
    group : array (group, 2), int64
        Codes of protein and field, sorted.
    n : array (setting, group), int64
        Cells.
    sums, baseline : arrays (setting, group, localization), int64
        Of p.
    squares : array (setting, protein, localization), int64
        Of p squared.
    cross : array (setting, protein, localization, localization), int64
        Of delta delta^T, delta = p - p under `original`.
    replicate_sums, replicate_baseline : arrays (setting, protein, replicate, localization), int64
        Of p under each classifier replicate.
    """

    protein: IntArray
    group: IntArray
    n: IntArray
    sums: IntArray
    baseline: IntArray
    squares: IntArray
    cross: IntArray
    replicate_sums: IntArray
    replicate_baseline: IntArray

    @classmethod
    def zero(cls, n_settings: int, n_localizations: int, n_replicates: int = 0) -> Self:
        """Return the sums over no cells."""
        s, k, r = n_settings, n_localizations, n_replicates
        shapes = [(0,), (0, 2), (s, 0), (s, 0, k), (s, 0, k), (s, 0, k), (s, 0, k, k)]
        return cls(*(np.zeros(a, np.int64) for a in [*shapes, (s, 0, r, k), (s, 0, r, k)]))

    def __add__(self, other: "ProportionState") -> "ProportionState":
        """Return the sums over the cells of both."""
        a, b = self.replicate_sums.shape, other.replicate_sums.shape
        if (a[0], a[2:]) != (b[0], b[2:]):
            msg = (
                f"sums of (setting, protein, replicate, localization) {a} and {b} do not add: "
                "both must have the same settings, replicates and localizations"
            )
            raise InputError(msg)
        protein, protein_row = _union(self.protein, other.protein)
        group, group_row = _union(self.group, other.group)

        def added(name: str) -> IntArray:
            x, y = getattr(self, name), getattr(other, name)
            rows = group_row if name in {"n", "sums", "baseline"} else protein_row
            size = len(group if rows is group_row else protein)
            out = np.zeros((len(x), size, *x.shape[2:]), np.int64)
            out[:, rows[: x.shape[1]]] += x
            out[:, rows[x.shape[1] :]] += y
            return out

        return ProportionState(protein, group, *(added(f.name) for f in fields(self)[2:]))

    def finalize(self) -> "Proportions":
        """Divide: the mean softmax of every protein under every setting."""
        starts = np.searchsorted(self.group[:, 0], self.protein)
        if not len(starts):
            empty = in_units(self.squares)
            return Proportions(self.protein, np.zeros(empty.shape[:2], np.int64), empty, empty)
        n = np.add.reduceat(self.n, starts, axis=1)
        sums, baseline = (
            in_units(np.add.reduceat(x, starts, axis=1)) for x in (self.sums, self.baseline)
        )
        return Proportions(self.protein, n, _mean(sums, n), _mean(baseline, n))


@dataclass(frozen=True, eq=False)
class Proportions:
    """Mean softmax by setting and protein; NaN exactly where `n_cells` is 0.

    Parameters
    ----------
    protein : array (protein,), int64
    n_cells : array (setting, protein), int64
    mean : array (setting, protein, localization), float64
    baseline : array (setting, protein, localization), float64
        Under `original`, of the cells that are present under the setting too.
    """

    protein: IntArray
    n_cells: IntArray
    mean: FloatArray
    baseline: FloatArray


def accumulate(
    probabilities: npt.ArrayLike,
    present: npt.ArrayLike,
    protein: npt.ArrayLike,
    field: npt.ArrayLike,
    *,
    replicates: npt.ArrayLike | None = None,
) -> ProportionState:
    """Sum a block of cells.

    Parameters
    ----------
    probabilities : array (setting, cell, localization), float64
        Softmax; setting 0 is `original`. What stands where a cell is not present is not read.
    present : array (setting, cell), bool
    protein, field : arrays (cell,), int
        Codes that mean the same in every block.
    replicates : array (setting, replicate, cell, localization), float64, optional
        Softmax under the classifier replicates.

    Returns
    -------
    ProportionState

    Examples
    --------
    >>> p = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]])
    >>> one = accumulate(p, np.ones((2, 2), bool), [7, 7], [0, 1])
    >>> (one + one).finalize().mean[:, 0].tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    p, seen = np.asarray(probabilities, np.float64), np.asarray(present, np.bool_)
    key = np.stack([np.asarray(protein, np.int64), np.asarray(field, np.int64)], axis=1)
    if p.ndim != 3 or seen.shape != p.shape[:2] or len(key) != p.shape[1]:
        msg = (
            f"probabilities {p.shape}, present {seen.shape}, {len(key)} protein codes: expected "
            "(setting, cell, localization), (setting, cell) and one code per cell"
        )
        raise InputError(msg)
    n_settings, n_cells, k = p.shape
    r = np.zeros((n_settings, 0, n_cells, k)) if replicates is None else np.asarray(replicates)
    if r.shape != (n_settings, r.shape[1], n_cells, k):
        msg = f"replicates {r.shape} do not go with probabilities {p.shape}"
        raise InputError(msg)
    if n_cells == 0:
        return ProportionState.zero(n_settings, k, r.shape[1])

    order = np.lexsort((key[:, 1], key[:, 0]))
    key, seen = key[order], seen[:, order]
    changed = np.vstack([[True, True], key[1:] != key[:-1]])
    by_protein, by_group = np.flatnonzero(changed[:, 0]), np.flatnonzero(changed.any(axis=1))
    upper = np.triu_indices(k)
    columns: list[list[IntArray]] = []
    for s in range(n_settings):
        here = _softmax(p[s, order], seen[s])
        again = in_steps(_softmax(r[s][:, order].swapaxes(0, 1), seen[s]))
        if s == 0:
            original, original_again = here, again
        both = (seen[s] & seen[0]).astype(np.int64)
        mask = both[:, None]
        delta = (here - original) * mask
        cross = np.empty((len(by_protein), k, k), np.int64)
        cross[:, *upper] = _sum(in_steps(delta[:, upper[0]] * delta[:, upper[1]]), by_protein)
        cross.swapaxes(1, 2)[:, *upper] = cross[:, *upper]
        columns.append(
            [
                _sum(both, by_group),
                _sum(in_steps(here) * mask, by_group),
                _sum(in_steps(original) * mask, by_group),
                _sum(in_steps(here * here) * mask, by_protein),
                cross,
                _sum(again * mask[:, None], by_protein),
                _sum(original_again * mask[:, None], by_protein),
            ]
        )
    stacked = (np.stack(column) for column in zip(*columns, strict=True))
    return ProportionState(key[by_protein, 0], key[by_group], *stacked)


def in_units(sums: IntArray) -> FloatArray:
    """Return fixed-point sums as sums of probabilities."""
    return sums / SUM_SCALE


def in_steps(values: FloatArray) -> IntArray:
    """Round each cell's value to a step, before any sum: integers add in any order."""
    return np.rint(values * SUM_SCALE).astype(np.int64)


def _sum(values: IntArray, starts: IntArray) -> IntArray:
    """Sum runs of cells, along the first axis."""
    return np.add.reduceat(values, starts, axis=0)


def _softmax(p: FloatArray, seen: BoolArray) -> FloatArray:
    """Return p (cell, ..., localization), checked where it is seen and 0 elsewhere."""
    p = np.where(seen.reshape(-1, *[1] * (p.ndim - 1)), p, 0.0)
    if not ((p >= 0).all() and (np.abs(p[seen].sum(axis=-1) - 1) < 1e-6).all()):
        msg = "a present cell's probabilities are NaN, negative or do not sum to 1: give a softmax"
        raise InputError(msg)
    return p


def _union(a: IntArray, b: IntArray) -> tuple[IntArray, IntArray]:
    """Return the sorted distinct rows of both, and where the rows of a, then of b, stand there."""
    union, rows = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    return union, rows.reshape(-1).astype(np.int64)


def _mean(sums: FloatArray, n: IntArray) -> FloatArray:
    n = np.broadcast_to(n[..., None], sums.shape)
    out = np.full(sums.shape, np.nan)
    np.divide(sums, n, out=out, where=n > 0)
    return out


def confusion(state: ProportionState, target: npt.ArrayLike) -> FloatArray:
    """Return the out-of-fold mean softmax of each true localization's cells.

    It is a sum of the state's sums, so nothing more is kept for it. A localization of one protein
    has that protein's mean as its row, so that this protein is always corrected to purity.

    Parameters
    ----------
    state : ProportionState
    target : array (protein,), int
        Localization of `state.protein`; -1 for proteins with several or none.

    Returns
    -------
    array (setting, true localization, predicted localization), float64
        NaN rows where a localization has no cells.
    """
    own = np.asarray(target, np.int64)[np.searchsorted(state.protein, state.group[:, 0])]
    classes = range(state.sums.shape[2])
    sums = np.stack([state.sums[:, own == c].sum(axis=1) for c in classes], axis=1)
    n = np.stack([state.n[:, own == c].sum(axis=1) for c in classes], axis=1)
    return _mean(in_units(sums), n)


def correct_proportions(mean_softmax: npt.ArrayLike, confusions: npt.ArrayLike) -> FloatArray:
    """Return the proportions that, confused as cells of known localization are, come nearest.

    Least squares over the simplex, exactly: with A the transposed confusion matrix and
    B = A - m 1^T, sum(q) = 1 makes A q - m = B q, and the non-negative q that minimises
    |B q|^2 + (sum(q) - 1)^2 is, divided by its sum, the minimiser of |B q| on the simplex.

    Parameters
    ----------
    mean_softmax : array (..., localization), float64
        NaN rows stay NaN.
    confusions : array (localization, localization), float64
        One setting's. A localization whose row is NaN cannot be estimated and gets 0.

    Returns
    -------
    array (..., localization), float64
    """
    m, c = np.asarray(mean_softmax, np.float64), np.asarray(confusions, np.float64)
    known = np.flatnonzero(np.isfinite(c).all(axis=1))
    if c.shape != (m.shape[-1], m.shape[-1]) or not known.size:
        msg = f"confusion {c.shape} with {known.size} known rows for {m.shape[-1]} localizations"
        raise InputError(msg)
    rows = m.reshape(-1, m.shape[-1])
    out = np.full(rows.shape, np.nan)
    wanted = np.append(np.zeros(len(c)), 1.0)
    system = np.ones((len(wanted), len(known)))
    for i in np.flatnonzero(np.isfinite(rows).all(axis=1)):
        np.subtract(c[known].T, rows[i][:, None], out=system[:-1])
        q = nnls(system, wanted)[0]
        out[i] = 0.0
        out[i, known] = q / q.sum()
    return out.reshape(m.shape)
