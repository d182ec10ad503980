"""INPUT: a screen of cells, opened read-only.

`open_screen` returns a `PlateScreen` of OME-Zarr plates, or a `Screen` of already cut crops, as the
PCI and PIFiA data sets are handed out: one TIFF per cell and channel, in a folder or a zip. What is
wrong with the screen as a whole raises there; a single bad field or crop gets a reason code when it
is read. `files` owns the bytes of crops, `names` what they are called, `crops` and `plates` the two
kinds of screen.
"""

from bgscale.screen.crops import CropBlock, Screen, channel_names
from bgscale.screen.names import PATTERNS
from bgscale.screen.opening import AnyScreen, holds_plates, open_screen
from bgscale.screen.plates import PlateScreen, plate_channels

__all__ = [
    "PATTERNS",
    "AnyScreen",
    "CropBlock",
    "PlateScreen",
    "Screen",
    "channel_names",
    "holds_plates",
    "open_screen",
    "plate_channels",
]
