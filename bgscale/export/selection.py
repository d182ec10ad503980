"""Which cells are exported, with which features: chosen by name, counted, read a shard at a time.

The one idea: names, categories and the number of rows are known before a feature is read, so that a
format can lay out its file and take the blocks as they come.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.asked import check_complete, goes_on, pick, pick_all, provenance
from bgscale.errors import InputError
from bgscale.results import Store
from bgscale.schema import Missing, Reason, natural

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""
NO_CLASS = "none"
"""Localization of a protein that has none."""
_CODES = ("id", "protein", "field", "reason")
_NAMED = ("plate", "well", "field", "protein", "localization", "reason")


@dataclass(frozen=True)
class Column:
    """A column of the table of cells.

    Parameters
    ----------
    name : str
    dtype : dtype
        Of the values, or of the codes of `categories`; -1: none.
    categories : tuple of str, optional
    """

    name: str
    dtype: np.dtype[Any]
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Block:
    """Cells of one shard.

    Parameters
    ----------
    ids : array (cell,), uint64
    columns : dict of str to array (cell,)
        Of each `Column`, its values or codes.
    features : array (setting, cell, feature), float32
        NaN where the cell has none under the setting.
    missing : array (setting, cell), uint8
        `bgscale.schema.Missing`.
    probability : array (fit, setting, cell, localization), float32, or None
        Softmax out of fold; None where the run did not keep it.
    """

    ids: npt.NDArray[np.uint64]
    columns: dict[str, npt.NDArray[Any]]
    features: npt.NDArray[np.float32]
    missing: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Selection:
    """Cells of a store, and the features of one model's layer under some settings.

    Parameters
    ----------
    store : Store
    model, layer : str
    settings, plates, proteins : tuple of str
        In the order of the store.
    everything : bool
        Also cells that cannot be used, and those of blank wells.
    """

    store: Store
    model: str
    layer: str
    settings: tuple[str, ...]
    plates: tuple[str, ...]
    proteins: tuple[str, ...]
    everything: bool

    def _cells(self, plate: str, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
        return self.store.read(f"plates/{plate}/cells/{name}", rows)

    def _embedding(self, plate: str) -> str:
        return f"plates/{plate}/embeddings/{self.model}/{self.layer}/embedding"

    @cached_property
    def _proteins_node(self) -> dict[str, Any]:
        return self.store.attrs("proteins")

    @property
    def _all_proteins(self) -> tuple[str, ...]:
        return tuple(self._proteins_node["coords"]["protein"])

    @property
    def localizations(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self._proteins_node["coords"]["localization"])

    @cached_property
    def _rows(self) -> dict[str, npt.NDArray[np.int64]]:
        """The rows of each plate that are exported."""
        wanted = np.isin(self._all_proteins, self.proteins)
        whole = len(self.proteins) == len(self._all_proteins)
        rows = {}
        for plate in self.plates:
            protein, reason = (self._cells(plate, name) for name in ("protein", "reason"))
            chosen = wanted[protein] & (protein >= 0)
            if self.everything:
                chosen |= whole & (protein < 0)
            else:
                chosen &= reason == Reason.OK
            rows[plate] = np.flatnonzero(chosen)
        return rows

    @property
    def n_cells(self) -> int:
        """How many cells are exported."""
        return sum(map(len, self._rows.values()))

    @cached_property
    def width(self) -> int:
        """Number of features."""
        return int(self.store.array(self._embedding(self.plates[0])).shape[2])

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return [f"{self.model}_{self.layer}_{i}" for i in range(self.width)]

    @property
    def is_random(self) -> bool:
        """Whether the model was never trained."""
        node = f"plates/{self.plates[0]}/embeddings/{self.model}"
        return bool(self.store.attrs(node)["random_weights"])

    @cached_property
    def left_out(self) -> dict[str, int]:
        """How many cells of the chosen plates and proteins are left out, by why."""
        if self.everything:
            return {}
        codes, blank = list(Reason), 0
        wanted, counts = np.isin(self._all_proteins, self.proteins), dict.fromkeys(codes, 0)
        for plate in self.plates:
            protein, reason = (self._cells(plate, name) for name in ("protein", "reason"))
            own = reason[wanted[protein] & (protein >= 0)]
            for code in codes:
                counts[code] += int((own == code).sum())
            blank += int((protein < 0).sum()) if wanted.all() else 0
        left = {code.text: n for code, n in counts.items() if n and code != Reason.OK}
        return left | ({"of a well without a protein": blank} if blank else {})

    @cached_property
    def fits(self) -> tuple[str, ...]:
        """How the classifiers were fitted whose softmax is kept of all plates; none: not kept."""
        node = "plates/{}/predictions/" + self.model
        if not all(self.store.has(f"{node.format(p)}/probability") for p in self.plates):
            return ()
        return tuple(self.store.attrs(node.format(self.plates[0]))["coords"]["fit"])

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table of cells; the measures are those that all plates have."""
        wells, fields = set(), set()
        for plate in self.plates:
            for name in self._field_names(plate):
                well, field = name.split("/")[-2:]
                wells.add(well)
                fields.add(field)
        categories: dict[str, Sequence[str]] = {
            "plate": self.plates,
            "well": sorted(wells, key=natural),
            "field": sorted(fields, key=natural),
            "protein": self.proteins,
            "localization": list(dict.fromkeys(self._label_texts)),
            **{name: list(dict.fromkeys(values)) for name, values in self._plate_map.items()},
            "reason": [reason.text for reason in Reason],
            **{f"missing_{s}": [m.name.lower() for m in Missing] for s in self.settings},
        }
        named = [Column(n, np.dtype(np.int32), tuple(c)) for n, c in categories.items()]
        return (*named, *(Column(n, d) for n, d in self._measures.items()))

    @cached_property
    def _measures(self) -> dict[str, np.dtype[Any]]:
        node = "plates/{}/cells"
        first = node.format(self.plates[0])
        keys = self.store.place.below(first)
        found = {key.split("/")[-2] for key in keys if key.endswith("/zarr.json")}
        return {
            name: self.store.array(f"{first}/{name}").dtype
            for name in sorted(found - {"cells", *_CODES})
            if all(self.store.has(f"{node.format(plate)}/{name}") for plate in self.plates[1:])
        }

    def _field_names(self, plate: str) -> list[str]:
        return list(self.store.array(f"plates/{plate}/cells/field").attrs["names"])

    @cached_property
    def _label_texts(self) -> list[str]:
        """The classes of each protein as one text."""
        label = self.store.read("proteins/label").astype(bool)
        names = np.array(self.localizations, object)
        return [";".join(names[own]) or NO_CLASS for own in label]

    @cached_property
    def _plate_map(self) -> dict[str, list[str]]:
        """Further columns of the plate map, by protein, under names that are free."""
        taken = {"_index", *_NAMED, *self._measures, *(f"missing_{s}" for s in self.settings)}
        found: dict[str, list[str]] = {}
        for name, values in self._proteins_node.get("plate_map", {}).items():
            if name not in ("protein", "localization", self._class_column):
                # "/" would make a group of a column
                free = name.replace("/", "_")
                free = f"map_{free}" if not free or free in taken else free
                while free in taken or free in found:
                    free += "_"
                found[free] = [str(value) for value in values]
        return found

    @property
    def _class_column(self) -> str:
        screen = self.store.attrs().get("config", {}).get("screen", {})
        return str(screen.get("class_column", "localization"))

    def blocks(self, progress: Progress | None = None) -> Iterator[tuple[str, Block]]:
        """Yield plate and cells, a shard at a time; shards without a chosen cell are not read."""
        done = 0
        for plate, rows in self._rows.items():
            array = self.store.array(self._embedding(plate))
            step, of_field = (array.shards or array.chunks)[0], self._of_field(plate)
            for shard in np.unique(rows // step).tolist():
                own = rows[(rows >= shard * step) & (rows < (shard + 1) * step)]
                stop = min((shard + 1) * step, array.shape[0])
                cells = own - shard * step
                yield plate, self._read(plate, slice(shard * step, stop), cells, of_field)
                done += len(own)
                if progress is not None:
                    progress(done, self.n_cells)

    def _read(
        self,
        plate: str,
        shard: slice,
        own: npt.NDArray[np.int64],
        of_field: dict[str, npt.NDArray[np.int64]],
    ) -> Block:
        """Return some cells of a shard."""
        node = f"plates/{plate}/embeddings/{self.model}"
        known = list(self.store.attrs(node)["coords"]["setting"])
        at = [known.index(name) for name in self.settings]
        features = [self.store.read(self._embedding(plate), shard, s)[own] for s in at]
        missing = self.store.read(f"{node}/missing", shard)[own].T[at]
        probability = None
        if self.fits:
            path = f"plates/{plate}/predictions/{self.model}/probability"
            softmax = [
                [self.store.read(path, shard, f, s)[own] for s in at] for f in range(len(self.fits))
            ]
            probability = np.array(softmax, np.float32)
        protein, field, reason = (
            self._cells(plate, name, shard)[own] for name in ("protein", "field", "reason")
        )
        columns: dict[str, npt.NDArray[Any]] = {
            "plate": np.full(len(own), self.plates.index(plate)),
            "reason": np.searchsorted([int(r) for r in Reason], reason),
            **{name: codes[field] for name, codes in of_field.items()},
            **{n: np.where(protein < 0, -1, c[protein]) for n, c in self._of_protein.items()},
            **{f"missing_{s}": missing[i] for i, s in enumerate(self.settings)},
            **{name: self._cells(plate, name, shard)[own] for name in self._measures},
        }
        return Block(
            self._cells(plate, "id", shard)[own],
            {c.name: columns[c.name].astype(c.dtype) for c in self.columns},
            np.stack(features),
            missing,
            probability,
        )

    def _of_field(self, plate: str) -> dict[str, npt.NDArray[np.int64]]:
        """Return the codes of well and field of each field of a plate."""
        names = [name.split("/")[-2:] for name in self._field_names(plate)]
        return {
            "well": self._codes("well", [well for well, _ in names]),
            "field": self._codes("field", [field for _, field in names]),
        }

    @cached_property
    def _of_protein(self) -> dict[str, npt.NDArray[np.int64]]:
        """The codes of what is known of each protein."""
        known = {
            "protein": self._all_proteins,
            "localization": self._label_texts,
            **self._plate_map,
        }
        return {name: self._codes(name, values) for name, values in known.items()}

    def _codes(self, name: str, values: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the place of each value among the categories of a column; -1: not among them."""
        (column,) = (c for c in self.columns if c.name == name)
        place = {category: i for i, category in enumerate(column.categories or ())}
        return np.array([place.get(value, -1) for value in values], np.int64)

    def provenance(self) -> dict[str, Any]:
        """Return where the cells come from, as plain JSON types."""
        node = f"plates/{self.plates[0]}/embeddings/{self.model}"
        attrs = {k: v for k, v in self.store.attrs(node).items() if k != "coords"}
        return provenance(
            self.store,
            model=self.model,
            layer=self.layer,
            settings=list(self.settings),
            plates=list(self.plates),
            proteins=list(self.proteins),
            localizations=list(self.localizations),
            cells=self.n_cells,
            left_out=self.left_out,
            embedding=attrs,
        )


def choose(
    store: str | Path,
    *,
    model: str = "",
    layer: str = "",
    settings: Sequence[str] = (),
    plates: Sequence[str] = (),
    proteins: Sequence[str] = (),
    everything: bool = False,
) -> Selection:
    """Return which cells and features of a store are meant.

    Parameters
    ----------
    store : str or path
    model : str
        By default the only one.
    layer : str
        By default the one that proportions are made from.
    settings, plates, proteins : sequences of str
        By default all.
    everything : bool
        Also cells that cannot be used, and those of blank wells.

    Raises
    ------
    InputError
        No such store, or it has none of that name (the nearest is said), or it is not complete.
    """
    opened = Store(store)
    attrs = opened.attrs()
    chosen = pick_all("plate", plates, attrs["plates"])
    model = pick("model", model, list(attrs.get("config", {}).get("models", {})))
    without = [p for p in chosen if not opened.has(f"plates/{p}/embeddings/{model}")]
    if without:
        msg = (
            f"{opened.location} has no embeddings of model {model!r} for plate "
            f"{', '.join(without)} yet: {goes_on(opened)}"
        )
        raise InputError(msg)
    check_complete(opened, [f"embed/{model}/{plate}" for plate in chosen])
    about = opened.attrs(f"plates/{chosen[0]}/embeddings/{model}")
    known = opened.attrs("proteins")["coords"]["protein"]
    selection = Selection(
        opened,
        model,
        pick("layer", layer or about["model"]["profile_layer"], list(about["model"]["layers"])),
        pick_all("setting", settings, about["coords"]["setting"]),
        chosen,
        pick_all("protein", proteins, known),
        everything,
    )
    if not selection.n_cells:
        why = ", ".join(f"{n} {text}" for text, n in selection.left_out.items()) or "none found"
        msg = f"{opened.location}: none of the cells asked for can be exported: {why}"
        raise InputError(msg)
    return selection
