"""AnnData, as .h5ad or .zarr: cells by features, a matrix a setting, written a shard at a time.

The format is written as its specification describes it, not through the package: that holds all
cells in memory. What is known of cells is `obs`; `X` and `obsm["original"]`, `obsm["masked"]`, ...
are features; `uns["bgscale"]` is JSON that says where they come from.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.draw import cell_names
from bgscale.errors import InputError
from bgscale.export.selection import Column, Progress, Selection
from bgscale.export.target import beside, check_apart, needed
from bgscale.results import new_group

MADE = "uns/bgscale"
CHUNK_CELLS = 1024
LARGEST_INT8, LARGEST_INT16 = 2**7, 2**15
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
_STRINGS = {"encoding-type": "string-array", "encoding-version": "0.2.0"}
_TEXT = {"encoding-type": "string", "encoding-version": "0.2.0"}
_DICT = {"encoding-type": "dict", "encoding-version": "0.1.0"}
_CATEGORICAL = {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
_FRAME = {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
_ROOT = {"encoding-type": "anndata", "encoding-version": "0.1.0"}


def to_anndata(
    selection: Selection,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write cells and their features as AnnData.

    Parameters
    ----------
    selection : Selection
    out : path
        Ends with .h5ad or .zarr.
    overwrite : bool
    progress : callable, optional

    Raises
    ------
    InputError
        Another ending, the place is taken, or h5py is absent.
    """
    kind = Path(out).suffix
    if kind not in (".h5ad", ".zarr"):
        msg = f"{out}: expected a name that ends with .h5ad or .zarr"
        raise InputError(msg)
    check_apart(out, selection.store.location)
    with beside(out, overwrite=overwrite, made=MADE) as part:
        if kind == ".zarr":
            _write(new_group(part), selection, progress)
        else:
            with needed("h5py").File(part, "w") as file:
                _write(file, selection, progress)


def _write(root: Any, selection: Selection, progress: Progress | None) -> None:
    """Lay out the hierarchy, then fill it."""
    n, width = selection.n_cells, selection.width
    classes = len(selection.localizations)
    root.attrs.update(_ROOT)
    for name in ("obsm", "layers", "obsp", "varm", "varp"):
        _group(root, name, _DICT)
    uns = _group(root, "uns", _DICT)
    _text(uns, "bgscale", json.dumps(selection.provenance()))
    _strings(uns, "localizations", selection.localizations)
    _frame(root, "var", {"feature": np.arange(width)}, selection.features)
    frame = _group(root, "obs", {**_FRAME, "column-order": [c.name for c in selection.columns]})
    index = _create(frame, "_index", (n,), str, _STRINGS)
    columns = {column.name: _column(frame, column, n) for column in selection.columns}
    matrix = _create(root, "X", (n, width), np.float32, _ARRAY)
    under = {
        setting: _create(root["obsm"], setting, (n, width), np.float32, _ARRAY)
        for setting in selection.settings
    }
    softmax = [
        [
            _create(root["obsm"], f"probability_{fit}_{s}", (n, classes), np.float32, _ARRAY)
            for s in selection.settings
        ]
        for fit in selection.fits
    ]
    start = 0
    for _, block in selection.blocks(progress):
        rows = slice(start, start + len(block.ids))
        index[rows] = np.array(cell_names(block.ids), object)
        for name, values in block.columns.items():
            columns[name][rows] = values.astype(columns[name].dtype)
        matrix[rows] = block.features[0]
        for setting, features in zip(selection.settings, block.features, strict=True):
            under[setting][rows] = features
        if block.probability is not None:
            for arrays, of_fit in zip(softmax, block.probability, strict=True):
                for array, probability in zip(arrays, of_fit, strict=True):
                    array[rows] = probability
        start = rows.stop


def _group(parent: Any, name: str, attrs: Mapping[str, Any]) -> Any:
    group = parent.create_group(name)
    group.attrs.update(_spelled(group, attrs))
    return group


def _spelled(node: Any, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as the format takes them: HDF5 has no lists of text."""
    if not _is_hdf5(node):
        return dict(attrs)
    return {k: np.array(v, object) if isinstance(v, list) else v for k, v in attrs.items()}


def _is_hdf5(node: Any) -> bool:
    return type(node).__module__.startswith("h5py")


def _create(
    parent: Any, name: str, shape: tuple[int, ...], dtype: Any, attrs: Mapping[str, Any]
) -> Any:
    """Make an array; both kinds of file are then written alike."""
    chunks = (min(shape[0], CHUNK_CELLS), *shape[1:]) if shape and all(shape) else None
    if _is_hdf5(parent):
        kind = needed("h5py").string_dtype() if dtype is str else dtype
        array = parent.create_dataset(name, shape=shape, dtype=kind, chunks=chunks)
    else:
        array = parent.create_array(name, shape=shape, dtype=dtype, chunks=chunks or "auto")
    array.attrs.update(attrs)
    return array


def _strings(parent: Any, name: str, values: Sequence[str]) -> None:
    array = _create(parent, name, (len(values),), str, _STRINGS)
    if values:
        array[:] = np.array(values, object)


def _text(parent: Any, name: str, value: str) -> None:
    array = _create(parent, name, (), str, _TEXT)
    array[()] = value


def _column(frame: Any, column: Column, n: int) -> Any:
    """Return the array that takes a column's values, or its codes."""
    if column.categories is None:
        return _create(frame, column.name, (n,), column.dtype, _ARRAY)
    group = _group(frame, column.name, _CATEGORICAL)
    _strings(group, "categories", column.categories)
    count = len(column.categories)
    dtype = np.int8 if count < LARGEST_INT8 else np.int16 if count < LARGEST_INT16 else np.int32
    return _create(group, "codes", (n,), dtype, _ARRAY)


def _frame(
    parent: Any, name: str, columns: Mapping[str, npt.NDArray[Any]], index: Sequence[str]
) -> None:
    frame = _group(parent, name, {**_FRAME, "column-order": list(columns)})
    _strings(frame, "_index", index)
    for column, values in columns.items():
        _create(frame, column, values.shape, values.dtype, _ARRAY)[:] = values
