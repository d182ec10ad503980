"""All the figures that a store can give, by name.

The one idea: a figure is a name and a function that has not been called; who calls it learns of
each that cannot be drawn, and why, without the others being held up.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from bgscale.asked import models_with, pick_all
from bgscale.comparison import compare
from bgscale.errors import InputError
from bgscale.plot.accuracies import accuracy, sensitivity, table
from bgscale.plot.backgrounds import confusion, harm, neighbours
from bgscale.plot.calibration import reliability
from bgscale.plot.cells import settings
from bgscale.plot.models import COMPARED, comparison, shift_comparison
from bgscale.plot.plates import quality
from bgscale.plot.shifts import proportions, shift_distribution, volcano
from bgscale.quality import summarise
from bgscale.results import Store, open_results
from bgscale.settings import SETTINGS
from bgscale.shifted import shifted
from bgscale.summary import field_table

FIGURES = (
    "settings", "accuracy", "table", "sensitivity", "harm", "confusion", "neighbours",
    "shift_distribution", "volcano", "proportions", "reliability", "quality",
    "comparison", "shift_comparison",
)  # fmt: skip
OF_SEVERAL = ("comparison", "shift_comparison")
"""Those that take two models."""
LONGEST_NAME = 80


class Drawing(NamedTuple):
    """A figure that is not drawn yet.

    Attributes
    ----------
    name : str
        Of its file, without ending.
    figure : str
        One of `FIGURES`.
    draw : callable
        Returns its axes, or raises InputError with what is missing.
    """

    name: str
    figure: str
    draw: Callable[[], Axes | npt.NDArray[np.object_]]


def every(
    store: str | Path,
    *,
    model: str = "",
    figures: Sequence[str] = (),
    proteins: Sequence[str] = (),
) -> list[Drawing]:
    """Return the figures of a store: of each model under each setting, montage, plates, comparison.

    Parameters
    ----------
    store : str or path
    model : str
        Only of this one; by default of all.
    figures : sequence of str
        Only these of `FIGURES`.
    proteins : sequence of str
        Whose proportions; by default the protein that is most surely shifted under the setting
        that shifts most of them.

    Raises
    ------
    InputError
        There is no such store, model or figure; the nearest name is said.
    """
    wanted = pick_all("figure", figures, FIGURES)
    tree = open_results(store)
    models = pick_all("model", [model] if model else [], list(tree.attrs["config"]["models"]))
    found = [_named(("settings",), partial(settings, tree))]
    found.append(_named(("quality",), partial(_plates, store)))
    for name in models:
        found += _of_model(store, tree, name, proteins)
    found += _of_several(store, tree, models, is_asked=bool({*figures} & {*OF_SEVERAL}))
    return _apart([one for one in found if one.figure in wanted])


def _of_model(
    store: str | Path, tree: xr.DataTree, model: str, proteins: Sequence[str]
) -> Iterator[Drawing]:
    changed = [str(s) for s in tree.attrs["config"]["settings"] if s != "original"]
    # a setting of a plug-in may be one too: the function then says if it is not
    each = [s for s in changed if s in SETTINGS and SETTINGS[s].each_background] or ["different"]

    def one(kind: str, function: Callable[..., Axes], *more: str, **what: str) -> Drawing:
        draw = partial(function, tree, model=model, **what)
        whole = partial(_complete, store, kind, model, draw)
        return _named((function.__name__, model, *more), whole)

    for function in (accuracy, table, sensitivity, neighbours):
        yield one("evaluation", function)
    for setting in each:
        yield one("evaluation", harm, setting, setting=setting)
        yield one("controls", confusion, setting, setting=setting)
    yield one("shifts", shift_distribution)
    for setting in changed:
        yield one("shifts", volcano, setting, setting=setting)
    # without any, what is missing is said when it is drawn
    for protein in proteins or _surest(tree, model, changed) or [""]:
        yield one("shifts", proportions, *[protein][: len(protein)], protein=protein)
    yield one("reliability", reliability)


def _of_several(
    store: str | Path, tree: xr.DataTree, models: Sequence[str], *, is_asked: bool
) -> Iterator[Drawing]:
    """Yield the figures of models side by side; of one there are none, which is said if asked."""
    if len(models) < 2:
        if is_asked:
            for figure in OF_SEVERAL:
                yield _named((figure,), partial(_too_few, models))
        return
    found = cache(partial(compare, [store], models=models))
    for variable in COMPARED:
        draw = partial(_compared, found, variable)
        yield _named(("comparison", variable), draw)
    for setting in (str(s) for s in tree.attrs["config"]["settings"] if s != "original"):
        for other in models[1:]:
            two = (models[0], other)
            pair = partial(shift_comparison, tree, models=two, setting=setting)
            whole = partial(_complete, store, "shifts", other, pair)
            yield _named(("shift_comparison", *two, setting),
                         partial(_complete, store, "shifts", models[0], whole))  # fmt: skip


def _compared(found: Callable[[], xr.Dataset], variable: str) -> Axes:
    return comparison(found(), variable=variable)


def _too_few(models: Sequence[str]) -> Axes:
    msg = (
        f"models are set side by side where there are two or more, and here is {models[0]} alone: "
        "ask for no single --model, or name others in run.toml ([models.NAME]) and `bgscale run`"
    )
    raise InputError(msg)


def _complete(store: str | Path, kind: str, model: str, draw: Callable[[], Axes]) -> Axes:
    """Draw what is complete: of half a run a figure would look whole."""
    models_with(Store(store), kind, model)
    return draw()


def _surest(tree: xr.DataTree, model: str, changed: Sequence[str]) -> list[str]:
    """Return the protein that is most surely shifted; none if there is none."""
    best: list[tuple[int, str]] = []
    for setting in changed:
        try:
            frame = shifted(tree, model, setting=setting)
        except InputError:
            continue  # the other figures of shifts say what is missing
        count = int((frame["significant"] & frame["substantial"]).sum())
        best.append((count, str(frame.index[0])))
    return [max(best, key=lambda one: one[0])[1]] if best else []


def _plates(store: str | Path) -> Any:
    return quality(summarise(field_table(store)))


def _named(parts: Sequence[str], draw: Callable[[], Any]) -> Drawing:
    """Return a drawing whose name can be that of a file, whatever a protein is called."""
    name = "-".join(re.sub(r"[^\w.+]", "_", part) for part in parts)
    return Drawing(name[:LONGEST_NAME], parts[0], draw)


def _apart(drawings: Sequence[Drawing]) -> list[Drawing]:
    """Give drawings different names, also where file names do not tell A from a."""
    taken: set[str] = set()
    found = []
    for drawing in drawings:
        name, count = drawing.name, 1
        while name.casefold() in taken:
            count += 1
            name = f"{drawing.name}-{count}"
        taken.add(name.casefold())
        found.append(drawing._replace(name=name))
    return found
