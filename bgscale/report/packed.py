"""Numbers of all proteins for the page's script: few bytes each, and only read when looked at.

The one idea: arrays are quantised to what a page can show (a thousandth), compressed, and stand in
the page as text that costs nothing until somebody asks for it. 4,000 proteins under five settings
and two classifiers take a few megabytes.
"""

import base64
import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.proportions import ShiftReason
from bgscale.report.gather import ORIGINAL

STEPS = 1000
"""Proportions are shown to a thousandth."""
NONE = 0xFFFF
NUMBERS = (
    "kl",
    "kl_low",
    "kl_high",
    "kl_corrected",
    "total_variation",
    "p",
    "q",
    "q_substantial",
)
"""Of each shift, in this order, as float32; NaN where there is none."""
BOUNDS = ("proportion", "proportion_low", "proportion_high")
SIGNIFICANT, SUBSTANTIAL = 1, 2
REASONS = {
    ShiftReason.TESTED: "",
    ShiftReason.NO_CELLS: "no cells under this setting",
    ShiftReason.FEW_CELLS: "too few cells to test",
    ShiftReason.NO_SPREAD: "all cells moved alike: no test",
    ShiftReason.REFERENCE: "",
    ShiftReason.ONE_FIELD: "one field: the spread between fields is that of the other proteins",
}


def packed(values: npt.NDArray[Any]) -> str:
    """Return an array as text: little-endian, gzip, base64.

    Examples
    --------
    >>> text = packed(np.arange(3, dtype=np.uint16))
    >>> np.frombuffer(gzip.decompress(base64.b64decode(text)), "<u2").tolist()
    [0, 1, 2]
    """
    block = np.ascontiguousarray(values)
    block = block.astype(block.dtype.newbyteorder("<"), copy=False)
    # without the time, so that the same store gives the same page
    return base64.b64encode(gzip.compress(block.tobytes(), 6, mtime=0)).decode()


def thousandths(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Return shares in [0, 1] in thousandths; what is missing is `NONE`."""
    there = np.isfinite(values)
    steps = np.rint(STEPS * np.clip(np.where(there, values, 0), 0, 1))
    return np.where(there, steps, NONE).astype(np.uint16)


def protein_blocks(shifts: xr.Dataset, settings: Sequence[str], fit: str) -> dict[str, str]:
    """Return what the page's script needs of the proteins of a model, for one kind of classifier.

    Parameters
    ----------
    shifts : Dataset
        Node shifts/<model>, lazy.
    settings : sequence of str
        All of the run.
    fit : str

    Returns
    -------
    dict of str to str
        `numbers` (variable, setting, protein) float32, `counts` (cells or fields, setting, protein)
        uint32 and `flags` (flag or reason, setting, protein) uint8, of the settings other than
        `original`; `proportions` (value or bound, setting, localization, protein) uint16, of all.
        Proteins come last: neighbours in the text are alike, and compress.
    """
    of_fit = shifts.sel(fit=fit)
    moved = of_fit.sel(setting=[s for s in settings if s != ORIGINAL])

    def of(dataset: xr.Dataset, name: str, *dims: str) -> npt.NDArray[Any]:
        return np.asarray(dataset[name].transpose(*dims, "protein").to_numpy())

    flag = SIGNIFICANT * of(moved, "significant", "setting").astype(np.uint8)
    flag |= SUBSTANTIAL * of(moved, "substantial", "setting").astype(np.uint8)
    reason = of(moved, "reason", "setting").astype(np.uint8)
    every = of_fit.sel(setting=list(settings))
    bounds = [thousandths(of(every, name, "setting", "localization")) for name in BOUNDS]
    return {
        "numbers": packed(np.stack([of(moved, n, "setting").astype(np.float32) for n in NUMBERS])),
        "counts": packed(
            np.stack([of(moved, n, "setting").astype(np.uint32) for n in ("n_cells", "n_fields")])
        ),
        "flags": packed(np.stack([flag, reason])),
        "proportions": packed(np.stack(bounds)),
    }


def most_shifted(shifts: xr.Dataset, setting: str, fit: str, count: int) -> list[int]:
    """Return the places of the most shifted proteins: substantial ones first, the largest KL first.

    Those without a test come last, those without a KL not at all.
    """
    one = shifts.sel(fit=fit, setting=setting)[["kl", "significant", "substantial"]].load()
    kl = one["kl"].to_numpy()
    sure = one["significant"].to_numpy().astype(int) + one["substantial"].to_numpy().astype(int)
    order = np.lexsort((np.arange(len(kl)), -np.nan_to_num(kl), -sure))
    return [int(i) for i in order if np.isfinite(kl[i])][:count]
