"""What an importer finds in a folder: planes, each with its place on the plate.

Owns the names of wells and fields as they are written. It opens no file; which planes are taken,
and whether they are complete, is decided in `plan`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bgscale.errors import InputError
from bgscale.ngff import well_name

ONLY = "1"
"""Name of what a microscope does not number because there is one: field, channel, plane, time."""
LETTERS = 26
_WELL = re.compile(r"([A-Za-z]{1,2})[-_ ]?(\d{1,3})")


@dataclass(frozen=True)
class Source:
    """Where one plane is.

    Parameters
    ----------
    file : str
        Relative to the folder, with "/".
    page : int
        Of the TIFF, from 0.
    """

    file: str
    page: int = 0


@dataclass(frozen=True)
class Plane:
    """One grey image of a plate.

    Parameters
    ----------
    well : str
        Canonical, "A01".
    field : str
        Letters and digits only.
    channel : str
        As the files name it, "ch1".
    z, time : str
        As the files name them; their natural order is the order of planes and of time points.
    source : Source
    """

    well: str
    field: str
    channel: str
    z: str
    time: str
    source: Source


@dataclass(frozen=True)
class Found:
    """One plate as its microscope left it.

    Parameters
    ----------
    name : str
    planes : tuple of Plane
    channel_names : mapping of str to str
        Names that the microscope's metadata give to channels, as far as they do.
    pixel_size_um : float or None
    notes : tuple of str
        What a person should know of this plate.
    single_pages : bool
        Whether every file is one plane; a file of several pages is then an error.
    """

    name: str
    planes: tuple[Plane, ...]
    channel_names: Mapping[str, str] = field(default_factory=dict)
    pixel_size_um: float | None = None
    notes: tuple[str, ...] = ()
    single_pages: bool = True


def row_letters(number: int) -> str:
    """Return the letters of a row, counted from 1.

    Examples
    --------
    >>> row_letters(1), row_letters(26), row_letters(27), row_letters(32)
    ('A', 'Z', 'AA', 'AF')
    """
    if not 1 <= number <= LETTERS * (LETTERS + 1):
        msg = f"row {number}: expected 1 (A) to {LETTERS * (LETTERS + 1)} (ZZ)"
        raise InputError(msg)
    tens, ones = divmod(number - 1, LETTERS)
    return (chr(ord("A") + tens - 1) if tens else "") + chr(ord("A") + ones)


def well_at(row: str, column: str) -> str:
    """Return the canonical name of a well whose row is a letter or a number from 1.

    Examples
    --------
    >>> well_at("b", "3"), well_at("02", "03")
    ('B03', 'B03')
    """
    letters = row_letters(int(row)) if row.isdecimal() else row.upper()
    return well_name(letters, column)


def well_called(text: str) -> str:
    """Return the canonical name of a well that files write as one word.

    Examples
    --------
    >>> well_called("a1"), well_called("H_012"), well_called("AF48")
    ('A01', 'H12', 'AF48')
    """
    fits = _WELL.fullmatch(text)
    if not fits:
        msg = f"well {text!r}: expected row letters and a column number, such as A01"
        raise InputError(msg)
    return well_at(fits[1], str(int(fits[2])))


def field_called(text: str) -> str:
    """Return the name of a field: letters and digits alone, numbers without leading zeros.

    Examples
    --------
    >>> field_called("01"), field_called("pos-3")
    ('1', 'pos3')
    """
    kept = re.sub(r"[^A-Za-z0-9]", "", text)
    if not kept:
        msg = f"field {text!r}: expected letters or digits"
        raise InputError(msg)
    return str(int(kept)) if kept.isdecimal() else kept
