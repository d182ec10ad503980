"""Which proteins a classifier is not shown, and how often it is shown the others.

Owns folds and replicate weights, by protein and never by cell. The one idea: both are dealt by
hashes of names, so that they are the same in every setting and on every machine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.draw import digest64, words
from bgscale.errors import InputError

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

N_FOLDS = 5
N_REPLICATES = 20
_POISSON_CDF = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(20)])


@dataclass(frozen=True, eq=False)
class Folds:
    """Which fold every (protein, field) group is left out with.

    Parameters
    ----------
    fold : array (group,), int64
    unit : array (group,), uint64
        Identity of what was dealt as a whole: the protein or, where its localization went by
        field, protein and field.
    drawn : array (group,), uint64
        Identity of what a replicate reweights as a whole: the protein or, where its localization
        has no other, protein and field.
    target : array (group,), int64
        Localization the group is trained as; -1 for proteins with several, none, or one that is
        not learnable.
    learnable : array (localization,), bool
        False where single-localization proteins have fewer than two groups: none could be left
        out and one kept. Such a localization is no class of the classifier; its share is 0.
    by_field : array (localization,), bool
        True where there are fewer proteins than folds, so that fields were dealt instead: there a
        protein *is* scored by classifiers that saw its other fields.
    """

    fold: IntArray
    unit: npt.NDArray[np.uint64]
    drawn: npt.NDArray[np.uint64]
    target: IntArray
    learnable: BoolArray
    by_field: BoolArray


def assign_folds(
    proteins: Sequence[str],
    labels: npt.ArrayLike,
    group_protein: npt.ArrayLike,
    group_field: npt.ArrayLike,
    *,
    seed: int,
    n_folds: int = N_FOLDS,
) -> Folds:
    """Deal all proteins, in the fit or not, to folds that are stratified by localization.

    Proteins stand in the order of a seeded hash of their name within their set of labels (several
    and none are sets like any other) and are dealt round: folds do not depend on the order of the
    input, but a protein that comes later moves others.

    Parameters
    ----------
    proteins : sequence of str
        Distinct names.
    labels : array (protein, localization), bool
    group_protein : array (group,), int
        Index into `proteins`, for every protein-field pair that has cells.
    group_field : array (group,), int
        Identity of the field.
    seed : int
    n_folds : int

    Returns
    -------
    Folds

    Examples
    --------
    >>> folds = assign_folds(
    ...     ["A", "B"], np.eye(2, dtype=bool), [0, 0, 1, 1], [1, 2, 3, 4], seed=0
    ... )
    >>> folds.fold.tolist(), folds.by_field.tolist()
    ([3, 2, 1, 0], [True, True])
    """
    labels = np.asarray(labels, np.bool_)
    protein = np.asarray(group_protein, np.int64)
    group_field = np.asarray(group_field).astype(np.uint64)
    if labels.ndim != 2 or len(labels) != len(proteins) or len(set(proteins)) != len(proteins):
        msg = (
            f"labels have shape {labels.shape} for {len(proteins)} protein names, "
            f"{len(set(proteins))} of them distinct: give one row per protein"
        )
        raise InputError(msg)
    distinct = set(zip(protein.tolist(), group_field.tolist(), strict=False))
    if len({protein.size, group_field.size, len(distinct)}) > 1:
        msg = (
            f"{protein.size} groups' proteins, {group_field.size} fields, {len(distinct)} distinct "
            "pairs: list every (protein, field) group that has cells once"
        )
        raise InputError(msg)
    if protein.size and not 0 <= protein.min() <= protein.max() < len(proteins):
        msg = f"group_protein runs to {protein.min()}..{protein.max()} of {len(proteins)} proteins"
        raise InputError(msg)
    n_localizations = labels.shape[1]
    if n_localizations < 2 or n_folds < 2:
        msg = (
            f"{n_localizations} localizations, {n_folds} folds: proportions need 2 of each or more"
        )
        raise InputError(msg)

    code = np.where(labels.sum(axis=1) == 1, labels.argmax(axis=1), -1)
    trained = code[protein] >= 0
    n_groups = np.bincount(code[protein][trained], minlength=n_localizations)
    n_proteins = np.bincount(code[np.unique(protein[trained])], minlength=n_localizations)
    learnable = n_groups >= 2
    if learnable.sum() < 2:
        msg = (
            f"{learnable.sum()} of {n_localizations} localizations can be learned, need 2: each by "
            "proteins of that one localization with cells in two fields or more; name another "
            "label column as the class, or merge rare localizations"
        )
        raise InputError(msg)
    by_field = learnable & (n_proteins < n_folds)

    whole = np.array([digest64(name) for name in proteins], np.uint64)[protein]
    part = whole + words(0, "field", group_field)
    unit = np.where(trained & by_field[code[protein]], part, whole)
    drawn = np.where(trained & (n_proteins[code[protein]] == 1), part, whole)
    units, first, dealt = np.unique(unit, return_index=True, return_inverse=True)
    stratum = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)[protein][first]
    # One deal over all strata in turn: each is even to within one, and so are the folds.
    fold = np.empty(len(units), np.int64)
    fold[np.lexsort((units, words(seed, "fold", units), stratum))] = np.arange(len(units)) % n_folds
    target = np.where(trained & learnable[code[protein]], code[protein], -1)
    return Folds(fold[dealt], unit, drawn, target, learnable, by_field)


def replicate_weights(folds: Folds, *, seed: int, replicates: int = N_REPLICATES) -> IntArray:
    """Return Poisson(1) training weights per replicate: a bootstrap of the training proteins.

    A weight is a function of (seed, replicate, protein), so it is the same in every setting; of the
    only protein of a localization its fields are drawn. Where a
    replicate would leave some fold's classifier without a localization (positive weights in fewer
    than two folds), that localization is drawn again, from a numbered further stream, until not.

    Parameters
    ----------
    folds : Folds
    seed : int
    replicates : int

    Returns
    -------
    array (replicate, group), int64
    """
    weights = np.empty((replicates, len(folds.drawn)), np.int64)
    for replicate in range(replicates):
        weights[replicate] = _poisson(seed, folds.drawn, replicate)
        for target in np.flatnonzero(folds.learnable):
            mine = np.flatnonzero(folds.target == target)
            attempt = 0
            while len(set(folds.fold[mine][weights[replicate, mine] > 0].tolist())) < 2:
                attempt += 1
                stream = replicate + (attempt << 32)
                weights[replicate, mine] = _poisson(seed, folds.drawn[mine], stream)
    return weights


def _poisson(seed: int, ids: npt.NDArray[np.uint64], stream: int) -> IntArray:
    uniform = (words(seed, "replicate", ids, stream) >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(_POISSON_CDF, uniform, side="right").astype(np.int64)
