"""Whether a protein's shift is more than chance, is substantial, and how large it may be.

Owns the draws of the null, the tests and the interval of the divergence; not the variance that the
draws have. The one idea: the divergence is never negative, so it is compared with what it is where
nothing moved, by draws that go through the same formula and carry the same upward bias.
"""

import functools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, ndtr

from bgscale.draw import digest64, philox
from bgscale.proportions.distances import KL_FLOOR, kl_divergence

FloatArray: TypeAlias = npt.NDArray[np.float64]

BLOCK = 10_000
"""Draws that are made at a time; a draw depends on its number only."""
INTERVAL_DRAWS = 2000
INTERVAL = 0.95
RARE = 1e-3
"""Below this p, ten times as many draws are made."""
_STEPS = 12
_MOST_RELATIVE = 1 - 1e-6
_MOST_LOG_RATIO = 23.0
"""Of 1 and the floor of proportions, 1e-10."""
_REACH = 8.0
"""Intervals are sought up to so many standard errors beyond the shift."""


class Draws:
    """Standard normal draws of one protein, the same for all its fits and settings.

    Common draws make the settings of a protein comparable: they differ by their data, not by luck.

    Parameters
    ----------
    seed : int
    model, protein : str
        Names; draws are a function of all three and of the draw's number.
    size : int
        Localizations.
    """

    def __init__(self, seed: int, model: str, protein: str, size: int) -> None:
        self.key = digest64(seed, "shift", model, protein)
        self.size = size
        self._blocks: dict[int, tuple[FloatArray, _Places]] = {}

    def block(self, number: int) -> "tuple[FloatArray, _Places]":
        """Return normals (localization, draw), and where the scores of their scale lie."""
        if number not in self._blocks:
            rows = -(-(self.size + 1) // 2)
            counter = np.arange(rows * BLOCK, dtype=np.uint64)
            words = philox(self.key, counter, number).T.astype(np.uint64, order="C")
            pairs = (words[::2] << np.uint64(32) | words[1::2]) >> np.uint64(11)
            first, second = (pairs + 0.5) * 2.0**-53
            radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
            normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
            normal = normal.reshape(2 * rows, BLOCK)
            self._blocks[number] = normal[: self.size], _Places.of(normal[self.size])
        return self._blocks[number]


@dataclass(frozen=True)
class Tested:
    """What the draws say of one shift.

    Parameters
    ----------
    p, p_substantial : float
        That nothing moved; that no more than tau in total variation moved.
    null_mean : float
        Mean divergence where nothing moved: what chance adds.
    low, high : float
        Interval of the divergence; both 0 where even no shift at all would give a larger one.
    draws : int
    """

    p: float
    p_substantial: float
    null_mean: float
    low: float
    high: float
    draws: int


def assess(
    baseline: FloatArray,
    mean: FloatArray,
    covariance: FloatArray,
    df: float,
    source: Draws,
    *,
    tau: float,
    draws: int,
) -> Tested:
    """Test one protein's shift under one setting.

    Parameters
    ----------
    baseline, mean : arrays (localization,), float64
        Mean softmax under `original` and under the setting, of the same cells.
    covariance : array (localization, localization), float64
        Of the shift, ``mean - baseline``.
    df : float
        Degrees of freedom of the multivariate t.
    source : Draws
    tau : float
        Total variation from which on a shift is substantial.
    draws : int
        At least `BLOCK`; ten times as many where p is below `RARE`.

    Returns
    -------
    Tested

    Notes
    -----
    `benchmarks/calibration.py` measured two ways to draw the null. Draws that are added to the
    proportions, cut off at 0 and renormalised, reject 0.4-3.5% of nulls at p < .05 and find 32 /
    88 / 99% of shifts of 0.08 in total variation with 2 / 4 / 8 fields of 50 cells. Draws on the
    scale of the log ratio, which are used, reject 0.8-3.8% and find 62 / 94 / 100%: where a
    proportion is small, cutting off makes ratios of up to 1e9 of what is not known to be there.
    """
    shift, middle = mean - baseline, (mean + baseline) / 2
    apart = float(np.abs(shift).sum() / 2)
    root = _root(covariance)
    observed = float(kl_divergence(baseline, mean))
    limit = shift * min(tau / apart, 1e9) if apart > 0 else shift
    none = np.zeros_like(shift)
    beyond, beyond_limit, total, done = 0, 0, 0.0, 0
    wanted = blocks = -(-draws // BLOCK)
    while done < wanted:
        error = _errors(source, done, root, df)
        null = _divergences(middle, none, error)
        beyond += int((null >= observed).sum())
        total += float(null.sum())
        beyond_limit += int((_divergences(middle, limit, error) >= observed).sum())
        done += 1
        if done == blocks and min(beyond, beyond_limit) + 1 < RARE * (1 + done * BLOCK):
            wanted = 10 * blocks
    made = done * BLOCK
    low, high = _interval(middle, shift, root, df, source, observed)
    return Tested(
        (1 + beyond) / (1 + made),
        (1 + beyond_limit) / (1 + made),
        total / made,
        low,
        high,
        made,
    )


def _interval(
    middle: FloatArray,
    shift: FloatArray,
    root: FloatArray,
    df: float,
    source: Draws,
    observed: float,
) -> tuple[float, float]:
    """Return the divergences of all c times the shift that may have given what was observed."""
    error = np.ascontiguousarray(_errors(source, 0, root, df)[:, :INTERVAL_DRAWS])
    tail = (1 - INTERVAL) / 2
    length = float(np.sqrt((shift**2).sum()))
    if length == 0:
        return 0.0, 0.0
    reach = 1 + _REACH * float(np.sqrt((error**2).sum(0).mean())) / length

    def above(c: float) -> float:
        """Return the share of draws about c times the shift with at least the divergence seen."""
        return float((_divergences(middle, c * shift, error) >= observed).mean())

    def solve(wanted: float, start: float, stop: float) -> float:
        if above(start) >= wanted:
            return start
        for _ in range(_STEPS):
            half = (start + stop) / 2
            start, stop = (half, stop) if above(half) < wanted else (start, half)
        return (start + stop) / 2

    low = solve(tail, 0.0, 1.0)
    high = solve(1 - tail, low, reach)
    still = np.zeros((len(shift), 1))
    low, high = (float(_divergences(middle, c * shift, still)[0]) for c in (low, high))
    return low, high


def _errors(source: Draws, number: int, root: FloatArray, df: float) -> FloatArray:
    """Return a block of draws of a multivariate t: (localization, draw)."""
    normal, places = source.block(number)
    error = root @ normal
    error *= places.interpolated(_scales(df))
    return np.asarray(error)


def _divergences(middle: FloatArray, shift: FloatArray, error: FloatArray) -> FloatArray:
    """Return the divergence, about a shift, of draws of its error: (draw,).

    The two distributions are ``middle -+ (shift + error) / 2``, with the error on the scale of
    half the log ratio, u = atanh((shift + error) / (2 middle)) to first order: there no draw
    leaves the simplex. Cut off at 0 instead, as draws by addition must be, small proportions make
    the null too wide: see `assess`.
    """
    m = np.maximum(middle, KL_FLOOR)
    relative = np.clip(shift / (2 * m), -_MOST_RELATIVE, _MOST_RELATIVE)
    slope = 1 / (m * (1 - relative**2))
    ratio = error * slope[:, None]
    ratio += 2 * np.arctanh(relative)[:, None]
    np.clip(ratio, -_MOST_LOG_RATIO, _MOST_LOG_RATIO, out=ratio)
    b = np.exp(ratio)
    a = 2 * m[:, None] / (1 + b)
    b *= a
    sum_a, sum_b = a.sum(0), b.sum(0)
    ratio *= a
    return np.asarray(np.log(sum_b / sum_a) - ratio.sum(0) / sum_a)


def _root(covariance: FloatArray) -> FloatArray:
    """Return the symmetric root: of all roots the one that moves least when the covariance does."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


_SCORES = np.linspace(-6.5, 6.5, 261)


@dataclass(frozen=True)
class _Places:
    """Where normal scores lie among `_SCORES`: found once, for scales of all degrees of freedom.

    `before` is the number of the one before (draw,), `beyond` how far beyond it a score lies.
    """

    before: npt.NDArray[np.int64]
    beyond: FloatArray

    @classmethod
    def of(cls, score: FloatArray) -> "_Places":
        """Find the places of some scores (draw,)."""
        score = np.clip(score, _SCORES[0], _SCORES[-1])
        before = np.minimum(np.searchsorted(_SCORES, score, "right") - 1, len(_SCORES) - 2)
        return cls(before, score - _SCORES[before])

    def interpolated(self, values: FloatArray) -> FloatArray:
        """Return values at `_SCORES` as they are at these scores (draw,): as `numpy.interp`."""
        slope = np.diff(values) / np.diff(_SCORES)
        return np.asarray(slope[self.before] * self.beyond + values[self.before])


@functools.lru_cache(maxsize=64)
def _scales(df: float) -> FloatArray:
    """Return sqrt(df / chi-square) at the normal scores `_SCORES`, to be interpolated."""
    quantiles = np.maximum(chdtri(df, ndtr(-_SCORES)), 1e-12 * df)
    return np.asarray(np.sqrt(df / quantiles))
