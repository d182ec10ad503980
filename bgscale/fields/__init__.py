"""Fields of plates: finding cells in them, measuring them, cutting windows out of them.

Pure: arrays in, arrays out. Segmenters are found by name; other packages add theirs through the
entry-point group ``bgscale.segmenters``.
"""

from bgscale.fields.labels import SEGMENTERS, Labels, check_labels
from bgscale.fields.measures import debris, measure, quality
from bgscale.fields.windows import free_windows, windows_of

__all__ = [
    "SEGMENTERS",
    "Labels",
    "check_labels",
    "debris",
    "free_windows",
    "measure",
    "quality",
    "windows_of",
]
