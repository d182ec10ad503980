"""Parquet tables of single-cell profiles, as pycytominer takes them: `Metadata_` columns, features.

A setting is a folder and a plate a file, so that a setting opens as one data set; a shard is a row
group.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.draw import cell_names
from bgscale.export.selection import Block, Progress, Selection
from bgscale.export.target import beside, check_apart, needed, write_about
from bgscale.schema import Missing

METADATA = "Metadata_"
NAMES = {
    "plate": "Plate",
    "well": "Well",
    "field": "Site",
    "protein": "Protein",
    "localization": "Localization",
    "number": "ObjectNumber",
    "reason": "Reason",
}
"""What the field calls columns; the others are capitalised."""


def to_parquet(
    selection: Selection,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a folder with `SETTING/PLATE.parquet`.

    A cell that has no features under a setting has no row there, unless everything is exported.

    Parameters
    ----------
    selection : Selection
    out : path
        Folder.
    overwrite : bool
    progress : callable, optional

    Raises
    ------
    InputError
        The place is taken, or pyarrow is absent.
    """
    parquet = needed("pyarrow.parquet")
    check_apart(out, selection.store.location)
    about = selection.provenance()
    with beside(out, overwrite=overwrite) as part:
        for setting in selection.settings:
            (part / setting).mkdir(parents=True)
        with ExitStack() as opened:
            writers: dict[str, Any] = {}
            current = ""
            for plate, block in selection.blocks(progress):
                if plate != current:
                    opened.close()
                    writers, current = {}, plate
                for s, setting in enumerate(selection.settings):
                    table = _table(selection, block, s)
                    if setting not in writers:
                        text = json.dumps({**about, "setting": setting})
                        schema = table.schema.with_metadata({"bgscale": text})
                        path = part / setting / f"{plate}.parquet"
                        writers[setting] = opened.enter_context(parquet.ParquetWriter(path, schema))
                    if len(table):
                        writers[setting].write_table(
                            table.replace_schema_metadata(writers[setting].schema.metadata)
                        )
        write_about(part, about)


def column_name(name: str) -> str:
    """Return what a column about cells is called.

    Examples
    --------
    >>> column_name("field"), column_name("neighbour_area"), column_name("map_plate")
    ('Metadata_Site', 'Metadata_NeighbourArea', 'Metadata_MapPlate')
    """
    words = name.split("_")
    return METADATA + NAMES.get(name, "".join(word[:1].upper() + word[1:] for word in words))


def _table(selection: Selection, block: Block, s: int) -> Any:
    """Return the cells of a shard under a setting."""
    pa = needed("pyarrow")
    setting = selection.settings[s]
    absent = f"missing_{setting}"
    rows = np.ones(len(block.ids), bool)
    if not selection.everything:
        rows = block.missing[s] == Missing.PRESENT
    columns: dict[str, Any] = {
        f"{METADATA}Cell": cell_names(block.ids[rows]),
        f"{METADATA}Model": pa.array([selection.model] * int(rows.sum()), pa.string()),
        f"{METADATA}Setting": pa.array([setting] * int(rows.sum()), pa.string()),
    }
    for column in selection.columns:
        values = block.columns[column.name][rows]
        if column.name.startswith("missing_") and column.name != absent:
            continue
        name = column_name("missing" if column.name == absent else column.name)
        # columns of the plate map that differ in case or "_" alone
        while name in columns:
            name += "_"
        columns[name] = values if column.categories is None else _texts(values, column.categories)
    if block.probability is not None:
        for fit, of_fit in zip(selection.fits, block.probability, strict=True):
            for k, localization in enumerate(selection.localizations):
                columns[f"{METADATA}Probability_{fit}_{localization}"] = of_fit[s, rows, k]
    features = block.features[s][rows]
    columns |= {name: features[:, i] for i, name in enumerate(selection.features)}
    return pa.table(columns)


def _texts(codes: npt.NDArray[Any], names: tuple[str, ...]) -> Any:
    """Return names by code as text, null for -1."""
    pa = needed("pyarrow")
    coded = pa.array(codes, pa.int32(), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(coded, pa.array(names, pa.string())).cast(pa.string())


def about_of(path: str | Path) -> Mapping[str, Any]:
    """Return where a table comes from, as `to_parquet` has written it into the file."""
    schema = needed("pyarrow.parquet").read_schema(path)
    found: Mapping[str, Any] = json.loads(schema.metadata[b"bgscale"])
    return found
