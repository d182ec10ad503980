"""The accuracies of experiment 1: the dataset that holds them, their table, and its errors.

Owns the aggregation over pairs, backgrounds and localizations, symmetric and as published, and the
contrasts between settings. Refuses to own where accuracies come from and how a table looks. The
one idea: every error comes from the same aggregation repeated without one class (as member and as
background), because pairs that share a class are not independent.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import t as student

from bgscale.errors import InputError, SchemaError
from bgscale.schema import OWN_BACKGROUND

CHANCE = 0.5
STANDARD_ERRORS = 3.0
COVERAGE = 0.95
CONTRASTS = (
    ("same", "different"),
    ("original", "different"),
    ("same_dilated_2", "different_dilated_2"),
    ("same_plate_matched", "different_plate_matched"),
    ("original", "different_plate_matched"),
)
FIRST_CLASS_ONLY = ("original", "masked")
"""Settings in whose published figure a pair counts for its first class only."""
ACCURACY_DIMS = ("setting", "localization_a", "localization_b", "background", "fold")

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Aggregate: TypeAlias = Literal["symmetric", "published"]


def accuracy_dataset(
    accuracy: Floats,
    converged: Bools | None = None,
    *,
    settings: Sequence[str],
    localizations: Sequence[str],
    each_background: Iterable[str],
) -> xr.Dataset:
    """Return accuracies as a dataset with named dims; `table` takes it.

    Parameters
    ----------
    accuracy : array (setting, localization_a, localization_b, background, fold), float64
        NaN where there is no such problem.
        Only pairs with a before b are kept.
    converged : array of the same shape, bool, optional
        Left out where it is not known.
    settings, localizations : sequences of str
    each_background : iterable of str
        Settings with a problem for every background class.

    Returns
    -------
    Dataset
        `accuracy`, `converged`; coordinate `each_background` (setting,), bool.
    """
    names = list(localizations)
    if len({*names, OWN_BACKGROUND}) != len(names) + 1:
        msg = (
            f"localizations are {', '.join(names)}; expected different names, none of them "
            f"{OWN_BACKGROUND!r}: rename them in the plate map"
        )
        raise InputError(msg)
    shape = (len(settings), len(names), len(names), 1 + len(names))
    if accuracy.ndim != 5 or accuracy.shape[:4] != shape:
        msg = (
            f"accuracy has shape {accuracy.shape}; expected {shape} + (fold,): "
            f"{', '.join(ACCURACY_DIMS)}"
        )
        raise InputError(msg)
    upper = np.triu(np.ones((len(names), len(names)), np.bool_), 1)[:, :, None, None]
    each = set(each_background)
    dataset = xr.Dataset(
        {"accuracy": (ACCURACY_DIMS, np.where(upper, accuracy, np.nan))},
        coords={
            "setting": list(settings),
            "localization_a": names,
            "localization_b": names,
            "background": [OWN_BACKGROUND, *names],
            "fold": np.arange(accuracy.shape[4]),
            "each_background": ("setting", [s in each for s in settings]),
        },
    )
    dataset["accuracy"].attrs = {
        "description": "share of a fold's cells that the linear SVM tells right",
        "units": "1",
    }
    if converged is not None:
        dataset["converged"] = (ACCURACY_DIMS, converged & upper)
        dataset["converged"].attrs = {
            "description": "the solver reached its tolerance; false where there is no problem"
        }
    return dataset


def _mean(values: Floats, use: Bools) -> Floats:
    """Return the mean over the last axis of what is to be used; NaN where there is nothing."""
    count = use.sum(axis=-1)
    total = np.where(use, values, 0.0).sum(axis=-1)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _usable(values: Floats, *, each: bool) -> Bools:
    """Return which (a, b, background) problems count: those that exist, with g not in {a, b}."""
    use = np.isfinite(values)
    if each:
        k = np.arange(len(values))
        use[k, :, k] = use[:, k, k] = False
    return use


def localization_means(
    values: Floats, *, each: bool, first_background: bool = False, first_class: bool = False
) -> Floats:
    """Return the mean accuracy of each class over its pairs: (localization,).

    Of accuracies (a, b, background): on the own background, or with `each` on those of all classes.

    A pair's accuracy is its mean over backgrounds (or that on its first remaining background), so
    that pairs weigh the same whatever is missing. With `first_class` a pair counts for a only.
    """
    use = _usable(values, each=each)
    if first_background:
        use &= np.cumsum(use, axis=-1) == 1
    pair = _mean(values, use)
    if not first_class:
        pair = np.where(np.isnan(pair), pair.T, pair)
    return _mean(pair, np.isfinite(pair))


def _jackknife(
    table: xr.Dataset, settings: Sequence[str], function: Callable[..., Floats]
) -> tuple[float, float, float]:
    """Return the standard error and 95% interval of a function of the settings' means.

    Classes are left out of all the settings at once: what the settings share cancels.
    """
    rows = table.sel(setting=list(settings))
    member = (rows["problems"].values > 0).all(axis=0)
    without = function(*rows["mean_without"].values[:, member])
    n = int(member.sum())
    if n < 2 or not np.isfinite(without).all():
        return np.nan, np.nan, np.nan
    estimate = float(function(*rows["mean"].values))
    se = float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))
    half = float(student.ppf(0.5 + COVERAGE / 2, n - 1)) * se
    return se, estimate - half, estimate + half


def table(
    dataset: xr.Dataset,
    *,
    aggregate: Aggregate = "symmetric",
    pairs: npt.ArrayLike | xr.DataArray | None = None,
) -> xr.Dataset:
    """Return the mean accuracy of each setting, its errors, and the contrasts between settings.

    Parameters
    ----------
    dataset : Dataset
        As `accuracy_dataset` makes it.
    aggregate : {"symmetric", "published"}
        Over all pairs of a class and all backgrounds outside the pair; or with the quirks of the
        published table: `original` and `masked` count a pair for its first class only, and of
        several backgrounds only the first that is outside the pair counts.
    pairs : array (localization, localization), bool, optional
        Pairs to use; a pair is used if either of its two entries is true. All by default.

    Returns
    -------
    Dataset
        By setting: `mean`; `published_error`, 3 standard errors over the `localizations` that have
        a value; `jackknife_error`, 3 standard errors by leaving out one class as member and as
        background; `jackknife_se`; `low`, `high`, the 95% interval (t, classes - 1 degrees of
        freedom, within 0 to 1); `converged`, the share of fits that converged, where known. By
        setting and localization: `localization_mean`; `problems`, in how many a class is a member;
        `mean_without`, the mean without that class. By contrast: `difference`, `difference_se`,
        `difference_low`, `difference_high`. What cannot be computed is NaN, and `note` in the
        attributes says why, a line for each reason, after the notes of `dataset`.

    References
    ----------
    Efron & Stein (1981), The jackknife estimate of variance. Annals of Statistics 9:586-596.
    """
    if aggregate not in ("symmetric", "published"):
        msg = f"aggregate is {aggregate!r}; expected 'symmetric' or 'published'"
        raise InputError(msg)
    published = aggregate == "published"
    missing = {"accuracy", "each_background"} - set(dataset.variables)
    if missing or set(dataset["accuracy"].dims) != set(ACCURACY_DIMS):
        msg = (
            f"dataset has {', '.join(map(str, dataset.variables))}; expected accuracy "
            f"({', '.join(ACCURACY_DIMS)}) and each_background (setting): see accuracy_dataset"
        )
        raise SchemaError(msg)
    # A fold without a value leaves its problem without one: mean() would skip it.
    accuracy = dataset["accuracy"].transpose(*ACCURACY_DIMS).values.mean(axis=-1)
    names = [str(name) for name in dataset["localization_a"].values]
    settings = [str(name) for name in dataset["setting"].values]
    n = len(names)
    allowed = np.triu(np.ones((n, n), np.bool_), 1)
    if pairs is not None:
        chosen = np.asarray(pairs)
        if chosen.shape != (n, n) or chosen.dtype != np.bool_:
            msg = f"pairs is {chosen.dtype} {chosen.shape}; expected bool ({n}, {n})"
            raise InputError(msg)
        allowed &= chosen | chosen.T

    means = np.full((len(settings), n), np.nan)
    without = means.copy()
    problems = np.zeros(means.shape, np.int64)
    converged = np.full(len(settings), np.nan)
    notes = str(dataset.attrs.get("note", "")).splitlines()
    for s, setting in enumerate(settings):
        each = bool(dataset["each_background"].values[s])
        backgrounds = slice(1, None) if each else slice(1)
        values = np.where(allowed[:, :, None], accuracy[s, :, :, backgrounds], np.nan)
        use = _usable(values, each=each)
        means_of = partial(
            localization_means,
            each=each,
            first_background=published and each,
            first_class=published and setting in FIRST_CLASS_ONLY,
        )
        means[s] = means_of(values)
        problems[s] = use.sum(axis=(1, 2)) + use.sum(axis=(0, 2))
        for k in np.flatnonzero(problems[s]):
            keep = np.delete(np.arange(n), k)
            rest = means_of(values[np.ix_(keep, keep, keep if each else np.arange(1))])
            without[s, k] = _mean(rest, np.isfinite(rest))
        expected = int(allowed.sum()) * (max(n - 2, 0) if each else 1)
        if each and n < 3:
            notes.append(f"{setting}: {n} localizations leave no background outside the pair")
        elif use.sum() < expected:
            notes.append(f"{setting}: {expected - use.sum():,} of {expected:,} problems missing")
        if "converged" in dataset and use.any():
            fits = dataset["converged"].transpose(*ACCURACY_DIMS).values[s, :, :, backgrounds]
            converged[s] = fits[use].mean()
            if converged[s] < 1:
                stopped = f"{1 - converged[s]:.1%} of the fits have not converged"
                notes.append(f"{setting}: {stopped}")

    valued = np.isfinite(means)
    count = valued.sum(axis=1)
    mean = _mean(means, valued)
    squares = np.where(valued, means - mean[:, None], 0.0) ** 2
    variance = squares.sum(axis=1) / np.where(count > 1, count - 1, np.nan)
    by_class = ("setting", "localization")
    out = xr.Dataset(
        {
            "mean": ("setting", mean),
            "published_error": ("setting", STANDARD_ERRORS * np.sqrt(variance / count)),
            "localizations": ("setting", count),
            "localization_mean": (by_class, means),
            "problems": (by_class, problems),
            "mean_without": (by_class, without),
        },
        coords={"setting": settings, "localization": names},
        attrs={"aggregate": aggregate},
    )
    if "converged" in dataset:
        out["converged"] = ("setting", converged)
    errors = np.array([_jackknife(out, [s], lambda x: x) for s in settings]).reshape(-1, 3)
    # of few classes t reaches beyond what an accuracy can be
    errors[:, 1:] = errors[:, 1:].clip(0, 1)
    for i, name in enumerate(("jackknife_se", "low", "high")):
        out[name] = ("setting", errors[:, i])
    out["jackknife_error"] = STANDARD_ERRORS * out["jackknife_se"]
    for s, setting in enumerate(settings):
        if count[s] == 1:
            notes.append(f"{setting}: one localization with a value has no published error")
        if count[s] and np.isnan(errors[s, 0]):
            classes = int((problems[s] > 0).sum())
            notes.append(f"{setting}: no jackknife error, {classes} classes less one leave no pair")

    contrasts = [pair for pair in CONTRASTS if set(pair) <= set(settings)]
    out = out.assign_coords(contrast=np.array([" - ".join(c) for c in contrasts], np.str_))
    first, second = (out["mean"].sel(setting=[c[i] for c in contrasts]).values for i in (0, 1))
    out["difference"] = ("contrast", first - second)
    errors = np.array([_jackknife(out, c, np.subtract) for c in contrasts]).reshape(-1, 3)
    for i, name in enumerate(("difference_se", "difference_low", "difference_high")):
        out[name] = ("contrast", errors[:, i])
    out.attrs["note"] = "\n".join(notes)
    return out


def neighbour_share(table: xr.Dataset) -> xr.Dataset:
    """Return the share of what the background tells of the class that neighbours account for.

    (background_only - medium_only) / (background_only - 0.5): both controls have no centre cell,
    and `medium_only` no other cells either, so what it still tells is haze, noise and scaling.
    0: the medium alone tells as much; 1: without neighbours the class cannot be told.

    Parameters
    ----------
    table : Dataset
        As `table` makes it, from classes of equal size (chance is 0.5).

    Returns
    -------
    Dataset
        Scalars `share`, `share_se`, `share_low`, `share_high` (jackknife over classes, 95%),
        `background_only` and `medium_only`, the two accuracies. NaN where a control is absent
        or the background tells nothing; `note` in the attributes says which.
    """
    controls = ("background_only", "medium_only")
    absent = [c for c in controls if c not in table["setting"].values]
    accuracy = {c: np.nan if c in absent else float(table["mean"].sel(setting=c)) for c in controls}
    found = dict.fromkeys(("share", "share_se", "share_low", "share_high"), np.nan)
    note = f"not evaluated: {', '.join(absent)}" if absent else ""
    if not absent and not accuracy["background_only"] > CHANCE:
        note = "background_only is not above chance: there is nothing to share out"
    if not note:
        found["share"] = float(_share(*accuracy.values()))
        errors = _jackknife(table, controls, _share)
        found |= dict(zip(list(found)[1:], errors, strict=True))
        if np.isnan(errors[0]):
            note = "too few classes for a jackknife error"
    return xr.Dataset(found | accuracy, attrs={"note": note})


def _share(background_only: npt.ArrayLike, medium_only: npt.ArrayLike) -> Floats:
    """Return (background_only - medium_only) / (background_only - 0.5); NaN at or below chance."""
    told = np.asarray(background_only, np.float64) - CHANCE
    neighbours = np.asarray(background_only) - np.asarray(medium_only)
    share: Floats = np.divide(neighbours, told, out=np.full(told.shape, np.nan), where=told > 0)
    return share
