"""The names of things: channel roles, mask values, and the codes that say why something is missing.

Strings are never stored in arrays: they are codes, and the names stand in the attributes.
"""

from enum import IntEnum

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
