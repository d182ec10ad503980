"""The names of things: channel roles, mask values, and the codes that say why something is missing.

Strings are never stored in arrays: they are codes, and the names stand in the attributes.
"""

import re
from enum import IntEnum

STORE_VERSION = 2

CHANNEL_ROLES = ("protein", "cytosol", "nucleus")
MEDIUM, CENTRE_CELL, OTHER_CELL = 0, 1, 2
OWN_BACKGROUND = "own"
"""Name of the background entry of settings whose background is not chosen class by class."""


class Reason(IntEnum):
    """Why a cell or a field cannot be used; stored as a code with each, and counted."""

    OK = 0
    UNREADABLE = 1
    NOT_FINITE = 2
    CONSTANT = 3
    NO_CENTRE_CELL = 4
    WRONG_SHAPE = 5
    METADATA = 6
    MISSING_CHUNKS = 7
    MISSING_CHANNEL = 8
    LABELS = 9
    TOO_LARGE = 10
    LOST = 11
    CUT_BY_BORDER = 32
    DEBRIS = 33

    @property
    def is_failure(self) -> bool:
        """Whether something went wrong; the others are set aside by rule."""
        return Reason.OK < self < Reason.CUT_BY_BORDER

    @property
    def text(self) -> str:
        """What a person reads."""
        return {
            Reason.OK: "usable",
            Reason.UNREADABLE: "file or chunk is damaged, or is not a TIFF",
            Reason.NOT_FINITE: "NaN or infinite pixels",
            Reason.CONSTANT: "all pixels of a channel are equal",
            Reason.NO_CENTRE_CELL: "no cell at the centre",
            Reason.WRONG_SHAPE: "another size or dtype than the screen's",
            Reason.METADATA: "metadata are missing or wrong",
            Reason.MISSING_CHUNKS: "part of the image is missing",
            Reason.MISSING_CHANNEL: "a channel is missing",
            Reason.LABELS: "label image is missing or does not fit the field",
            Reason.TOO_LARGE: "image or chunk is larger than allowed",
            Reason.LOST: "the work on it failed each time it was tried",
            Reason.CUT_BY_BORDER: "the border of the field cuts the cell, or is too near",
            Reason.DEBRIS: "too bright or of odd shape: dead cell or debris",
        }[self]


class Missing(IntEnum):
    """Why a cell has no value under a setting."""

    PRESENT = 0
    NO_LABEL = 1
    NO_DONOR = 2
    NO_MEDIUM = 3
    UNUSABLE = 4
    LOST = 5
    NO_DONOR_ON_PLATE = 6


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return what sorts names as a person would: "2" before "10", numbers before letters.

    Examples
    --------
    >>> sorted(["f10", "10", "f2", "2"], key=natural)
    ['2', '10', 'f2', 'f10']
    """
    pieces = re.split("([0-9]+)", name)
    return tuple(
        (0, int(p), p) if p.isdecimal() and len(p) < 19 else (1, 0, p) for p in pieces if p
    )
