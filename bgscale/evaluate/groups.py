"""What cells share besides their class: the protein, the well, the field or the plate.

Owns the choice of what is never divided between training and test. The one idea: cells of one
protein look alike whatever they are put on, so a classifier that has seen some of them knows the
rest; the published folds do not forbid it, grouped ones do.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.evaluate.folds import Integers

Groups: TypeAlias = Literal["auto", "protein", "field", "well", "plate", "none"]

COARSEST_FIRST = ("protein", "well", "field")
"""What `auto` looks at, in this order."""
FEWEST = 2
"""Groups that each class needs, so that some can be held out."""


class Grouping(NamedTuple):
    """What is held out together.

    Attributes
    ----------
    kind : str
        "protein", "well", "field", "plate" or "none".
    codes : array (localization, draw), int64, or None
        The group of each draw; None where nothing is grouped.
    note : str
        Why nothing is grouped, or for which classes it cannot be; empty: it can for all.
    """

    kind: str
    codes: Integers | None
    note: str


def codes_of(
    protein: Integers, field: Integers, field_names: Sequence[str], *, wells: bool
) -> dict[str, Integers]:
    """Return the group of each draw by each kind of group.

    Parameters
    ----------
    protein, field : arrays (localization, draw), int
        Codes; below 0 where there is no draw.
    field_names : sequence of str
        plate/well/field of each field code.
    wells : bool
        Whether the screen has wells.

    Returns
    -------
    dict of str to array (localization, draw), int64
        Below 0 where there is no draw.

    Examples
    --------
    >>> names = ["p1/A1/1", "p1/A1/2", "p2/A1/1"]
    >>> field = np.array([[0, 1, 2]])
    >>> codes_of(field, field, names, wells=True)["well"].tolist()
    [[0, 0, 1]]
    """
    parts = {
        "well": [name.rsplit("/", 1)[0] for name in field_names],
        "plate": [name.rsplit("/", 2)[0] for name in field_names],
    }
    found = {"protein": protein.astype(np.int64), "field": field.astype(np.int64)}
    for kind, names in parts.items():
        if kind == "plate" or wells:
            number = {name: i for i, name in enumerate(dict.fromkeys(names))}
            of_field = np.array([*(number[name] for name in names), -1], np.int64)
            found[kind] = of_field[field]
    return found


def grouping(
    asked: Groups, codes: Mapping[str, Integers], *, localizations: Sequence[str]
) -> Grouping:
    """Return what is held out together.

    ``auto`` takes the first of protein, well and field of which every class has two or more among
    its draws.

    Parameters
    ----------
    asked : {"auto", "protein", "well", "field", "plate", "none"}
    codes : mapping of str to array (localization, draw), int64
        As `codes_of` makes them.
    localizations : sequence of str

    Returns
    -------
    Grouping

    Examples
    --------
    >>> codes = {"protein": np.array([[0, 0], [1, 1]]), "field": np.array([[0, 1], [2, 3]])}
    >>> grouping("auto", codes, localizations=["a", "b"]).kind
    'field'
    """
    if asked == "none":
        return Grouping("none", None, "groups are switched off: classification.groups")
    single = {kind: _single(values, localizations) for kind, values in codes.items()}
    if asked != "auto":
        names = single[asked]
        note = f"{', '.join(names)}: a single {asked}, so no folds by {asked}" if names else ""
        return Grouping(asked, codes[asked], note)
    looked_at = [kind for kind in COARSEST_FIRST if kind in codes]
    for kind in looked_at:
        if not single[kind]:
            return Grouping(kind, codes[kind], "")
    reasons = (f"{', '.join(single[kind])}: a single {kind}" for kind in looked_at)
    return Grouping("none", None, "; ".join(reasons))


def _single(codes: npt.NDArray[np.int64], localizations: Sequence[str]) -> list[str]:
    """Return the classes with too few groups."""
    return [
        name
        for name, own in zip(localizations, codes, strict=True)
        if len(np.unique(own[own >= 0])) < FEWEST
    ]
