"""The sentences on models side by side: which reads the neighbours less, and what it pays for that.

The one idea: as elsewhere on the page, a sentence is chosen by the interval, and it is the interval
of the paired difference. What may be chance is said not to be told.
"""

import math
from typing import NamedTuple

import xarray as xr

from bgscale.report.gather import HEADLINE, ORIGINAL
from bgscale.report.words import CONTRAST, NONE, contrast, digits, interval, spoken
from bgscale.rows import GROUPED

HOW_COMPARED = (
    "The models are classified on the same cells, in the same folds. So what they share cancels: a "
    "difference has the interval of the difference (95%, by leaving out one class of both at a "
    "time), which two intervals side by side do not tell."
)
PUBLISHED = "the published folds"


class Figure(NamedTuple):
    """A figure of a model and how it differs from that of the first.

    Attributes
    ----------
    value, first : float
        Of the model, and of the first one.
    low, high : float
        Of the model's own value.
    more, more_low, more_high : float
        How much more it is than the first one's, with its interval; NaN: there is none.
    """

    value: float
    first: float
    low: float
    high: float
    more: float
    more_low: float
    more_high: float

    @property
    def sign(self) -> int | None:
        """1 if it is surely more than the first one's, -1 if surely less, 0 if that is not told.

        None where there is no interval to tell by.
        """
        if not math.isfinite(self.more_low):
            return None
        return 1 if self.more_low > 0 else -1 if self.more_high < 0 else 0

    @property
    def size(self) -> str:
        """How much they differ, without sign, with the interval turned along."""
        ends = self.more_low, self.more_high
        low, high = (-ends[1], -ends[0]) if self.more < 0 else ends
        return f"{abs(self.more):.3f} {interval(low, high)}"

    @property
    def signed(self) -> str:
        """How much more it is, with its interval."""
        return f"{digits(self.more)} {interval(self.more_low, self.more_high)}"


def figure_of(found: xr.Dataset, model: str, name: str, prefix: str = "") -> Figure | None:
    """Return a figure of a comparison: of a setting its accuracy, of a contrast the difference.

    None where the comparison has no such value.
    """
    kind, dim = ("difference", "contrast") if " - " in name else ("accuracy", "setting")
    kind = prefix + kind
    if kind not in found or name not in found[dim].to_numpy():
        return None
    at = found.sel({dim: name})
    ends = ("_low", "_high", "_against", "_against_low", "_against_high")
    value, *others = (float(at[f"{kind}{end}"].sel(model=model)) for end in ("", *ends))
    low, high, *more = others
    first = float(at[kind].sel(model=found.attrs["against"]))
    made = Figure(value, first, low, high, *more)
    return made if math.isfinite(made.value) and math.isfinite(made.more) else None


def reading(found: xr.Dataset, model: str) -> str:
    """Return which of a model and the first reads the neighbours less, and by how much."""
    first = str(found.attrs["against"])
    gap = figure_of(found, model, CONTRAST)
    name = contrast(CONTRAST)
    if gap is None:
        return f"Whether {model} or {first} reads the neighbours less is not known: no {name}."
    both = f"{digits(gap.value)} {interval(gap.low, gap.high)} against {digits(gap.first)}"
    # a gap below zero is no smaller dependence on the background, if it is the farther one
    nearer = abs(gap.value) <= abs(gap.first)
    if gap.sign is None:
        told = (
            f"The gap {name} of {model} is {both} of {first}: without an interval of the "
            "difference, which reads the neighbours less cannot be told"
        )
    elif gap.sign == 0:
        told = (
            f"Which of {model} and {first} reads the neighbours less cannot be told from chance: "
            f"the gap {name} is {both}, a difference of {gap.signed}"
        )
    elif nearer == (gap.sign < 0):
        how, size = ("less", "smaller") if gap.sign < 0 else ("more", "larger")
        told = (
            f"{model} reads the neighbours {how} than {first}, and not by chance: its gap {name} "
            f"is {size} by {gap.size} ({both})"
        )
    else:
        told = (
            f"The gaps {name} of {model} and {first} differ by {gap.signed}, and not by "
            f"chance; below zero, another background helps ({both})"
        )
    grouped = figure_of(found, model, CONTRAST, GROUPED)
    if grouped is None:
        return f"{told}."
    folds = _grouped(found)
    sure = {None: "without an interval", 0: "not told from chance"}.get(grouped.sign, "")
    return f"{told}. With {folds} it differs by {grouped.signed}{f' ({sure})' if sure else ''}."


def price(found: xr.Dataset, model: str) -> str:
    """Return what a model pays, or gains, in accuracy on crops as imaged, by folds."""
    parts = []
    for prefix, folds in (("", PUBLISHED), (GROUPED, _grouped(found))):
        figure = figure_of(found, model, ORIGINAL, prefix)
        if figure is None:
            continue
        both = f"{digits(figure.value)} against {digits(figure.first)}"
        if figure.sign is None:
            parts.append(f"with {folds} it is {both}, without an interval of the difference")
        elif figure.sign == 0:
            parts.append(f"with {folds} a difference cannot be told from chance: {both}, "
                         f"a difference of {figure.signed}")  # fmt: skip
        else:
            how = "higher" if figure.sign > 0 else "lower"
            parts.append(f"with {folds} it is {how} by {figure.size} ({both})")
    if not parts:
        return f"What it pays on {spoken(ORIGINAL)} is not known."
    return f"Accuracy of {model} on {spoken(ORIGINAL)}: {'; '.join(parts)}."


def shifts(found: xr.Dataset, model: str, setting: str = HEADLINE) -> str:
    """Return how many proteins shift by a model and by the first; empty where that is not known."""
    first = str(found.attrs["against"])
    own, others = (shifted(found, one, setting) for one in (model, first))
    if NONE in (own, others):
        return ""
    return (
        f"Under {spoken(setting)} {own} tested proteins shift substantially by {model}, {others} "
        f"by {first}."
    )


def shifted(found: xr.Dataset, model: str, setting: str, kind: str = "substantial") -> str:
    """Return how many of the tested proteins are shifted under a setting, by fixed classifiers."""
    if setting not in found["setting"].to_numpy():
        return NONE
    at = found.sel(model=model, setting=setting, fit="fixed")
    tested, share = float(at["tested"]), float(at[f"shifted_{kind}"])
    if not (math.isfinite(tested) and math.isfinite(share)):
        return NONE
    return f"{round(share * tested):,} of {tested:,.0f}"


def cost(seconds: float) -> str:
    """Return what a cell costs, in milliseconds.

    Examples
    --------
    >>> cost(0.00193), cost(float("nan"))
    ('1.93', 'not known')
    """
    return f"{1000 * seconds:.3g}" if math.isfinite(seconds) else "not known"


def _grouped(found: xr.Dataset) -> str:
    return f"folds {found.attrs['grouped']}"
