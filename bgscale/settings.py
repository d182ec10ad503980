"""The background settings: who lends a background, and how it is put around the centre cell.

A setting is a small frozen object, its parameters are data. Donors are drawn by `draw_donors` as a
function of (seed, cell id): never of batch, order or worker. `compose` pastes: the centre cell's
pixels are exactly as imaged in every setting. Reading donors, cutting crops and preprocessing are
others' work.

References
----------
Gupta, Moses & Lu (2025), Representation Learning Methods for Single-Cell Microscopy are Confounded
by Background Cells. PMLR 311:162-177.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale import draw
from bgscale.errors import InputError, UnknownNameError, nearest
from bgscale.schema import CENTRE_CELL, Missing

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

Source = Literal["own", "crop", "window"]
Choice = Literal["none", "same", "different", "protein"]


@dataclass(frozen=True)
class Setting:
    """A background setting.

    Parameters
    ----------
    name : str
    source : {"own", "crop", "window"}
        The crop's own background, that of a donor crop, or a cell-free window.
    choice : {"none", "same", "different", "protein"}
        Which class the donor comes from: one of the cell's own, one outside them, or the cell's own
        protein (another field).
    scale : bool
        Map the donor's intensity range onto that of the centre cell's protein.
    refill : {"", "centre", "cells"}
        Replace the centre cell, or all cells, by medium of the same crop.
    mode : {"unmasked", "masked", "masked_mean"}
        How the model's preprocessing treats the outside of the centre cell.
    description : str
    """

    name: str
    source: Source = "own"
    choice: Choice = "none"
    scale: bool = False
    refill: Literal["", "centre", "cells"] = ""
    mode: Literal["unmasked", "masked", "masked_mean"] = "unmasked"
    description: str = ""

    @property
    def swaps(self) -> bool:
        """Whether the background comes from elsewhere."""
        return self.source != "own"

    @property
    def each_background(self) -> bool:
        """Whether experiment 1 poses a problem for each background class (else one a pair)."""
        return self.choice == "different"

    def to_config(self) -> dict[str, Any]:
        """Return the setting as plain JSON types; it goes into tokens and attributes."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the setting of `to_config`."""
        return cls(**config)


_ALL = (
    Setting("original", description="the crop as imaged"),
    Setting("same", "crop", "same", scale=True, description="background of the same class"),
    Setting("different", "crop", "different", scale=True, description="that of another class"),
    Setting(
        "cell_free",
        "window",
        "different",
        description="a window without cells, from an image of another class, as imaged",
    ),
    Setting("masked", mode="masked", description="zero outside the centre cell"),
    Setting(
        "self_swap",
        "crop",
        "protein",
        scale=True,
        description="control: background of the same protein, another field",
    ),
    Setting(
        "background_only",
        refill="centre",
        description="control: the centre cell replaced by medium of its crop",
    ),
    Setting(
        "medium_only",
        refill="cells",
        description="control: all cells replaced by medium of their crop",
    ),
    Setting(
        "masked_mean",
        mode="masked_mean",
        description="control: scaled as original, then zero outside the centre cell",
    ),
)
SETTINGS = {setting.name: setting for setting in _ALL}


def get_setting(name: str) -> Setting:
    """Return the setting of that name; unknown names raise, with the nearest one.

    Examples
    --------
    >>> get_setting("same").choice
    'same'
    """
    if name not in SETTINGS:
        msg = f"unknown setting {name!r}{nearest(name, SETTINGS)}; known: {', '.join(SETTINGS)}"
        raise UnknownNameError(msg)
    return SETTINGS[name]


@dataclass(frozen=True)
class Cells:
    """What the draw needs to know of cells.

    Parameters
    ----------
    ids : array (cell,), uint64
    protein, field : array (cell,), int64
        Codes; a field code stands for (plate, well, field).
    labels : array (cell, localization), bool
        The classes of the cell's protein.
    """

    ids: draw.UInt64Array
    protein: Ints
    field: Ints
    labels: Bools

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[Any]) -> "Cells":
        """Return the cells of these rows (indices or a mask)."""
        return Cells(self.ids[rows], self.protein[rows], self.field[rows], self.labels[rows])


@dataclass(frozen=True)
class Pool:
    """Who is in a donor bank: per class, sorted by protein and field.

    Parameters
    ----------
    sizes : array (localization,), int64
        Filled slots of each class.
    protein, field : array (localization, slot), int64
        Codes; what lies beyond `sizes` is -1.
    """

    sizes: Ints
    protein: Ints
    field: Ints


@dataclass(frozen=True)
class Donors:
    """Which donor each cell got.

    Parameters
    ----------
    localization, slot : array (cell,), int64
        Place in the bank; -1 where there is none.
    missing : array (cell,), uint8
        `schema.Missing` codes.
    """

    localization: Ints
    slot: Ints
    missing: npt.NDArray[np.uint8]


def select_donors(
    cells: Cells, *, per_class: int, per_field: int, seed: int, purpose: str
) -> list[Ints]:
    """Choose the donor bank: rows of `cells`, one sorted list per class.

    Only cells of proteins with a single class lend their background. Every protein gives equally
    many (``per_class / proteins``; a protein with fewer gives all it has), and no field more than
    `per_field`; among the candidates a hash of the cell decides. Where a class has more proteins
    than `per_class`, drawn proteins give one cell each.

    Parameters
    ----------
    cells : Cells
        Candidates; rows with several labels or none are passed over.
    per_class, per_field : int
        `per_field` 0: twice an even share of the protein's fields.

    Returns
    -------
    list of array (slot,), int64
        Sorted by protein, field and identity, so that a protein is one range.
    """
    single = cells.labels.sum(1) == 1
    ranks = np.empty(len(cells), np.int64)
    ranks[draw.order(seed, purpose, cells.ids)] = np.arange(len(cells))
    chosen = []
    for k in range(cells.labels.shape[1]):
        rows = np.flatnonzero(single & cells.labels[:, k])
        rows = rows[np.argsort(ranks[rows])]
        proteins = np.unique(cells.protein[rows])
        if len(proteins) > per_class:
            drawn = draw.order(seed, f"{purpose}/protein", proteins.astype(np.uint64))
            proteins = proteins[drawn[:per_class]]
        quota = per_class // max(len(proteins), 1)
        picked = [
            _of_protein(rows[cells.protein[rows] == p], cells.field, quota, per_field)
            for p in proteins
        ]
        taken = np.concatenate(picked) if picked else np.empty(0, np.int64)
        chosen.append(
            taken[np.lexsort((cells.ids[taken], cells.field[taken], cells.protein[taken]))]
        )
    return chosen


def _of_protein(rows: Ints, field: Ints, quota: int, per_field: int) -> Ints:
    """Return the first `quota` rows that keep each field below its cap."""
    fields, codes = np.unique(field[rows], return_inverse=True)
    cap = per_field or -(-2 * quota // len(fields))
    # rank of a row within its field, in the order given
    by_field = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_field], np.arange(len(fields)))
    rank = np.empty(len(rows), np.int64)
    rank[by_field] = np.arange(len(rows)) - starts[codes[by_field]]
    return rows[rank < cap][:quota]


def draw_donors(
    setting: Setting, cells: Cells, pool: Pool, *, seed: int, background: int | None = None
) -> Donors:
    """Draw one donor per cell.

    Parameters
    ----------
    setting : Setting
        One that swaps.
    cells : Cells
    pool : Pool
        Of crops or of windows, as the setting's source says.
    seed : int
    background : int, optional
        Take donors of this class (experiment 1) instead of choosing one for each cell.

    Returns
    -------
    Donors

    Notes
    -----
    A donor is never of the cell's own protein; where a class has one protein only, it is of another
    field. `same` draws its class uniformly from the cell's own, `different` and `cell_free` from
    the others. A cell without a class has no `same` and no `different`.
    """
    purpose = f"donor/{setting.source}/{setting.choice if background is None else background}"
    n, classes = cells.labels.shape
    missing = np.zeros(n, np.uint8)
    if background is not None:
        localization = np.full(n, background, np.int64)
    else:
        allowed = cells.labels if setting.choice != "different" else ~cells.labels
        if setting.source == "crop":
            missing[~cells.labels.any(1)] = Missing.NO_LABEL
        localization = _nth_true(allowed, seed, purpose + "/class", cells.ids)
        missing[(localization < 0) & (missing == 0)] = Missing.NO_DONOR
    slot = np.full(n, -1, np.int64)
    for k in range(classes):
        rows = np.flatnonzero((localization == k) & (missing == 0))
        if len(rows):
            slot[rows] = _draw_slots(setting, cells.take(rows), pool, k, seed, purpose)
    missing[(slot < 0) & (missing == 0)] = Missing.NO_DONOR
    localization[missing != 0] = -1
    return Donors(localization, slot, missing)


def _nth_true(allowed: Bools, seed: int, purpose: str, ids: draw.UInt64Array) -> Ints:
    """Return a uniformly drawn true column per row, -1 where there is none."""
    counts = allowed.sum(1)
    nth = draw.integers(seed, purpose, ids, counts)
    column = (np.cumsum(allowed, 1) > nth[:, None]).argmax(1)
    return np.where(counts > 0, column, -1)


def _draw_slots(
    setting: Setting, cells: Cells, pool: Pool, k: int, seed: int, purpose: str
) -> Ints:
    """Return a slot of class k per cell, outside its own protein (or field); -1: none is left."""
    size = int(pool.sizes[k])
    proteins, fields = pool.protein[k, :size], pool.field[k, :size]
    low = np.searchsorted(proteins, cells.protein, "left")
    high = np.searchsorted(proteins, cells.protein, "right")
    # within a protein's range the fields are sorted: a joint key finds the field's range
    width = 1 + max(int(fields.max(initial=0)), int(cells.field.max(initial=0)))
    joint = proteins * width + fields
    own = cells.protein * width + cells.field
    field_low = np.searchsorted(joint, own, "left")
    field_high = np.searchsorted(joint, own, "right")
    if setting.choice == "protein":
        first, last, skip_low, skip_high = low, high, field_low, field_high
    else:
        first, last = np.zeros_like(low), np.full_like(high, size)
        alone = high - low == size
        skip_low = np.where(alone, field_low, low)
        skip_high = np.where(alone, field_high, high)
    count = (last - first) - (skip_high - skip_low)
    slot = first + draw.integers(seed, purpose + "/slot", cells.ids, np.maximum(count, 0))
    slot += np.where(slot >= skip_low, skip_high - skip_low, 0)
    return np.where(count > 0, slot, -1)


def compose(
    centre: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8],
    donor: npt.NDArray[Any],
    *,
    centre_range: Floats | None = None,
    donor_range: Floats | None = None,
) -> Floats:
    """Put each centre cell on its donor's background.

    Parameters
    ----------
    centre, donor : array (cell, channel, y, x), camera counts
    mask : array (cell, y, x), uint8
        1 is the centre cell.
    centre_range, donor_range : array (cell, channel, 2), float32, optional
        Low and high end of the intensities of the centre's and of the donor's protein; the donor is
        mapped affinely from its own range onto the centre's (shifted only, where its own is a
        single value). None leaves it as imaged.

    Returns
    -------
    array (cell, channel, y, x), float32
        Foreground exactly as imaged; the donor's own centre cell stays where it is not covered.

    Examples
    --------
    >>> centre, donor = np.full((1, 1, 2, 2), 7.0), np.full((1, 1, 2, 2), 3.0)
    >>> mask = np.array([[[1, 0], [0, 2]]], np.uint8)
    >>> compose(centre, mask, donor)[0, 0].tolist()
    [[7.0, 3.0], [3.0, 3.0]]
    """
    if centre.shape != donor.shape:
        msg = f"centre has shape {centre.shape}, donor {donor.shape}; expected the same"
        raise InputError(msg)
    background: Floats = donor.astype(np.float32)
    if centre_range is not None and donor_range is not None:
        new: Floats = centre_range.astype(np.float32)[..., None, None]
        old: Floats = donor_range.astype(np.float32)[..., None, None]
        old_span, new_span = old[:, :, 1] - old[:, :, 0], new[:, :, 1] - new[:, :, 0]
        ranged = old_span > 0
        gain = np.where(ranged, new_span, 1) / np.where(ranged, old_span, 1)
        # the low end is taken off first: gain * counts + offset would round at the offset's size
        background = (background - old[:, :, 0]) * gain.astype(np.float32) + new[:, :, 0]
    foreground = (mask == CENTRE_CELL)[:, None]
    return np.where(foreground, centre.astype(np.float32), background)


def uncovered_px(
    mask: npt.NDArray[np.uint8], donor_mask: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    """Return how many pixels of the donor's own centre cell stay visible: (cell,), int32."""
    visible = (donor_mask == CENTRE_CELL) & (mask != CENTRE_CELL)
    return np.asarray(visible.sum((1, 2), dtype=np.int32))


def blocks(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``[0, length)`` in steps of `size`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
