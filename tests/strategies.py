"""Hypothesis strategies: cells of a screen, and donor banks."""

import numpy as np
from hypothesis import strategies as st

from bgscale.settings import Cells, Pool


@st.composite
def screens_of_cells(draw, max_cells: int = 60, max_classes: int = 4):
    """Cells of proteins with no, one or several classes, in a few fields each."""
    classes = draw(st.integers(1, max_classes))
    sets = st.sets(st.integers(0, classes - 1), max_size=classes)
    labels_of = draw(st.lists(sets, min_size=1, max_size=8))
    n = draw(st.integers(1, max_cells))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    protein = rng.integers(0, len(labels_of), n)
    # fields belong to one protein, as wells do
    field = protein * 3 + rng.integers(0, 3, n)
    table = np.array([[k in s for k in range(classes)] for s in labels_of])
    ids = rng.choice(2**40, n, replace=False).astype(np.uint64)
    return Cells(ids, protein, field, table[protein])


def pool_of(cells: Cells, chosen) -> Pool:
    """Return the donor bank of the chosen rows, as the run store holds it."""
    width = max(max(map(len, chosen)), 1)
    protein, field = (np.full((len(chosen), width), -1, np.int64) for _ in range(2))
    for k, rows in enumerate(chosen):
        protein[k, : len(rows)] = cells.protein[rows]
        field[k, : len(rows)] = cells.field[rows]
    return Pool(np.array([len(rows) for rows in chosen]), protein, field)
