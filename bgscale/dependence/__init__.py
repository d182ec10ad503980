"""What an accuracy owes to the background: which one does the harm, to whom, and by which cells.

Owns questions that single cells answer: the shares of cells that are told right, by class, by
background, by neighbours. Refuses to own the classifiers and the table of accuracies. The one idea:
a cell is told right or wrong by the classifiers that have not seen it; everything here is a mean of
that over some cells or pairs, and its interval knows that cells of one protein (or well, or field)
are alike, and that pairs share their classes.
"""

from bgscale.dependence.backgrounds import background_confusion, background_harm
from bgscale.dependence.cells import (
    NEIGHBOUR_COUNTS,
    NEIGHBOUR_SHARES,
    by_neighbours,
    sensitivity,
)
from bgscale.dependence.decisions import OWN_CLASS, told_right
from bgscale.intervals import NO_GROUPS, NO_SPREAD, NO_VALUE, PRESENT

__all__ = [
    "NEIGHBOUR_COUNTS",
    "NEIGHBOUR_SHARES",
    "NO_GROUPS",
    "NO_SPREAD",
    "NO_VALUE",
    "OWN_CLASS",
    "PRESENT",
    "background_confusion",
    "background_harm",
    "by_neighbours",
    "sensitivity",
    "told_right",
]
