"""The names of things: dims, settings' order, reason codes, and the variables of a run store.

One table of specs serves for creating arrays, checking datasets and describing them. Strings are
never stored in arrays: they are codes, and the names stand in the attributes of the group.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from bgscale.errors import SchemaError

if TYPE_CHECKING:
    import xarray as xr

STORE_VERSION = 1

CHANNEL_ROLES = ("protein", "cytosol", "nucleus")
MEDIUM, CENTRE_CELL, OTHER_CELL = 0, 1, 2
OWN_BACKGROUND = "own"
"""Name of the background entry of settings whose background is not chosen class by class."""


class Reason(IntEnum):
    """Why a cell cannot be used; stored as a code with every cell, and counted."""

    OK = 0
    UNREADABLE = 1
    NOT_FINITE = 2
    CONSTANT = 3
    NO_CENTRE_CELL = 4
    WRONG_SHAPE = 5

    @property
    def text(self) -> str:
        """What a person reads."""
        return {
            Reason.OK: "usable",
            Reason.UNREADABLE: "file is damaged or is not a TIFF",
            Reason.NOT_FINITE: "NaN or infinite pixels",
            Reason.CONSTANT: "all pixels of a channel are equal",
            Reason.NO_CENTRE_CELL: "no cell at the centre",
            Reason.WRONG_SHAPE: "another size or dtype than the screen's",
        }[self]


class Missing(IntEnum):
    """Why a cell has no value under a setting."""

    PRESENT = 0
    NO_LABEL = 1
    NO_DONOR = 2
    NO_MEDIUM = 3
    UNUSABLE = 4
