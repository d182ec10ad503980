"""Figures from a results tree alone.

Each function returns matplotlib Axes, and shows nothing itself: one panel takes `ax` and returns
it, several come as an array. `save` writes them, ready to be printed: 89 or 183 mm wide, letters of
7 points that stay letters, colours that the colour-blind can tell apart.
"""

from bgscale.plot.accuracies import accuracy, sensitivity, table
from bgscale.plot.backgrounds import confusion, harm, neighbours
from bgscale.plot.calibration import reliability
from bgscale.plot.cells import settings
from bgscale.plot.every import FIGURES, Drawing, every
from bgscale.plot.models import COMPARED, comparison, shift_comparison
from bgscale.plot.plates import PLATE_VARIABLES, quality
from bgscale.plot.shifts import proportions, shift_distribution, volcano
from bgscale.plot.style import COLOURS, STYLE, save

__all__ = [
    "COLOURS",
    "COMPARED",
    "FIGURES",
    "PLATE_VARIABLES",
    "STYLE",
    "Drawing",
    "accuracy",
    "comparison",
    "confusion",
    "every",
    "harm",
    "neighbours",
    "proportions",
    "quality",
    "reliability",
    "save",
    "sensitivity",
    "settings",
    "shift_comparison",
    "shift_distribution",
    "table",
    "volcano",
]
