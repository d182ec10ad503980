"""A few cells of a protein under every setting, as one picture with outlines.

Owns which cells, their grey scale and how they lie in the picture. The one idea: pixels are one
lossy grey picture, and the outline of the centre cell is a path on top of it, sharp at any size, so
that no pixel of a cell is painted over.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale import draw, query
from bgscale.report.gather import ORIGINAL, Run
from bgscale.schema import CENTRE_CELL, Missing, Reason

SCALE_PERCENTILES = (0.5, 99.7)
QUALITY = 82
"""Of the WebP: at 64 pixels a cell the loss is below the noise of a camera."""
GAP_PX = 2
PURPOSE = "report"
CHANNEL = "protein"
PROTEINS_AT_ONCE = 10
SAMPLE_CLASSES = 8

Cell: TypeAlias = tuple[str, int]
"""Plate, and row of its cell table."""


def chosen_cells(
    run: Run, model: str, proteins: Iterable[int], count: int
) -> dict[int, list[Cell]]:
    """Return the cells of each protein that are shown: by the hash of their identity.

    Cells that are there under every setting come first.

    Parameters
    ----------
    run : Run
    model : str
    proteins : iterable of int
        Places among all proteins.
    count : int
        Of cells a protein.

    Returns
    -------
    dict of int to list of (str, int)
        Plate and row of each cell, in the order shown.
    """
    wanted = list(proteins)
    best: dict[int, list[tuple[int, int, str, int]]] = {one: [] for one in wanted}
    for plate in run.plates:
        cells = run.node(f"plates/{plate}/cells")
        code, reason = cells["protein"].to_numpy(), cells["reason"].to_numpy()
        rows = np.flatnonzero((reason == Reason.OK) & np.isin(code, wanted))
        if not len(rows):
            continue
        ids, code = cells["id"].to_numpy()[rows], code[rows]
        missing = run.node(f"plates/{plate}/embeddings/{model}")["missing"].to_numpy()[rows]
        lacks = (missing != Missing.PRESENT).sum(1)
        key = draw.digest64(run.config["seed"], PURPOSE)
        rank = draw.philox(key, ids)[:, 0]
        for one in wanted:
            own = np.flatnonzero(code == one)
            first = own[np.lexsort((rank[own], lacks[own]))[:count]]
            best[one] += [(int(lacks[i]), int(rank[i]), plate, int(rows[i])) for i in first]
    return {one: [(p, row) for *_, p, row in sorted(found)[:count]] for one, found in best.items()}


def montages(
    run: Run, model: str, chosen: Mapping[int, Sequence[Cell]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a montage of each protein; those of a few proteins are in memory at a time."""
    proteins = list(chosen)
    for first in range(0, len(proteins), PROTEINS_AT_ONCE):
        some = [(one, chosen[one]) for one in proteins[first : first + PROTEINS_AT_ONCE]]
        made = {}
        for plate in dict.fromkeys(plate for _, cells in some for plate, _ in cells):
            rows = np.array([row for _, cells in some for p, row in cells if p == plate], np.int64)
            made[plate] = query.crops(run.store, plate, rows, model=model)
        for protein, cells in some:
            if cells:
                parts = []
                for plate in dict.fromkeys(plate for plate, _ in cells):
                    own = [row for p, row in cells if p == plate]
                    at = {int(row): i for i, row in enumerate(made[plate]["row"].to_numpy())}
                    parts.append(made[plate].isel(cell=[at[row] for row in own]))
                yield protein, montage(parts)


def montage(parts: Sequence[xr.Dataset]) -> dict[str, Any]:
    """Return cells as one picture: a row a setting, a column a cell.

    Parameters
    ----------
    parts : sequence of Dataset
        As `bgscale.query.crops` returns them, one a plate.

    Returns
    -------
    dict
        `image`, a WebP in base64; `size` (pixels, of a crop) and `gap`; `settings`; `outlines`, a
        path for each cell in its own pixels; `absent`, as (cell, setting, reason); `donors`, by
        cell and setting the class of the background, "" where it is the cell's own; `names`.
    """
    channels = list(parts[0]["channel"].to_numpy())
    channel = channels.index(CHANNEL) if CHANNEL in channels else 0
    image = np.concatenate([part["image"].to_numpy()[:, :, channel] for part in parts])
    masks = np.concatenate([part["mask"].to_numpy() for part in parts]) == CENTRE_CELL
    missing = np.concatenate([part["missing"].to_numpy() for part in parts])
    donors = np.concatenate([part["donor_localization"].to_numpy() for part in parts])
    settings = [str(s) for s in parts[0]["setting"].to_numpy()]
    names = [f"{field}, cell {name}" for part in parts for field, name in _names(part)]
    return _picture(image, masks, missing, settings, donors.tolist(), names)


def sample(run: Run) -> dict[str, Any] | None:
    """Return a cell of each of the first classes under every setting; None: not there yet."""
    if not run.shows("sample", "sample"):
        return None
    found = run.node("sample").isel(example=0, localization=slice(SAMPLE_CLASSES)).load()
    image = found["image"].sel(channel=CHANNEL)
    missing = found["missing"].transpose("localization", "setting").to_numpy()
    masks = found["mask"].to_numpy() == CENTRE_CELL
    settings = [str(s) for s in found["setting"].to_numpy()]
    return _picture(
        image.transpose("localization", "setting", "y", "x").to_numpy(),
        masks,
        missing,
        settings,
        [[""] * len(settings)] * len(masks),
        [str(name) for name in found["localization"].to_numpy()],
    )


def _names(part: xr.Dataset) -> Iterator[tuple[str, str]]:
    yield from zip(
        map(str, part["field"].to_numpy()), map(str, part["cell"].to_numpy()), strict=True
    )


def _picture(
    image: npt.NDArray[np.float32],
    masks: npt.NDArray[np.bool_],
    missing: npt.NDArray[np.uint8],
    settings: Sequence[str],
    donors: Sequence[Sequence[str]],
    names: Sequence[str],
) -> dict[str, Any]:
    reference = settings.index(ORIGINAL) if ORIGINAL in settings else 0
    return {
        "image": webp(tiles(image, missing, reference)),
        "size": image.shape[-1],
        "gap": GAP_PX,
        "settings": settings,
        "outlines": [outline(mask) for mask in masks],
        "absent": absent_tiles(missing),
        "donors": donors,
        "names": names,
    }


def absent_tiles(missing: npt.NDArray[np.uint8]) -> list[tuple[int, int, str]]:
    """Return the cells and settings that are not there, with the reason."""
    return [
        (int(c), int(s), Missing(int(missing[c, s])).name.lower().replace("_", " "))
        for c, s in zip(*np.nonzero(missing != Missing.PRESENT), strict=True)
    ]


def tiles(
    image: npt.NDArray[np.float32], missing: npt.NDArray[np.uint8], scale_of: int
) -> npt.NDArray[np.uint8]:
    """Return crops (cell, setting, y, x) side by side, in the grey scale of one setting's crop.

    So a seam of scale would be seen. What is missing is mid-grey.
    """
    cells, settings, height, width = image.shape
    picture = np.full(
        (settings * (height + GAP_PX) - GAP_PX, cells * (width + GAP_PX) - GAP_PX), 128, np.uint8
    )
    for c in range(cells):
        there = np.flatnonzero(missing[c] == Missing.PRESENT)
        if not len(there):
            continue
        reference = image[c, scale_of if scale_of in there else there[0]]
        low, high = np.percentile(reference, SCALE_PERCENTILES)
        for s in there:
            grey = 255 * np.clip((image[c, s] - low) / max(high - low, 1e-9), 0, 1)
            top, left = s * (height + GAP_PX), c * (width + GAP_PX)
            picture[top : top + height, left : left + width] = np.rint(grey)
    return picture


def webp(picture: npt.NDArray[np.uint8]) -> str:
    """Return a grey picture as a WebP in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=4)
    return base64.b64encode(buffer.getvalue()).decode()


def outline(mask: npt.NDArray[np.bool_]) -> str:
    """Return the border of a mask as an SVG path along the edges of its pixels.

    Examples
    --------
    >>> outline(np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0]], bool))
    'M1 1H3M1 2H3M1 1V2M3 1V2'
    """
    padded = np.pad(mask, 1).astype(np.int8)
    steps = []
    for axis, spelled in ((0, "M{1} {0}H{2}"), (1, "M{0} {1}V{2}")):
        edges = np.diff(padded, axis=axis) != 0
        lines = edges[:, 1:-1] if axis == 0 else edges[1:-1].T
        # a run of edges along a line starts and ends where neighbours differ
        change = np.diff(np.pad(lines.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        at, places = np.nonzero(change)
        pairs = zip(at[::2].tolist(), places[::2].tolist(), places[1::2].tolist(), strict=True)
        steps += [spelled.format(*step) for step in pairs]
    return "".join(steps)
