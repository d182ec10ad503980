"""Which proteins of a run store are shifted: tested, and beside it the paper's kind of number.

The one idea: a large divergence may be chance, and a small one may be sure; so how many are
significant, how many are significant and substantial, and how many merely have a large KL are told
side by side.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr

from bgscale.errors import InputError, nearest
from bgscale.proportions import summary
from bgscale.summary import node

PUBLISHED_LARGE_KL = 1.747
"""Mean and one standard deviation, in nats, of the 1,531 proteins published. The authors call about
15% substantially shifted and do not say from where on."""

_COLUMNS = (
    "n_cells",
    "n_fields",
    "kl",
    "kl_low",
    "kl_high",
    "kl_corrected",
    "total_variation",
    "p",
    "q",
    "q_substantial",
)
_FLAGS = ("significant", "substantial")


def shifted(
    tree: xr.DataTree,
    model: str,
    *,
    setting: str = "masked",
    fit: str = "fixed",
    proteins: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return every protein's shift between `original` and a setting; the surest come first.

    Parameters
    ----------
    tree : DataTree
        From `open_results`.
    model, setting, fit : str
    proteins : sequence of str, optional
        Only these, all of which are there; only what holds them is read.

    Returns
    -------
    DataFrame
        By protein: cells, fields, KL with its interval (nats) and less what chance adds, total
        variation, p, q, q of being substantial, flags, and the reason where it was not tested.

    Raises
    ------
    InputError
        There is no such model, setting or fit; those that are there are named.
    """
    one = _chosen(tree, model, setting, fit, proteins)
    frame = pd.DataFrame({name: one[name].to_series() for name in _COLUMNS})
    for flag in _FLAGS:
        frame[flag] = one[flag].to_series().astype(bool)
    names = one["reason"].attrs["names"]
    frame["reason"] = [names[code] for code in one["reason"].to_numpy()]
    return frame.sort_values(["q_substantial", "q", "kl"], ascending=[True, True, False])


def shift_shares(
    tree: xr.DataTree, model: str, *, setting: str = "masked", fit: str = "fixed"
) -> dict[str, Any]:
    """Return how many proteins are shifted, by test and by size.

    Returns
    -------
    dict
        Numbers of proteins, tested ones, and untested ones by reason; of the tested ones the
        shares that are significant, that are significant and substantial, and, by size alone, whose
        KL is above `PUBLISHED_LARGE_KL`; and of all proteins the summary of KL that was published.

    Raises
    ------
    InputError
        As `shifted`.
    """
    frame = shifted(tree, model, setting=setting, fit=fit)
    tested = frame[frame["p"].notna()]
    count = len(tested)
    untested = frame["reason"][frame["p"].isna()].value_counts()

    def share(flags: "pd.Series[bool]") -> float:
        return float(flags.mean()) if count else float("nan")

    return {
        "proteins": len(frame),
        "tested": count,
        "untested": {str(reason): int(n) for reason, n in untested.items()},
        "share_significant": share(tested["significant"]),
        "share_significant_and_substantial": share(tested["significant"] & tested["substantial"]),
        "large_kl": PUBLISHED_LARGE_KL,
        "share_with_large_kl": share(tested["kl"] > PUBLISHED_LARGE_KL),
        "kl": summary(frame["kl"].to_numpy()),
    }


def format_shifts(frame: pd.DataFrame, shares: dict[str, Any], *, count: int, title: str) -> str:
    """Return the first proteins and the shares as text."""
    lines = [title]
    shown = frame[frame["p"].notna()].head(count)
    if len(shown):
        table = shown.drop(columns=["reason"]).round(4)
        with pd.option_context("display.width", 200, "display.max_columns", None):
            lines.append(table.to_string())
    lines.append(shift_line(shares))
    return "\n".join(lines) + "\n"


def shift_line(shares: dict[str, Any]) -> str:
    """Return how many proteins are shifted, as text."""
    untested = ", ".join(f"{n} {reason}" for reason, n in shares["untested"].items())
    line = f"{shares['tested']} of {shares['proteins']} proteins tested"
    if untested:
        line += f" (not: {untested})"
    if not shares["tested"]:
        return line
    return (
        f"{line}: significantly shifted {shares['share_significant']:.1%}, significantly and "
        f"substantially {shares['share_significant_and_substantial']:.1%}\n"
        f"KL above {shares['large_kl']} nat (mean and one standard deviation of the published "
        f"proteins), by size alone: {shares['share_with_large_kl']:.1%}"
    )


def _chosen(
    tree: xr.DataTree, model: str, setting: str, fit: str, proteins: Sequence[str] | None
) -> xr.Dataset:
    dataset = node(tree, "shifts", model)
    for dim, value in (("setting", setting), ("fit", fit)):
        known = [str(name) for name in dataset[dim].to_numpy()]
        if value not in known:
            msg = f"no {dim} {value!r}{nearest(value, known)}; there are {', '.join(known)}"
            raise InputError(msg)
    one = dataset[[*_COLUMNS, *_FLAGS, "reason"]].sel(fit=fit, setting=setting)
    return (one if proteins is None else one.sel(protein=list(proteins))).load()
