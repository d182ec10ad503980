"""The background settings: who lends a background, and how it is put around the centre cell.

A setting is a small frozen object, its parameters are data (`registry`). From a bank (`choosing`)
donors are drawn (`donors`) or dealt (`dealing`), such as are covered well (`covering`), and pasted
(`compose`). Reading donors, cutting crops and preprocessing are others' work.

References
----------
Gupta, Moses & Lu (2025), Representation Learning Methods for Single-Cell Microscopy are Confounded
by Background Cells. PMLR 311:162-177.
"""

from bgscale.settings.averaged import (
    AVERAGED,
    draw_of_classes,
    on_backgrounds,
    spread_classes,
)
from bgscale.settings.choosing import select_donors, shares, shortlist
from bgscale.settings.compose import blocks, compose, compose_into, dilate, scaling
from bgscale.settings.covering import (
    RIM_PX,
    Ints,
    best_covered,
    pack,
    uncovered_bits,
)
from bgscale.settings.dealing import deal_donors
from bgscale.settings.donors import (
    Cells,
    Donors,
    Pool,
    draw_candidates,
    draw_donors,
)
from bgscale.settings.registry import SETTINGS, Setting, get_setting

__all__ = [
    "AVERAGED",
    "RIM_PX",
    "SETTINGS",
    "Cells",
    "Donors",
    "Ints",
    "Pool",
    "Setting",
    "best_covered",
    "blocks",
    "compose",
    "compose_into",
    "deal_donors",
    "dilate",
    "draw_candidates",
    "draw_donors",
    "draw_of_classes",
    "get_setting",
    "on_backgrounds",
    "pack",
    "scaling",
    "select_donors",
    "shares",
    "shortlist",
    "spread_classes",
    "uncovered_bits",
]
