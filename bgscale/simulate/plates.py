"""Simulated plates on disk: OME-Zarr, with the plate map and the truth.

This module owns the folders. Fields come from `simulate_field`, OME-Zarr from `ngff`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from bgscale import ngff
from bgscale.errors import InputError
from bgscale.simulate.field import CHANNELS, Field, simulate_field
from bgscale.simulate.spec import SAME_STRAIN, ScreenSpec, proteins


def write_plates(
    spec: ScreenSpec,
    folder: str | Path,
    *,
    labels: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a screen as OME-Zarr plates, with its plate map and its truth.

    ``plates/P1.zarr`` and so on, one well per protein; ``platemap.csv``; ``truth/cells.csv``
    (every visible cell: plate, well, field, label, protein, localization, y, x, area);
    ``truth/proportions.csv`` (planted shares). Fields that are whole are not written again.

    Parameters
    ----------
    spec : ScreenSpec
        Of real wells: in a mixed culture a well has no protein of its own.
    folder : path
        Made if need be.
    labels : bool
        Also write the true instances, as the label image "truth".
    progress : callable, optional
        Called with (fields done, fields in all).

    Returns
    -------
    Path
        The folder.
    """
    if spec.neighbours != SAME_STRAIN:
        msg = (
            f"neighbours is {spec.neighbours!r}: a well of a mixed culture has no protein of its "
            "own, so it makes no plate; write_crops writes such a screen"
        )
        raise InputError(msg)
    folder, table = Path(folder), proteins(spec)
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    fields = [str(number) for number in range(spec.fields_per_protein)]
    for plate, rows in table.groupby("plate"):
        path = folder / "plates" / f"{plate}.zarr"
        ngff.create_plate(path, name=str(plate), fields=dict.fromkeys(rows["well"], fields))
    total, truth = len(table) * len(fields), []
    for number in range(total):
        well, within = divmod(number, len(fields))
        field, row = simulate_field(spec, well, within), table.iloc[well]
        path = folder / "plates" / f"{row['plate']}.zarr"
        where = str(row["well"]), fields[within]
        if not ngff.has_field(path, *where):
            _write(path, where, field, spec, labels=labels)
        cells = field.cells.drop(columns="protein")
        for column in ("protein", "well", "plate"):
            cells.insert(0, column, row[column])
        cells.insert(2, "field", fields[within])
        truth.append(cells)
        if progress is not None:
            progress(number + 1, total)
    pd.concat(truth, ignore_index=True).to_csv(folder / "truth" / "cells.csv", index=False)
    shares = table.melt("protein", list(spec.localizations), "localization", "proportion")
    shares = shares[shares["proportion"] > 0].sort_values("protein", kind="stable")
    shares.to_csv(folder / "truth" / "proportions.csv", index=False)
    table[["plate", "well", "protein", "localization"]].to_csv(folder / "platemap.csv", index=False)
    return folder


def _write(
    path: Path, where: tuple[str, str], field: Field, spec: ScreenSpec, *, labels: bool
) -> None:
    size = spec.pixel_size_um
    ngff.write_field(path, *where, field.image, channels=list(CHANNELS), pixel_size_um=size)
    if labels:
        ngff.write_labels(
            path, *where, field.labels.astype(np.int32), name="truth", pixel_size_um=size
        )
