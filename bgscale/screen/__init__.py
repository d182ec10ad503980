"""INPUT: a screen of cells, opened read-only.

`open_screen` returns a `Screen` of already cut crops, as the PCI and PIFiA data sets are handed
out: one TIFF per cell and channel, in a folder or a zip. What is wrong with the screen as a whole
raises there; a single bad crop gets a reason code when it is read. `files` owns the bytes, `names`
what they are called, `crops` the screen.
"""

from bgscale.screen.crops import CropBlock, Screen, channel_names, open_screen
from bgscale.screen.names import PATTERNS

__all__ = ["PATTERNS", "CropBlock", "Screen", "channel_names", "open_screen"]
