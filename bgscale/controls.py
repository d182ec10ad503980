"""What the controls of experiment 1 say, from a run store: Datasets, and the lines a person reads.

Owns the reading and the text. The questions themselves are functions of `bgscale.dependence`, the
tables those of `bgscale.accuracy`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bgscale import dependence
from bgscale.asked import models_with
from bgscale.evaluate import codes_of
from bgscale.results import Store, open_results
from bgscale.rows import control_tables
from bgscale.summary import node

NO_VALUE = "none"
SHOWN = 5
"""Lines of a list that a person reads."""
SETTINGS_SHOWN = ("original", "same", "different")


def findings(store: str | Path, *, model: str = "") -> dict[str, dict[str, xr.Dataset]]:
    """Return, by model, what the controls of a store say.

    Parameters
    ----------
    store : str or path
    model : str
        Only this one.

    Returns
    -------
    dict of str to dict of str to Dataset
        `harm`, `confusion`, `sensitivity`, `neighbours`: see `bgscale.dependence`; `transferred`
        and `conflict`: tables of accuracies, see `bgscale.accuracy.table`.

    Raises
    ------
    InputError
        No run store, no such model, or its controls are not done yet.
    """
    tree = open_results(store)
    return {name: _of_model(tree, name) for name in models_with(Store(store), "controls", model)}


def _of_model(tree: xr.DataTree, name: str) -> dict[str, xr.Dataset]:
    evaluation = node(tree, "evaluation", name).load()
    controls = node(tree, "controls", name).load()
    groups = groups_of(tree, evaluation)
    counts, share = neighbours_of(tree)
    own = {key: evaluation.attrs[key] for key in ("model", "random_weights", "engine")}
    found = {
        "harm": dependence.background_harm(evaluation),
        "confusion": dependence.background_confusion(evaluation, controls, groups=groups),
        "sensitivity": dependence.sensitivity(evaluation, groups=groups),
        "neighbours": dependence.by_neighbours(
            evaluation, neighbours=counts, share=share, groups=groups
        ),
        **control_tables(controls),
    }
    return {key: one.assign_attrs(own) for key, one in found.items()}


def groups_of(tree: xr.DataTree, evaluation: xr.Dataset) -> xr.DataArray | None:
    """Return the group of each of experiment 1's cells: (localization, draw); None: ungrouped."""
    kind = str(evaluation.attrs["groups"])
    if kind == "none":
        return None
    centres = tree.children["centres"].to_dataset(inherit=False)
    names = [
        name
        for plate in tree.attrs["plates"]
        for name in tree[f"plates/{plate}/cells"]["field"].attrs["names"]
    ]
    wells = f"plates/{tree.attrs['plates'][0]}/fields" in tree
    codes = codes_of(
        centres["protein"].to_numpy().astype(np.int64),
        centres["field"].to_numpy().astype(np.int64),
        names,
        wells=wells,
    )
    return xr.DataArray(codes[kind], dims=("localization", "draw"), attrs={"kind": kind})


def neighbours_of(tree: xr.DataTree) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the neighbours of each of experiment 1's cells: number, and share of the window."""
    row = tree["centres"]["row"].to_numpy()
    tables = [tree[f"plates/{plate}"] for plate in tree.attrs["plates"]]
    counts, area = (
        np.concatenate([one[f"cells/{name}"].to_numpy() for one in tables])[row]
        for name in ("neighbours", "neighbour_area")
    )
    window = math.prod(tables[0]["crops/mask"].shape[1:])
    dims = "localization", "draw"
    return xr.DataArray(counts, dims=dims), xr.DataArray(area / window, dims=dims)


def format_findings(found: Mapping[str, Mapping[str, xr.Dataset]], *, title: str) -> str:
    """Return what the controls say as text: a few lines for each question.

    Parameters
    ----------
    found : mapping
        As `findings` makes it.
    title : str
        First line.
    """
    lines = [title]
    for model, one in found.items():
        lines += ["", f"{model}: controls of experiment 1"]
        if one["harm"].attrs["random_weights"]:
            lines.append("  note: random weights: these figures say nothing of a trained model")
        lines += _of_tables(one) + _of_harm(one["harm"]) + _of_confusion(one["confusion"])
        lines += _of_sensitivity(one["sensitivity"]) + _of_neighbours(one["neighbours"])
        lines.append(f"  intervals of cells: {one['neighbours'].attrs['intervals']}")
    return "\n".join(lines) + "\n"


def _of_tables(one: Mapping[str, xr.Dataset]) -> list[str]:
    lines = []
    for key, what in (
        ("transferred", "accuracy of classifiers trained on original, by setting of the test"),
        ("conflict", "accuracy where each class lies on the other's background"),
    ):
        rows = one[key]
        lines.append(f"  {what}")
        for setting in rows["setting"].values:
            own = rows.sel(setting=setting)
            lines.append(f"    {setting!s:24}{_interval(own, 'mean', 'low', 'high')}")
        if not rows.sizes["setting"]:
            lines.append("    none: no setting with the background of each class")
        lines += [f"    note: {line}" for line in rows.attrs["note"].splitlines()]
    return lines


def _of_harm(harm: xr.Dataset) -> list[str]:
    lines = []
    for setting in harm["setting"].values:
        own = harm.sel(setting=setting).dropna("background", subset=["overall"]).sortby("overall")
        lines.append(f"  {setting}: accuracy on each background less that as imaged, worst first")
        shown = own["background"].values[:SHOWN]
        lines += [
            f"    {name!s:24}{_estimate(own.sel(background=name), 'overall')}" for name in shown
        ]
        if not len(shown):
            lines.append("    none: no background outside a pair")
    return lines


def _of_confusion(confusion: xr.Dataset) -> list[str]:
    lines = []
    for setting in confusion["setting"].values:
        own = confusion.sel(setting=setting)
        values = own["excess"].values
        order = np.argsort(np.where(np.isfinite(values), -values, np.inf), axis=None)
        lines.append(f"  {setting}: cells taken for the class of their background, most first")
        for k, g in zip(*np.unravel_index(order[:SHOWN], values.shape), strict=True):
            if not np.isfinite(values[k, g]):
                continue
            at = own.isel(localization=k, background=g)
            name = f"{at['localization'].item()} on {at['background'].item()}"
            lines.append(
                f"    {name:40}{_estimate(at, 'told_as_background')}, as imaged "
                f"{_digits(at['as_imaged'])}, on same {_digits(at['on_same'])}"
            )
    return lines


def _of_sensitivity(sensitivity: xr.Dataset) -> list[str]:
    lines = []
    for contrast in sensitivity["contrast"].values:
        own = sensitivity.sel(contrast=contrast)
        lines.append(f"  {contrast} by localization, most first")
        order = np.argsort(-np.nan_to_num(own["accuracy_difference"].values, nan=-np.inf))
        for k in order[:SHOWN]:
            at = own.isel(localization=k)
            lines.append(
                f"    {at['localization'].item()!s:24}{_estimate(at, 'accuracy_difference')}, "
                f"recall {_digits(at['recall_difference'])}"
            )
    return lines


def _of_neighbours(neighbours: xr.Dataset) -> list[str]:
    lines = ["  share of cells told right, by neighbours as imaged"]
    settings = [s for s in SETTINGS_SHOWN if s in neighbours["setting"].values]
    for dim, of in (("neighbours", "neighbours"), ("share", "of the pixels")):
        columns = "".join(f"{setting:24}" for setting in settings)
        lines.append(f"    {'':24}{'cells':>8}  {columns}".rstrip())
        for label in neighbours[dim].values:
            at = neighbours.sel({dim: label})
            cells = int(at[f"recall_by_{dim}_n_cells"].sel(setting=settings[0]))
            shown = (_estimate(at.sel(setting=s), f"recall_by_{dim}") for s in settings)
            texts = "".join(f"{text:24}" for text in shown)
            lines.append(f"    {f'{label} {of}':24}{cells:>8,}  {texts}".rstrip())
    return lines


def _digits(value: Any) -> str:
    number = float(value)
    return f"{number:.3f}" if math.isfinite(number) else NO_VALUE


def _estimate(at: xr.Dataset, name: str) -> str:
    return _interval(at, name, f"{name}_low", f"{name}_high")


def _interval(at: xr.Dataset, value: str, low: str, high: str) -> str:
    if not math.isfinite(float(at[low])):
        return f"{_digits(at[value])}, no interval"
    return f"{_digits(at[value])} ({_digits(at[low])} to {_digits(at[high])})"


def to_json(found: Mapping[str, Mapping[str, xr.Dataset]]) -> dict[str, Any]:
    """Return findings as plain types for `json.dumps`; what is missing is None."""
    return {
        model: {key: _plain(one.to_dict()) for key, one in own.items()}
        for model, own in found.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
