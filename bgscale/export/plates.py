"""OME-Zarr: a copy of the plates with the run's label images, and tables that ngio opens.

A field has the pixels that the run saw: its channels, its time point, its projection. So labels and
positions fit them, whatever else the input holds; the input is never written to. Each field gets
the table `cells`, a row a label, and `proportions`, what its own cells add to their protein.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale import ngff
from bgscale.asked import check_complete, pick_all, provenance
from bgscale.config import RunConfig
from bgscale.draw import cell_names
from bgscale.errors import InputError
from bgscale.export.selection import Progress
from bgscale.export.target import beside, check_apart, needed, write_about
from bgscale.results import Store
from bgscale.schema import Reason
from bgscale.screen import PlateScreen
from bgscale.stages.job import Job

LABELS, CELLS, PROPORTIONS = "cells", "cells", "proportions"


@dataclass(frozen=True)
class Copied:
    """What an export of plates has written.

    Parameters
    ----------
    fields, cells : int
    left_out : dict of str to str
        Fields without labels, by name, and why.
    """

    fields: int
    cells: int
    left_out: dict[str, str]


def to_omezarr(
    store: str | Path,
    out: str | Path,
    *,
    plates: Sequence[str] = (),
    screen: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Write a folder with a copy of each plate, `PLATE.zarr`, NGFF 0.5.

    Fields that could not be used have no labels; they are left out.

    Parameters
    ----------
    store : str or path
    out : path
        Folder.
    plates : sequence of str
        By default all.
    screen : str
        Where the plates are, if not where the run found them.
    overwrite : bool
    progress : callable, optional

    Returns
    -------
    Copied

    Raises
    ------
    InputError
        The screen is one of crops, is not there or not that of the run; the run is not complete;
        the place is taken, or pyarrow is absent.
    """
    needed("pyarrow")
    opened = Store(store)
    chosen = pick_all("plate", plates, opened.attrs()["plates"])
    if not all(opened.has(f"plates/{plate}/labels") for plate in chosen):
        kind = f"{opened.location} has no label images of {', '.join(chosen[:4])}"
        msg = f"{kind}: a screen of crops has no fields, and of plates `bgscale run` makes them"
        raise InputError(msg)
    check_complete(opened, [f"{s}/{p}" for p in chosen for s in ("segment", "measure", "cut")])
    job = _job(opened, screen)
    check_apart(out, opened.location, job.config.screen.path)
    fields = job.screen
    if not isinstance(fields, PlateScreen):
        msg = f"{job.config.screen.path} is no screen of plates; that of the run was"
        raise InputError(msg)
    proportions = _Proportions(job)
    counted, done = 0, 0
    left_out: dict[str, str] = {}
    total = sum(job.store.array(f"plates/{p}/labels/reason").shape[0] for p in chosen)
    with beside(out, overwrite=overwrite) as part:
        part.mkdir()
        for plate in chosen:
            names, reasons = _fields_of(job, fields, plate)
            good = [i for i, reason in enumerate(reasons) if reason == Reason.OK]
            left_out |= {
                name: reason.text
                for name, reason in zip(names, reasons, strict=True)
                if reason != Reason.OK
            }
            if not good:
                msg = f"plate {plate} has no field that could be used: leave it out with --plates"
                raise InputError(msg)
            wells: dict[str, list[str]] = {}
            for i in good:
                ref = fields.fields[plate][i]
                wells.setdefault(ref.well, []).append(ref.field)
            ngff.create_plate(part / f"{plate}.zarr", name=plate, fields=wells)
            table = _Cells(job, plate)
            for i in range(len(names)):
                if i in good:
                    counted += _copy(job, fields, plate, i, part, table, proportions.of(names[i]))
                done += 1
                if progress is not None:
                    progress(done, total)
        write_about(part, provenance(opened, plates=list(chosen), left_out=left_out))
    return Copied(total - len(left_out), counted, left_out)


def _job(store: Store, screen: str) -> Job:
    """Return the job of a store, on its screen or where that has moved to."""
    config = RunConfig.from_dict(store.attrs()["config"])
    changed: dict[str, Any] = {"store": store.location}
    if screen:
        changed["screen"] = config.screen.model_copy(update={"path": screen})
    return Job(config.model_copy(update=changed))


def _fields_of(job: Job, screen: PlateScreen, plate: str) -> tuple[list[str], list[Reason]]:
    """Return the fields of a plate, which must be those of the run, and whether they have labels.

    Raises
    ------
    InputError
        The plate is not there, or has other fields.
    """
    known = list(job.store.attrs(f"plates/{plate}/fields")["coords"]["field"])
    if plate not in screen.plates or screen.field_names(plate) != known:
        msg = (
            f"{job.config.screen.path}: plate {plate} is not there or has other fields than the "
            "run found; say with --screen where the plates are"
        )
        raise InputError(msg)
    codes = job.store.read(f"plates/{plate}/fields/reason")
    return known, [Reason(int(code)) for code in codes]


class _Cells:
    """The cell table of a plate, sorted by field."""

    def __init__(self, job: Job, plate: str) -> None:
        node = f"plates/{plate}/cells"
        keys = job.store.place.below(node)
        found = {key.split("/")[-2] for key in keys if key.endswith("/zarr.json")} - {"cells"}
        self._values = {name: job.store.read(f"{node}/{name}") for name in sorted(found)}
        self._order = np.argsort(self._values["field"], kind="stable")
        self._field = self._values["field"][self._order]
        self._job, self._plate = job, plate
        self._models = [
            name
            for name in job.config.models
            if job.store.has(f"plates/{plate}/predictions/{name}/probability")
        ]

    def of(self, field: int) -> pd.DataFrame:
        """Return the cells of a field, a row a label."""
        start, stop = np.searchsorted(self._field, [field, field + 1])
        rows = self._order[start:stop]
        values = {name: array[rows] for name, array in self._values.items()}
        names = np.array([*self._job.proteins, ""], object)
        texts = {int(reason): reason.text for reason in Reason}
        frame = pd.DataFrame(
            {
                "label": values.pop("number"),
                "cell": cell_names(values.pop("id")),
                "protein": names[values.pop("protein")],
                "reason": [texts[int(code)] for code in values.pop("reason")],
                **{name: array for name, array in values.items() if name != "field"},
            }
        )
        for model in self._models:
            frame = frame.assign(**self._predicted(model, rows))
        return frame

    def _predicted(self, model: str, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Return the softmax of some cells, a column each fit, setting and localization."""
        node = f"plates/{self._plate}/predictions/{model}"
        coords = self._job.store.attrs(node)["coords"]
        values = self._job.store.read_rows(f"{node}/probability", rows)
        dims = [coords[d] for d in ("fit", "setting", "localization")]
        return {
            "_".join([model, *(names[i] for names, i in zip(dims, at, strict=True))]): values[
                :, *at
            ]
            for at in np.ndindex(values.shape[1:])
        }


class _Proportions:
    """What the cells of each field add to their proteins; of all models that have proportions."""

    def __init__(self, job: Job) -> None:
        self._job, self._places = job, dict[str, list[tuple[str, int, int]]]()
        self._attrs: dict[str, dict[str, Any]] = {}
        self._sums: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}
        for model in job.config.models:
            node = f"proportions/{model}"
            if not job.store.has(node):
                continue
            check_complete(job.store, [node])
            self._attrs[model] = job.store.attrs(node)
            code, n, sums = (job.store.read(f"{node}/{v}") for v in ("field", "n", "sums"))
            self._sums[model] = n, sums
            for p, i in np.argwhere(code[0, 0] >= 0).tolist():
                name = job.field_names[int(code[0, 0, p, i])]
                self._places.setdefault(name, []).append((model, p, i))

    def of(self, field: str) -> pd.DataFrame | None:
        """Return the proportions of a field, by its full name; None where there are none."""
        frames = []
        for model, p, i in self._places.get(field, []):
            n, sums = (values[:, :, p, i] for values in self._sums[model])
            attrs = self._attrs[model]
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = sums / (n * attrs["sum_scale"])[..., None]
            f, s, k = (axis.reshape(-1) for axis in np.indices(mean.shape))
            columns = {
                "fit": np.array(attrs["coords"]["fit"], object)[f],
                "setting": np.array(attrs["coords"]["setting"], object)[s],
                "protein": self._job.proteins[p],
                "localization": np.array(self._job.classes, object)[k],
                "proportion": mean.reshape(-1),
                "cells": n[f, s],
            }
            frames.append(pd.DataFrame({"model": model, **columns}))
        return pd.concat(frames, ignore_index=True) if frames else None


def _copy(
    job: Job,
    screen: PlateScreen,
    plate: str,
    field: int,
    folder: Path,
    table: _Cells,
    proportions: pd.DataFrame | None,
) -> int:
    """Copy a field with its labels and tables; return how many cells it has."""
    ref, path = screen.fields[plate][field], folder / f"{plate}.zarr"
    size = screen.layouts[plate].pixel_size_um or None
    named = (screen.opened_with[role] for role in screen.channels)
    channels = [
        role if name.isdecimal() else name
        for role, name in zip(screen.channels, named, strict=True)
    ]
    image = screen.read(plate, field)
    known = job.store.attrs().get("samples", {}).get(plate, {}).get(str(ref))
    if known not in (None, zlib.crc32(image.tobytes())):
        msg = f"{ref} has other pixels than the run saw; say with --screen where the plates are"
        raise InputError(msg)
    ngff.write_field(path, ref.well, ref.field, image, channels=channels, pixel_size_um=size)
    label = job.store.read(f"plates/{plate}/labels/label", field).astype(np.int32)
    ngff.write_labels(path, ref.well, ref.field, label, name=LABELS, pixel_size_um=size)
    cells = table.of(field)
    ngff.write_table(path, ref.well, ref.field, _parquet(cells), name=CELLS, labels=LABELS)
    if proportions is not None:
        content = _parquet(proportions)
        ngff.write_table(path, ref.well, ref.field, content, name=PROPORTIONS)
    return len(cells)


def _parquet(frame: pd.DataFrame) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    table = needed("pyarrow").Table.from_pandas(frame, preserve_index=False)
    needed("pyarrow.parquet").write_table(table, buffer)
    return buffer.getvalue()
