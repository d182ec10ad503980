"""Models side by side: which reads the neighbours less, and what it pays for that.

Owns what may be compared, and the paired differences. The one idea: models are compared on the same
cells, with the same donors and folds, so what all of them share cancels, and the interval of a
difference is that of the difference, not of two tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.asked import models_with
from bgscale.distribute.ledger import Ledger
from bgscale.errors import InputError
from bgscale.intervals import Estimate
from bgscale.results import Store, open_results
from bgscale.rows import GROUPED
from bgscale.shifted import shift_shares
from bgscale.summary import tables

Floats = npt.NDArray[np.float64]

FITS = ("fixed", "matched")


class Entry(NamedTuple):
    """One model of one store.

    Attributes
    ----------
    store : Store
    tree : DataTree
    model : str
    table : Dataset
        Of `bgscale.summary.tables`.
    """

    store: Store
    tree: xr.DataTree
    model: str
    table: xr.Dataset


def compare(
    stores: Sequence[str | Path], *, models: Sequence[str] = (), differ_in: str = ""
) -> xr.Dataset:
    """Compare all models of some run stores of one screen.

    Parameters
    ----------
    stores : sequence of str or path
        Of the same screen, with the same seed and settings of the classification.
    models : sequence of str
        Only these, in this order; the first is what the others are compared with.
    differ_in : str
        Only pairs of classes that differ in this column of the plate map.

    Returns
    -------
    Dataset
        By model and setting `accuracy`, by model and contrast `difference`, each with `_low`,
        `_high`, and with `_against` (`_against_low`, `_against_high`): the paired difference to the
        first model. The same with the prefix `grouped_`: all cells of a protein (or well, or field)
        held out together. By model, fit and setting `tested` proteins and the shares
        `shifted_significant` and `shifted_substantial` of them. By model `seconds_per_cell` of
        embedding all settings, in one process, as the run took; `known_proteins`, how many of the
        screen's proteins the model was trained to tell apart; `random_weights`. Intervals are 95%,
        by leaving out one class at a time.

    Raises
    ------
    InputError
        Fewer than one store; a model that is not there; stores that do not hold the same cells,
        classes or settings.
    """
    if not stores:
        msg = "nothing to compare: name one store or more"
        raise InputError(msg)
    entries = [entry for store in stores for entry in _entries(store, differ_in)]
    named = _named(entries, models)
    _check_alike(named)
    first = next(iter(named.values()))
    settings = [str(s) for s in first.table["setting"].values]
    contrasts = [str(c) for c in first.table["contrast"].values]
    parts = [_accuracies(named, prefix) for prefix in ("", GROUPED)]
    parts += [_shares(named, settings), _of_models(named)]
    out = xr.merge(parts, combine_attrs="drop")
    out = out.sel(model=list(named), setting=settings, contrast=contrasts)
    titles = first.table.attrs.get("rows", {})
    cells = first.tree["centres"].sizes["draw"] * first.tree["centres"].sizes["localization"]
    return out.assign_attrs(
        against=next(iter(named)),
        grouped=str(titles.get(GROUPED, "")),
        localizations=int(first.table.sizes["localization"]),
        proteins=int(first.tree["proteins"].sizes["protein"]),
        classified_cells=int(cells),
        interval="95%, by leaving out one class at a time",
        note=_notes(named),
    )


def _entries(path: str | Path, differ_in: str) -> list[Entry]:
    store, tree = Store(path), open_results(path)
    models_with(store, "evaluation")
    made = tables(path, differ_in=differ_in)
    return [Entry(store, tree, model, table) for model, table in made.items()]


def _named(entries: Sequence[Entry], models: Sequence[str]) -> dict[str, Entry]:
    """Return the models by a name of their own: with their store's where two have the same."""
    names = [entry.model for entry in entries]
    found = {}
    for entry in entries:
        alone = names.count(entry.model) == 1
        stem = Path(entry.store.location).name.removesuffix(".zarr")
        name = entry.model if alone else f"{stem}:{entry.model}"
        if name in found:
            msg = f"two stores are called {stem}: rename one, {entry.store.location}"
            raise InputError(msg)
        found[name] = entry
    for name in models:
        if name not in found:
            msg = f"no model {name!r} to compare; there are {', '.join(found)}"
            raise InputError(msg)
    return {name: found[name] for name in models or found}


def _check_alike(named: Mapping[str, Entry]) -> None:
    """Refuse models whose figures are not of the same cells."""
    (first, one), *others = named.items()
    for name, other in others:
        for what in ("setting", "localization"):
            a, b = (list(map(str, e.table[what].values)) for e in (one, other))
            if a != b:
                msg = (
                    f"{first} and {name} have different {what}s ({_only(a, b)}): models are "
                    "compared on the same screen, run with the same settings"
                )
                raise InputError(msg)
        mine, theirs = (np.asarray(e.tree["centres"]["id"].values) for e in (one, other))
        if not np.array_equal(mine, theirs):
            share = np.isin(mine, theirs).mean() if mine.size else 0.0
            msg = (
                f"{one.store.location} and {other.store.location} classify different cells "
                f"({share:.0%} of them are the same): models are compared on the same cells, so "
                "run both on one screen with the same seed, cells and donors"
            )
            raise InputError(msg)


def _only(a: Sequence[str], b: Sequence[str]) -> str:
    odd = sorted(set(a) ^ set(b))
    return f"only one has {', '.join(odd[:5])}" if odd else "in another order"


def _accuracies(named: Mapping[str, Entry], prefix: str) -> xr.Dataset:
    """Return accuracies and contrasts, and their paired differences to the first model."""
    made = [entry.table for entry in named.values()]
    if any(f"{prefix}mean" not in table for table in made):
        return xr.Dataset()
    found: dict[str, tuple[tuple[str, str], Floats]] = {}
    for kind, dim, value, bounds in _COLUMNS:
        names = [str(name) for name in made[0][dim].values]
        own = {end: [table[f"{prefix}{v}"].values for table in made] for end, v in
               zip(("", "_low", "_high"), (value, *bounds), strict=True)}  # fmt: skip
        paired = [
            [_against(made[0], table, prefix, name.split(" - "))[:3] for name in names]
            for table in made
        ]
        columns = np.moveaxis(np.array(paired, np.float64).reshape(len(made), len(names), 3), 2, 0)
        ends = dict(zip(("_against", "_against_low", "_against_high"), columns, strict=True))
        for end, values in {**own, **ends}.items():
            found[f"{prefix}{kind}{end}"] = (("model", dim), np.asarray(values, np.float64))
    coords = {"model": list(named)} | {d: made[0][d].values for d in ("setting", "contrast")}
    return xr.Dataset(found, coords=coords)


_COLUMNS = (
    ("accuracy", "setting", "mean", ("low", "high")),
    ("difference", "contrast", "difference", ("difference_low", "difference_high")),
)


def _against(one: xr.Dataset, other: xr.Dataset, prefix: str, settings: Sequence[str]) -> Estimate:
    """Return how much more a setting's accuracy, or a contrast of two, is than the first model's.

    Classes are left out of both models at once: what the models share cancels.
    """

    def of(table: xr.Dataset, variable: str) -> Floats:
        first, *second = (table[prefix + variable].sel(setting=s).values for s in settings)
        return np.asarray(first - second[0] if second else first, np.float64)

    value = of(other, "mean") - of(one, "mean")
    return Estimate.of_jackknife(float(value), of(other, "mean_without") - of(one, "mean_without"))


def _shares(named: Mapping[str, Entry], settings: Sequence[str]) -> xr.Dataset:
    """Return how many proteins were tested, and which shares of them have shifted."""
    columns = {"tested": "tested", "shifted_significant": "share_significant",
               "shifted_substantial": "share_significant_and_substantial"}  # fmt: skip
    shape = len(named), len(FITS), len(settings)
    made = {name: np.full(shape, np.nan) for name in columns}
    for m, entry in enumerate(named.values()):
        known = entry.tree["shifts"].children if "shifts" in entry.tree.children else {}
        if entry.model not in known:
            continue
        for f, fit in enumerate(FITS):
            for s, setting in enumerate(settings):
                if setting == "original":
                    continue
                found = shift_shares(entry.tree, entry.model, setting=setting, fit=fit)
                for name, key in columns.items():
                    made[name][m, f, s] = found[key]
    dims = ("model", "fit", "setting")
    coords = {"model": list(named), "fit": list(FITS), "setting": list(settings)}
    return xr.Dataset({name: (dims, values) for name, values in made.items()}, coords=coords)


def _of_models(named: Mapping[str, Entry]) -> xr.Dataset:
    """Return what a model costs, and what it knows of the screen."""
    rows: list[tuple[float, int, bool]] = []
    for entry in named.values():
        attrs = entry.tree[f"evaluation/{entry.model}"].attrs
        trained = set(map(str, attrs["model"].get("class_names") or ()))
        proteins = {str(name) for name in entry.tree["proteins"].coords["protein"].values}
        rows.append((_cost(entry), len(trained & proteins), bool(attrs["random_weights"])))
    names = ("seconds_per_cell", "known_proteins", "random_weights")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return xr.Dataset({n: ("model", np.array(v)) for n, v in columns}, {"model": list(named)})


def _cost(entry: Entry) -> float:
    """Return the seconds that a process took to embed a cell under all settings; NaN: not known."""
    stages, ledger = entry.store.attrs().get("stages", {}), Ledger(entry.store.location)
    mine = f"embed/{entry.model}/"
    units = [
        unit
        for unit in ledger.recorded()
        if unit.stage.startswith(mine) and stages.get(unit.stage, {}).get("token") == unit.token
    ]
    # a store of before units were timed has none
    timed = [done for done in ledger.summaries(units) if "seconds" in done]
    cells = sum(done["cells"] for done in timed)
    seconds = sum(done["seconds"] for done in timed)
    return float(seconds / cells) if cells else float("nan")


def _notes(named: Mapping[str, Entry]) -> str:
    """Return what to beware of: of each model, and of the comparison."""
    lines = {n: entry.table.attrs.get("note", "").splitlines() for n, entry in named.items()}
    shared = [
        line for line in next(iter(lines.values())) if all(line in own for own in lines.values())
    ]
    notes = list(shared)
    for name, own in lines.items():
        notes += [f"{name}: {line}" for line in own if line not in shared]
    configs = [e.tree.attrs["config"] for e in named.values()]
    for section in ("classification", "proportions", "donors"):
        if any(config[section] != configs[0][section] for config in configs):
            notes.append(f"the models were not run with the same [{section}]")
    return "\n".join(dict.fromkeys(notes))


def format_comparison(found: xr.Dataset, *, title: str) -> str:
    """Return a comparison as text: a column per model, a line per figure.

    Parameters
    ----------
    found : Dataset
        Of `compare`.
    title : str
    """
    names = [str(name) for name in found["model"].values]
    rows: list[list[str]] = [["", *names]]
    rows += _lines(found, "accuracy", "setting", "", "accuracy, ")
    rows += _lines(found, "difference", "contrast", "", "")
    if "grouped_accuracy" in found:
        rows.append([f"{found.attrs['grouped']}:", *[""] * len(names)])
        rows += _lines(found, "accuracy", "setting", "grouped_", "accuracy, ")
        rows += _lines(found, "difference", "contrast", "grouped_", "")
    shares = found["shifted_substantial"].sel(fit="fixed")
    for setting in (s for s in found["setting"].values if s != "original"):
        at = shares.sel(setting=setting).values
        tested = found["tested"].sel(fit="fixed", setting=setting).values
        if np.isfinite(tested).any():
            cells = [
                f"{round(share * n):.0f} of {n:.0f}" if np.isfinite(share) else "-"
                for share, n in zip(at, tested, strict=True)
            ]
            rows.append([f"proteins shifted, {setting}", *cells])
    known = found["known_proteins"].values
    rows.append(["proteins it was trained on", *(str(int(n)) for n in known)])
    cost = [f"{1000 * c:.3g}" if np.isfinite(c) else "-" for c in found["seconds_per_cell"].values]
    rows.append(["embedding, ms a cell", *cost])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    about = (
        f"{found.attrs['proteins']} proteins, {found.attrs['localizations']} localizations; in "
        f"brackets the 95% interval; against {found.attrs['against']}: the paired difference"
    )
    notes = [f"note: {line}" for line in found.attrs["note"].splitlines()]
    return "\n".join([title, about, "", *lines, *notes]) + "\n"


def _lines(found: xr.Dataset, kind: str, dim: str, prefix: str, before: str) -> list[list[str]]:
    """Return a line for each setting or contrast, and below it the difference to the first."""
    rows = []
    for name in found[dim].values:
        at = found.sel({dim: name})
        rows.append([f"{before}{name}", *_texts(at, f"{prefix}{kind}", "")])
        if found.sizes["model"] > 1 and (kind == "difference" or name in _COMPARED):
            paired = _texts(at, f"{prefix}{kind}", "_against")
            rows.append([f"  against {found.attrs['against']}", "", *paired[1:]])
    return rows


_COMPARED = ("original", "different")
"""Settings whose accuracy is compared with the first model's: what is paid, and what is gained."""


def _texts(at: xr.Dataset, name: str, end: str) -> list[str]:
    sign = "+" if end else ""
    texts = []
    for value, low, high in zip(
        *(at[f"{name}{end}{bound}"].values for bound in ("", "_low", "_high")), strict=True
    ):
        text = "-" if not np.isfinite(value) else f"{value:{sign}.3f}"
        if np.isfinite(low):
            text += f" [{low:{sign}.3f}, {high:{sign}.3f}]"
        texts.append(text)
    return texts


def to_json(found: xr.Dataset) -> dict[str, Any]:
    """Return a comparison as plain JSON types: by model, then figure, then setting or contrast."""
    out: dict[str, Any] = {"about": dict(found.attrs), "models": {}}
    for name in found["model"].values:
        at = found.sel(model=name)
        figures: dict[str, Any] = {}
        for variable, values in at.data_vars.items():
            series = values.to_series().items() if values.ndim else [("", values.item())]
            plain = {
                ", ".join(key) if isinstance(key, tuple) else str(key): _plain(value)
                for key, value in series
            }
            figures[str(variable)] = plain if values.ndim else plain[""]
        out["models"][str(name)] = figures
    return out


def _plain(value: Any) -> float | int | bool | None:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return None if not np.isfinite(value) else float(value)
