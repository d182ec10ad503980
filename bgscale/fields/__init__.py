"""Whole fields: which pixels are which cell, what each cell is like, and what is cut out of a field.

Pure: arrays in, arrays out; crops that come already cut belong to `segment` and `crops`. `contract`
says what a segmenter is, `yeast` is the built-in one, `measures` looks at cells and at the field,
`windows` cuts. The one idea: whatever finds the cells, a field is an image and a label image, and
all that follows is derived from these two.
"""

from bgscale.fields.contract import GROUP, Segmenter, check_labels, in_raster_order
from bgscale.fields.measures import debris, measure, quality
from bgscale.fields.windows import free_windows, windows_of
from bgscale.fields.yeast import YeastSegmenter
from bgscale.registry import Registry

SEGMENTERS = Registry(
    "segmenter", {"yeast": "bgscale.fields.yeast:YeastSegmenter"}, group=GROUP
)
"""Other packages add theirs through the entry-point group ``bgscale.segmenters``."""

__all__ = [
    "SEGMENTERS",
    "Segmenter",
    "YeastSegmenter",
    "check_labels",
    "debris",
    "free_windows",
    "in_raster_order",
    "measure",
    "quality",
    "windows_of",
]
