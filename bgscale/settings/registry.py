"""The background settings as data: what each does, by name."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from bgscale.errors import UnknownNameError, nearest

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
    dilate_px : int
        The centre cell reaches so many pixels of the image farther than its mask.
    same_plate : bool
        Only donors from the cell's own plate.
    description : str
    """

    name: str
    source: Source = "own"
    choice: Choice = "none"
    scale: bool = False
    refill: Literal["", "centre", "cells"] = ""
    mode: Literal["unmasked", "masked", "masked_mean"] = "unmasked"
    dilate_px: int = 0
    same_plate: bool = False
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
    Setting(
        "masked_dilated_2",
        mode="masked",
        dilate_px=2,
        description="control: masked, with what lies within 2 pixels of the centre cell",
    ),
    Setting(
        "masked_dilated_4",
        mode="masked",
        dilate_px=4,
        description="control: masked, with what lies within 4 pixels of the centre cell",
    ),
    Setting(
        "same_dilated_2",
        "crop",
        "same",
        scale=True,
        dilate_px=2,
        description="control: same, the cell pasted with what lies within 2 pixels of it",
    ),
    Setting(
        "different_dilated_2",
        "crop",
        "different",
        scale=True,
        dilate_px=2,
        description="control: different, the cell pasted with what lies within 2 pixels of it",
    ),
    Setting(
        "same_plate_matched",
        "crop",
        "same",
        scale=True,
        same_plate=True,
        description="control: same, with donors from the cell's own plate",
    ),
    Setting(
        "different_plate_matched",
        "crop",
        "different",
        scale=True,
        same_plate=True,
        description="control: different, with donors from the cell's own plate",
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
