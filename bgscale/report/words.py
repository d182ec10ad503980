"""The sentences of the page: what was found, with its interval, in plain words.

The one idea: a sentence is chosen by the interval. What may be chance is never said to be found.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from bgscale.report.gather import HEADLINE, ORIGINAL, Model, Run
from bgscale.report.markup import Markup, join, tag
from bgscale.shifted import PUBLISHED_LARGE_KL

HOW_TOLD_APART = (
    "A linear classifier is trained for every pair of localizations and tested on cells it has not "
    "seen. The number is the mean accuracy; below it stand 3 standard errors as published, and the "
    "95% interval of a jackknife over classes, which is the one to go by. Chance is 0.5."
)
CONTRAST = "same - different"
AGAINST_IMAGED = "original - different"
NONE = "none"
MINUS = "−"


def digits(value: float, count: int = 3) -> str:
    """Return a number; "none" where there is none.

    Examples
    --------
    >>> digits(0.1437), digits(float("nan"))
    ('0.144', 'none')
    """
    return f"{value:.{count}f}".replace("-", MINUS) if math.isfinite(value) else NONE


def contrast(name: str) -> str:
    r"""Return the name of a difference between settings as it is written.

    Examples
    --------
    >>> contrast("original - cell_free")
    'original\xa0−\xa0cell free'
    """
    return name.replace("_", " ").replace(" - ", f"\xa0{MINUS}\xa0")


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{share:.0%}" if math.isfinite(share) else NONE


def interval(low: float, high: float) -> str:
    """Return an interval; in words where there is none."""
    return f"[{digits(low)}, {digits(high)}]" if math.isfinite(low) else "no interval"


def estimate(mean: float, error: float, low: float, high: float) -> Markup:
    """Return what stands in a cell of the table of accuracies."""
    if not math.isfinite(mean):
        return join("none")
    lines = [f"± {digits(error)}", interval(low, high)]
    return join([digits(mean), *(tag("span", line, class_="interval") for line in lines)])


def count(number: int, what: str) -> str:
    """Return a number of things.

    Examples
    --------
    >>> count(1, "plate"), count(1200, "well")
    ('1 plate', '1,200 wells')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int) -> str:
    """Return the first names, and how many more there are.

    Examples
    --------
    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def spoken(setting: str) -> str:
    """Return the name of a setting as it stands in a sentence.

    Examples
    --------
    >>> spoken("cell_free")
    '“cell free”'
    """
    return f"“{setting.replace('_', ' ')}”"


def pairs(classes: int) -> str:
    """Return how many pairs so many classes make."""
    return count(classes * (classes - 1) // 2, "pair")


def _difference(model: Model, contrast: str) -> tuple[float, float, float] | None:
    table = model.table
    if table is None or contrast not in table["contrast"].to_numpy():
        return None
    at = table.sel(contrast=contrast)
    value, low, high = (float(at[f"difference{end}"]) for end in ("", "_low", "_high"))
    return (value, low, high) if math.isfinite(value) else None


def finding(model: Model) -> str:
    """Return what was found with a model, in one sentence."""
    found = _difference(model, CONTRAST)
    if found is None:
        first = "Accuracies under other backgrounds are not there yet"
    else:
        value, low, high = found
        number = f"{abs(value):.3f}"
        if value == 0 and model.sees_cell_alone:
            first = (
                "No background makes a difference, by construction and not by measurement: the "
                "model is shown the pixels of the centre cell alone, scaled by their own range"
            )
        elif not math.isfinite(low):
            first = (
                f"Under a background of another localization accuracy differs by {digits(value)}, "
                "without an interval"
            )
        elif low > 0:
            first = (
                "Under a background of another localization accuracy falls by "
                f"{number} {interval(low, high)}"
            )
        elif high < 0:
            first = (
                "Under a background of another localization accuracy rises by "
                f"{number} {interval(-high, -low)}"
            )
        else:
            first = (
                "Whether a background of another localization lowers accuracy cannot be told: "
                f"it falls by {digits(value)} {interval(low, high)}"
            )
    of = model.shares.get((HEADLINE, "fixed"))
    if of is None or not of["tested"]:
        return f"{first}."
    moved = round(of["share_significant_and_substantial"] * of["tested"])
    return f"{first}; {moved:,} of {of['tested']:,} tested proteins shift substantially."


def beside(model: Model) -> str:
    """Return what stands below the finding: how it was compared, and the difference to original."""
    parts = []
    found = _difference(model, CONTRAST)
    if found is not None:
        parts.append(
            "Compared is a background of the same localization; the brackets are a 95% interval."
        )
    imaged = _difference(model, AGAINST_IMAGED)
    if imaged is not None:
        value, low, high = imaged
        parts.append(
            f"Compared with crops as imaged the fall is {digits(value)} {interval(low, high)}."
        )
    of = model.shares.get((HEADLINE, "fixed"))
    if of is not None and of["tested"]:
        significant = round(of["share_significant"] * of["tested"])
        parts.append(
            f"{significant:,} of {of['tested']:,} proteins shift significantly under "
            f"{spoken(HEADLINE)}; the median KL of all proteins is "
            f"{digits(of['kl']['median'], 2)} nat."
        )
    return " ".join(parts)


def limits(run: Run) -> str:
    """Return what of the screen was left out on purpose; empty: nothing."""
    screen = run.config["screen"]
    found = []
    if screen["limit"]:
        found.append(f"at most {screen['limit']:,} fields or crops")
    if screen["proteins"]:
        found.append(f"{count(len(screen['proteins']), 'chosen protein')}")
    if run.config["evaluation"]["fields"]:
        found.append(f"fields {', '.join(run.config['evaluation']['fields'])}")
    return "; ".join(found)


def screen(run: Run, counts: Mapping[str, int]) -> str:
    """Return what the screen is."""
    where = (
        f" on {count(counts['plates'], 'plate')} with {count(counts['fields'], 'field')}"
        if run.is_of_plates
        else ", as crops"
    )
    drawn = set(run.attrs.get("drawn", {}).get("plates", run.plates))
    later = [plate for plate in run.plates if plate not in drawn]
    came = f" Donors were drawn before these plates came: {', '.join(later)}." if later else ""
    return (
        f"{count(counts['cells'], 'cell')} of {count(counts['proteins'], 'protein')} in "
        f"{counts['classes']} localizations{where}; {counts['usable']:,} cells are used. Models: "
        f"{', '.join(run.models)}.{came}"
    )


def shifted(model: Model, run: Run) -> str:
    """Return how many proteins are shifted under the setting that the page speaks of first."""
    of = model.shares[run.setting, "fixed"]
    name = spoken(run.setting)
    if not of["tested"]:
        why = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in of["untested"].items())
        return f"No protein could be tested under {name}: {why}."
    untested = sum(of["untested"].values())
    left = f"; {untested:,} could not be tested" if untested else ""
    return (
        f"Under {name}, {percent(of['share_significant'])} of {of['tested']:,} tested proteins "
        f"shift significantly and {percent(of['share_significant_and_substantial'])} "
        f"substantially{left}. By size alone, {percent(of['share_with_large_kl'])} have a KL above "
        f"{of['large_kl']} nat, the mean and one standard deviation of the published proteins."
    )


def how_shifted(section: Mapping[str, Any], tau: float) -> str:
    """Return what the columns of the table of shifts mean."""
    return (
        f"Significant: false discovery rate of at most {section['false_discovery_rate']:g} over "
        f"the proteins. Substantial: significant, and moved by more than {tau:g} in total "
        f"variation, tested too. Large KL: above {PUBLISHED_LARGE_KL} nat, the mean and one "
        "standard deviation of the published proteins, untested; the authors call about 15% of "
        "theirs substantially shifted. Fixed: classifiers fitted on crops as imaged; matched: "
        "within the setting. A divergence is biased upward where cells are few; its interval, with "
        "each protein below, is that of the true one, so the KL seen may lie above it."
    )


def harm(found: xr.Dataset, setting: str) -> str:
    """Return which backgrounds take most, and which least."""
    if setting not in found["setting"].to_numpy():
        return "This run has no setting with the background of each class."
    overall = found["overall"].sel(setting=setting)
    order = np.argsort(np.nan_to_num(overall.to_numpy(), nan=np.inf))
    there = [int(k) for k in order if np.isfinite(overall.to_numpy()[k])]
    if not there:
        return "There are too few localizations for a background outside a pair."

    def told(k: int) -> str:
        at = found.sel(setting=setting).isel(background=k)
        ends = (float(at[f"overall_{end}"]) for end in ("low", "high"))
        return f"{overall['background'].item(k)} ({digits(float(overall[k]))} {interval(*ends)})"

    worst = ", ".join(told(k) for k in there[:3])
    least = told(there[-1])
    return (
        f"Accuracy on a background of one localization, less that of the same pairs as imaged. It "
        f"is lowest on {worst}, and highest on {least}."
    )


def neighbours(found: xr.Dataset) -> str:
    """Return how much cells without and with neighbours lose."""
    intro = (
        "Cells that were imaged without neighbours are the control: their own background is medium "
        "alone."
    )
    contrasts = [str(c) for c in found["contrast"].to_numpy()]
    wanted = next((c for c in (AGAINST_IMAGED, CONTRAST) if c in contrasts), None)
    if wanted is None:
        return intro
    at = found.sel(contrast=wanted)
    told = []
    for place, label in ((0, "no neighbour"), (-1, None)):
        one = at.isel(neighbours=place)
        value = float(one["difference_by_neighbours"])
        if math.isfinite(value):
            ends = (float(one[f"difference_by_neighbours_{end}"]) for end in ("low", "high"))
            n = int(one["difference_by_neighbours_n_cells"])
            name = label or f"{one['neighbours'].item()}"
            told.append(f"with {name} {digits(value)} {interval(*ends)} (n = {n:,})")
    if not told:
        return intro
    return f"{intro} The share told right, {contrast(wanted)}: {'; '.join(told)}."


def wells(odd: int, all_: int) -> str:
    """Return how many wells are to be looked at."""
    if not odd:
        return f"None of {count(all_, 'well')} is odd beside the others of its plate."
    return (
        f"{odd:,} of {count(all_, 'well')} should be looked at before their cells are believed: "
        "each is compared with the other wells of its plate."
    )


def reliability(found: xr.Dataset, settings: Sequence[str]) -> str:
    """Return by how much confidence and truth differ under each setting."""
    told = []
    for setting in settings:
        at = found.sel(fit="fixed", setting=setting)
        value = float(at["calibration_error"])
        if math.isfinite(value):
            ends = (float(at[f"calibration_error_{end}"]) for end in ("low", "high"))
            told.append(f"{setting.replace('_', ' ')} {value:.3f} {interval(*ends)}")
    if not told:
        return "There is no cell of which the truth is known."
    return (
        "Where the softmax of the classifier is right as often as it says, a proportion means what "
        "it says. The mean gap between confidence and truth, by classifiers fitted on "
        f"{ORIGINAL}: {'; '.join(told)}."
    )
