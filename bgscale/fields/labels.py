"""What a label image is, and the segmenters that make one."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.errors import SchemaError
from bgscale.registry import Registry

Labels: TypeAlias = npt.NDArray[np.int32]

SEGMENTERS = Registry(
    "segmenter", {"yeast": "bgscale.fields.yeast:YeastSegmenter"}, group="bgscale.segmenters"
)
"""Name -> class with `from_config`, `to_config` and ``__call__(image, *, channels,
pixel_size_um)``: the image is an array (channel, y, x) in counts, `channels` are its roles, and the
result is what `check_labels` asks for."""


def check_labels(labels: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raise `SchemaError` unless `labels` is a label image of a field of this shape.

    Integers from 0 (medium), each cell one number, without gaps.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        kind = getattr(labels, "dtype", type(labels).__name__)
        msg = f"labels are {kind}; expected an array of integers"
        raise SchemaError(msg)
    if labels.shape != tuple(shape):
        msg = f"labels have shape {labels.shape}, the field {tuple(shape)}; expected the same"
        raise SchemaError(msg)
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0:
        msg = f"labels begin at {low}; expected 0 for medium and numbers from 1 for cells"
        raise SchemaError(msg)
    if high > labels.size:
        msg = f"labels go up to {high}; expected numbers from 1 without gaps"
        raise SchemaError(msg)
    absent = np.flatnonzero(np.bincount(labels.ravel(), minlength=high + 1)[1:] == 0)
    if len(absent):
        msg = f"label {absent[0] + 1} is lacking below {high}; expected numbers without gaps"
        raise SchemaError(msg)
