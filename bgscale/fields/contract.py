"""What a segmenter is, and what its label image must be.

A segmenter is a small frozen object: a name, a JSON config, and a call from an image to labels. A
plug-in (Cellpose, StarDist) is held to the same contract as the built-in one, by `check_labels`,
each time it is called; `in_raster_order` brings any label image into that form.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.errors import SchemaError

GROUP = "bgscale.segmenters"
LARGEST_LABEL = 2**24
"""Labels above are not renumbered: a table as long as the largest one would be allocated."""

Labels: TypeAlias = npt.NDArray[np.int32]


class Segmenter(Protocol):
    """Finds the cells of one field.

    The same image, config and pixel size give the same labels, on any worker.
    """

    @property
    def name(self) -> str:
        """Name in the registry."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the segmenter of `to_config`."""

    def to_config(self) -> dict[str, Any]:
        """Return all that can change the labels, as plain JSON types; it goes into tokens."""

    def __call__(
        self, image: npt.NDArray[Any], *, channels: Sequence[str], pixel_size_um: float
    ) -> Labels:
        """Return the labels of one field.

        Parameters
        ----------
        image : array (channel, y, x), counts
        channels : sequence of str
            Role of each channel: "protein", "cytosol" or "nucleus".
        pixel_size_um : float

        Returns
        -------
        array (y, x), int32
            0 in the medium; cells are 1 to n in the raster order of their first pixels.
        """


def check_labels(labels: object, shape: tuple[int, ...]) -> Labels:
    """Return the labels if they are what a segmenter must return.

    Parameters
    ----------
    labels : array (y, x), int32
        0 in the medium; cells are 1 to n in the raster order of their first pixels.
    shape : tuple of int
        Of the field: (y, x).

    Raises
    ------
    SchemaError

    Examples
    --------
    >>> check_labels(np.array([[0, 1], [2, 1]], np.int32), (2, 2)).max()
    np.int32(2)
    >>> check_labels(np.array([[0, 7], [0, 7]], np.int32), (2, 2))
    Traceback (most recent call last):
    bgscale.errors.SchemaError: labels: first new label is 7 where 1 was expected: ...
    """
    if not isinstance(labels, np.ndarray):
        msg = f"labels: got {type(labels).__name__}, expected a NumPy array (y, x) of int32"
        raise SchemaError(msg)
    if labels.shape != tuple(shape) or labels.ndim != 2:
        msg = f"labels: shape is {labels.shape}, expected that of the field, {tuple(shape)}"
        raise SchemaError(msg)
    if labels.dtype != np.int32:
        msg = f"labels: dtype is {labels.dtype}, expected int32: use in_raster_order"
        raise SchemaError(msg)
    if labels.size and labels.min() < 0:
        msg = f"labels: smallest is {labels.min()}, expected 0 for the medium and cells from 1"
        raise SchemaError(msg)
    found = labels[labels > 0]
    # a label larger than all before it is new; in order, the n-th new one is n
    highest = np.maximum.accumulate(found)
    before = np.concatenate([[0], highest[:-1]])
    wrong = np.flatnonzero(highest > before + 1)
    if len(wrong):
        got, expected = found[wrong[0]], before[wrong[0]] + 1
        msg = f"labels: first new label is {got} where {expected} was expected: "
        msg += "cells are 1 to n in the raster order of their first pixels; use in_raster_order"
        raise SchemaError(msg)
    return labels


def in_raster_order(labels: npt.NDArray[Any]) -> Labels:
    """Return any label image with its labels renumbered as `check_labels` wants them.

    Parameters
    ----------
    labels : array (y, x), int
        0, or below, in the medium.

    Returns
    -------
    array (y, x), int32

    Examples
    --------
    >>> in_raster_order(np.array([[0, 9], [4, 9]])).tolist()
    [[0, 1], [2, 1]]
    """
    flat = np.ascontiguousarray(labels).ravel()
    where = np.flatnonzero(flat > 0)
    found = flat[where]
    if len(found) and int(found.max()) > LARGEST_LABEL:
        found = np.unique(found, return_inverse=True)[1] + 1
    largest = int(found.max()) if len(found) else 0
    first = np.full(largest + 1, len(found), np.int64)
    # of several assignments to one place the last stays: here, the first pixel
    first[found[::-1]] = np.arange(len(found))[::-1]
    present = np.flatnonzero(first < len(found))
    renumbered = np.zeros(largest + 1, np.int32)
    renumbered[present[np.argsort(first[present], kind="stable")]] = np.arange(1, len(present) + 1)
    out = np.zeros(flat.shape, np.int32)
    out[where] = renumbered[found]
    return out.reshape(labels.shape)
