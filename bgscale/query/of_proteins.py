"""Which proteins: how far each has moved under a setting, whether that is chance, and to where."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bgscale.asked import models_with, pick, pick_all
from bgscale.query.asking import ORIGINAL, Proteins, Source, several, store_of
from bgscale.results import Store, open_results
from bgscale.shifted import shifted
from bgscale.summary import node

COLUMNS = (
    "protein",
    "setting",
    "n_cells",
    "kl",
    "kl_low",
    "kl_high",
    "q",
    "substantial",
    "top_original",
    "share_original",
    "top",
    "share",
    "total_variation",
    "significant",
    "localization",
    "n_fields",
    "p",
    "q_substantial",
    "kl_corrected",
    "jensen_shannon",
    "reason",
)
"""In the order in which they are worth seeing."""


def proteins(
    source: Source,
    *,
    model: str = "",
    protein: str | Sequence[str] = (),
    localization: str | Sequence[str] = (),
    plate: str | Sequence[str] = (),
    setting: str | Sequence[str] = "masked",
    fit: str = "fixed",
    min_kl: float = 0.0,
    min_tv: float = 0.0,
    max_q: float = 1.0,
    significant: bool = False,
    substantial: bool = False,
) -> pd.DataFrame:
    """Return how far proteins move under settings: a row a protein and setting, the surest first.

    Parameters
    ----------
    source : str, path, Store or DataTree
        A run store, or what `open_results` made of it.
    model : str
        By default the only one.
    protein, localization, plate : str or sequence of str
        Only proteins of these names; with any of these localizations; with cells on any of these
        plates (the figures are of all their cells). By default all.
    setting : str or sequence of str
        Each against `original`; (): all of the run.
    fit : {"fixed", "matched"}
    min_kl, min_tv, max_q : float
        Nats; total variation; false discovery rate. A protein that was not tested has no q, and
        with `max_q` below 1 no row.
    significant, substantial : bool
        Only those that are.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`: known localization, cells, fields, KL with its 95% interval and less what
        chance adds (nats), Jensen-Shannon divergence (nats), total variation, p, q, q of being
        substantial, flags; the localization with the largest share of the cells under `original`
        and under the setting, with that share; why there is no test.

    Raises
    ------
    InputError
        No such name (the nearest is said), or the shifts are not complete.

    Examples
    --------
    >>> proteins("results.zarr", protein=["NUP2"], setting=())  # doctest: +SKIP
    """
    store = store_of(source)
    known = Proteins(store)
    name = pick("model", model, models_with(store, "shifts", model))
    tree = source if isinstance(source, xr.DataTree) else None
    if tree is None:
        tree = open_results(store.location, nodes=[f"shifts/{name}"])
    codes = known.chosen(several(protein), several(localization))
    if plate:
        codes = codes[np.isin(codes, _on_plates(store, several(plate)))]
    names = [known.names[code] for code in codes]
    there = node(tree, "shifts", name)
    settings = [str(s) for s in there["setting"].to_numpy() if s != ORIGINAL]
    wanted = pick_all("setting", several(setting), settings)
    fit = pick("fit", fit, [str(f) for f in there["fit"].to_numpy()])
    frames = [_under(tree, name, s, fit, names) for s in wanted]
    frame = pd.concat(frames) if frames else pd.DataFrame(columns=list(COLUMNS))
    frame["localization"] = frame["protein"].map(dict(zip(known.names, known.texts, strict=True)))
    # where there is no value, a threshold that asks for nothing leaves the row
    kept = (
        ((frame["kl"] >= min_kl) | (min_kl <= 0))
        & ((frame["total_variation"] >= min_tv) | (min_tv <= 0))
        & ((frame["q"] <= max_q) | (max_q >= 1))
        & (frame["significant"] | (not significant))
        & (frame["substantial"] | (not substantial))
    )
    found = frame.loc[kept.astype(bool), list(COLUMNS)]
    by = ["q_substantial", "q", "kl"]
    return found.sort_values(by, ascending=[True, True, False], kind="stable", ignore_index=True)


def _under(
    tree: xr.DataTree, model: str, setting: str, fit: str, names: Sequence[str]
) -> pd.DataFrame:
    """Return the shifts of some proteins under a setting."""
    frame = shifted(tree, model, setting=setting, fit=fit, proteins=names)
    here = node(tree, "shifts", model).sel(fit=fit, protein=list(frame.index))
    frame["jensen_shannon"] = here["jensen_shannon"].sel(setting=setting).to_numpy()
    for suffix, name in (("_original", ORIGINAL), ("", setting)):
        frame[f"top{suffix}"], frame[f"share{suffix}"] = _top(here["proportion"].sel(setting=name))
    frame["setting"] = setting
    return frame.rename_axis("protein").reset_index()


def _top(proportion: xr.DataArray) -> tuple[list[str], Any]:
    """Return the largest localization of each protein, and its share; "" and NaN: no cells."""
    values = proportion.transpose("protein", "localization").to_numpy()
    there = np.isfinite(values).all(axis=1)
    filled = np.where(there[:, None], values, -1.0)
    names = proportion["localization"].to_numpy().astype(str)[filled.argmax(axis=1)]
    return np.where(there, names, "").tolist(), np.where(there, filled.max(axis=1), np.nan)


def _on_plates(store: Store, plates: Sequence[str]) -> Any:
    """Return the codes of proteins that have cells on any of these plates."""
    chosen = pick_all("plate", plates, store.attrs()["plates"])
    found = [np.unique(store.read(f"plates/{name}/cells/protein")) for name in chosen]
    return np.unique(np.concatenate(found))
