"""What the page says, as numbers: read from a run store, a model at a time.

Owns which parts of a run there are, and what is said where there is none. It computes nothing: the
table is `bgscale.summary`'s, the shifts are `bgscale.shifted`'s, the controls those of
`bgscale.controls`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bgscale.controls import findings
from bgscale.errors import InputError, nearest
from bgscale.lent import lent
from bgscale.models.spec import show_cell_alone
from bgscale.report.complete import Completeness, completeness
from bgscale.results import open_results
from bgscale.schema import Reason
from bgscale.shifted import shift_shares
from bgscale.summary import tables

ORIGINAL = "original"
HEADLINE = "different"
"""The setting that the page speaks of first, where the run has it."""
FITS = ("fixed", "matched")


@dataclass(frozen=True)
class Run:
    """A run store that is opened for the page.

    Parameters
    ----------
    store : str or path
    tree : DataTree
    attrs : dict
        Of the root.
    complete : Completeness
    models : tuple of str
        Those that the page is about.
    """

    store: str | Path
    tree: xr.DataTree
    attrs: Mapping[str, Any]
    complete: Completeness
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        """Last part of where the store lies: the page does not say on whose machine it was."""
        return str(self.store).rstrip("/").rpartition("/")[2]

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's config."""
        config: Mapping[str, Any] = self.attrs["config"]
        return config

    @property
    def plates(self) -> tuple[str, ...]:
        """Names of the plates; a screen of crops is one."""
        return tuple(self.attrs["plates"])

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of the run."""
        return tuple(self.config["settings"])

    @property
    def setting(self) -> str:
        """The setting whose shifts are shown first; empty where there is `original` alone."""
        others = [name for name in self.settings if name != ORIGINAL]
        return HEADLINE if HEADLINE in others else others[0] if others else ""

    @property
    def is_of_plates(self) -> bool:
        """Whether the screen is one of plates, so that there are fields and wells."""
        return self.has(f"plates/{self.plates[0]}/fields")

    def has(self, node: str) -> bool:
        """Whether there is such a node."""
        return self._at(node) is not None

    def _at(self, node: str) -> xr.DataTree | None:
        at: xr.DataTree | None = self.tree
        for part in node.split("/"):
            at = None if at is None else at.children.get(part)
        return at

    def node(self, name: str) -> xr.Dataset:
        """Return a node, lazy."""
        found = self._at(name)
        if found is None:
            msg = f"{self.store} has no {name} yet: `bgscale run` makes it"
            raise InputError(msg)
        return found.to_dataset(inherit=False)

    def shows(self, node: str, *stages: str) -> bool:
        """Whether a node is there, and the stages that fill it are complete."""
        return self.has(node) and self.complete.done(*stages)

    @cached_property
    def proteins(self) -> tuple[str, ...]:
        """Names of all proteins."""
        return tuple(map(str, self.node("proteins")["protein"].to_numpy()))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of all localizations."""
        return tuple(map(str, self.node("proteins")["localization"].to_numpy()))

    def labels(self) -> list[list[str]]:
        """Return the localizations that the plate map gives each protein."""
        label = self.node("proteins")["label"].to_numpy().astype(bool)
        return [[name for name, own in zip(self.classes, row, strict=True) if own] for row in label]

    @cached_property
    def lent(self) -> pd.DataFrame | None:
        """Who lent backgrounds, as `bgscale.lent` counts; None where that is not there yet."""
        try:
            return lent(self.store, model=self.models[0])
        except InputError:
            return None

    def usable_cells(self) -> int:
        """Return how many cells are used."""
        count = 0
        for plate in self.plates:
            if self.has(f"plates/{plate}/cells"):
                reason = self.node(f"plates/{plate}/cells")["reason"].to_numpy()
                count += int(np.sum(reason == Reason.OK))
        return count


@dataclass(frozen=True)
class Model:
    """What a run says of one model; None where that is not there, and `absent` says why.

    Parameters
    ----------
    name : str
    random_weights : bool
    spec : dict
        What the model is: architecture, layers, weights with their hash.
    engine : dict
        What ran it.
    table : Dataset or None
        As `bgscale.rows.full_table` makes it.
    findings : dict of str to Dataset, or None
        As `bgscale.controls.findings`.
    shares : dict of (setting, fit) to dict
        As `bgscale.shifted.shift_shares`.
    absent : dict of str to str
        By part ("table", "findings", "shifts", "reliability"), why it is not there.
    """

    name: str
    random_weights: bool
    spec: Mapping[str, Any]
    engine: Mapping[str, Any]
    table: xr.Dataset | None
    findings: Mapping[str, xr.Dataset] | None
    shares: Mapping[tuple[str, str], Mapping[str, Any]]
    absent: Mapping[str, str]

    @property
    def sees_cell_alone(self) -> bool:
        """Whether its preprocessing leaves nothing of the background, whatever the setting."""
        chains = (self.spec.get(key, ()) for key in ("preprocess", "masked_preprocess"))
        return all(show_cell_alone(steps) for steps in chains)

    @property
    def has_shifts(self) -> bool:
        """Whether shifts are tested."""
        return bool(self.shares)


def open_run(store: str | Path, *, model: str = "") -> Run:
    """Open a run store for its page.

    Raises
    ------
    StoreMismatchError
        Not a run store, or one of another version.
    InputError
        No such model (the nearest is said), or not even the proteins are there yet.
    """
    tree = open_results(store)
    attrs: dict[str, Any] = {str(key): value for key, value in tree.attrs.items()}
    known = list(attrs["config"]["models"])
    if model and model not in known:
        msg = f"no model {model!r}{nearest(model, known)}; there are {', '.join(known)}"
        raise InputError(msg)
    if "proteins" not in tree.children:
        msg = f"{store} has no results yet: `bgscale run` makes them, `bgscale status` says how far"
        raise InputError(msg)
    complete = completeness(store)
    return Run(store, tree, attrs, complete, (model,) if model else tuple(known))


def gather(run: Run, name: str) -> Model:
    """Return what a run says of a model; what is not complete is left out, and why is said."""
    absent = {}
    for part, stages in _needs(name).items():
        missing = run.complete.missing(stages)
        if missing:
            absent[part] = f"not complete yet: {', '.join(missing)}"
    for part, node in (
        ("table", "evaluation"),
        ("findings", "controls"),
        ("shifts", "shifts"),
        ("reliability", "reliability"),
    ):
        if part not in absent and not run.has(f"{node}/{name}"):
            absent[part] = f"this run has none: there is no {node}/{name} in the store"
    table = None if "table" in absent else _of(absent, "table", tables, run.store, model=name)
    found = None
    if "findings" not in absent:
        found = _of(absent, "findings", findings, run.store, model=name)
    shares = {}
    if "shifts" not in absent:
        shares = {
            (setting, fit): shift_shares(run.tree, name, setting=setting, fit=fit)
            for fit in FITS
            for setting in run.settings
            if setting != ORIGINAL
        }
        if not shares:
            absent["shifts"] = "the run has the setting original alone"
    about = _about(run, name)
    return Model(
        name,
        bool(about.get("random_weights", False)),
        about.get("model", {}),
        about.get("engine", {}),
        None if table is None else table[name],
        None if found is None else found[name],
        shares,
        absent,
    )


def _needs(name: str) -> dict[str, tuple[str, ...]]:
    """Return the stages that fill each part."""
    return {
        "table": (f"grid/{name}", f"evaluate/{name}"),
        "findings": (f"evaluate/{name}", f"controls/{name}"),
        "shifts": (f"proportions/{name}", f"shifts/{name}", f"discoveries/{name}"),
        "reliability": (f"reliability/{name}",),
    }


def _of(absent: dict[str, str], part: str, function: Any, *values: Any, **named: Any) -> Any:
    """Return what a function makes; None where it says what is lacking, which is kept."""
    try:
        return function(*values, **named)
    except InputError as error:
        absent[part] = str(error)
        return None


def _about(run: Run, name: str) -> dict[str, Any]:
    """Return the attributes of the first node that says what the model is."""
    nodes = [f"plates/{plate}/embeddings/{name}" for plate in run.plates]
    nodes += [f"{kind}/{name}" for kind in ("grid", "evaluation", "classifiers", "shifts")]
    for node in nodes:
        if run.has(node):
            attrs = run.tree[node].attrs
            if "model" in attrs:
                return dict(attrs)
    return {}


def protein_rows(run: Run, names: Sequence[str]) -> list[int]:
    """Return the places of proteins among all.

    Raises
    ------
    InputError
        There is no such protein; the nearest name is said.
    """
    place = {name: i for i, name in enumerate(run.proteins)}
    for name in names:
        if name not in place:
            msg = f"no protein {name!r}{nearest(name, run.proteins)} in {run.store}"
            raise InputError(msg)
    return [place[name] for name in names]
