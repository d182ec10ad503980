"""Does a model keep what bgscale relies on? A row of small experiments on made-up crops.

Owns the checks that `bgscale models check` prints; all work on a loaded model, wherever it comes
from. Refuses to judge whether a model is any good. The one idea: a comparison of backgrounds means
something only if a crop's features depend on that crop's pixels and on nothing else.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from bgscale.errors import BgscaleError
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.preprocess import MODES, steps_of
from bgscale.models.spec import ModelSpec
from bgscale.schema import CENTRE_CELL, OTHER_CELL

TOLERANCE = 1e-4
"""Largest difference of features that count as equal, over the layer's largest feature."""

SATURATED = 65_535
"""Largest count of a camera."""

Features: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Crops: TypeAlias = npt.NDArray[np.float32]
Masks: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Parameters
    ----------
    name : str
    passed : bool
    detail : str
        What was seen; where it failed, what to do.
    """

    name: str
    passed: bool
    detail: str


def check_model(model: EmbeddingModel, *, seed: int = 0) -> tuple[Check, ...]:
    """Return what each check finds; a check that cannot be done has failed.

    Parameters
    ----------
    model : EmbeddingModel
    seed : int
        Of the crops.

    Examples
    --------
    >>> from bgscale.models import load_model
    >>> checks = check_model(load_model("tiny", overrides={"micro_batch": 4}))
    >>> [check.name for check in checks if not check.passed]
    []
    """
    return tuple(_outcome(name, check, model, seed) for name, check in CHECKS.items())


def made_up(spec: ModelSpec, n: int, *, seed: int = 0) -> tuple[Crops, Masks]:
    """Return crops in counts, float32, and masks with a centre cell and a neighbour."""
    rng = np.random.default_rng(seed)
    edge = spec.input_size_px
    y, x = np.mgrid[:edge, :edge] - (edge - 1) / 2
    masks = np.zeros((n, edge, edge), np.uint8)
    crops = rng.gamma(4.0, 40.0, (n, len(spec.channels), edge, edge))
    for i in range(n):
        radius = edge * rng.uniform(0.2, 0.32)
        masks[i][(y - edge / 2) ** 2 + (x + edge / 4) ** 2 < radius**2] = OTHER_CELL
        masks[i][y**2 + x**2 < radius**2] = CENTRE_CELL
        for channel in crops[i]:
            centre = rng.uniform(-0.5, 0.5, 2) * radius
            spot = np.hypot(y - centre[0], x - centre[1])
            channel += rng.uniform(300, 3000) * np.exp(
                -((spot / (radius * rng.uniform(0.3, 1))) ** 2)
            )
            channel += rng.uniform(100, 1000) * (masks[i] > 0)
    return crops.round().astype(np.float32), masks


def _outcome(
    name: str, check: Callable[[EmbeddingModel, int], Check], model: EmbeddingModel, seed: int
) -> Check:
    try:
        return check(model, seed)
    except BgscaleError as error:
        return Check(name, passed=False, detail=str(error))
    except Exception as error:  # noqa: BLE001  a plug-in may raise anything: that is what was found
        detail = f"raised {type(error).__name__}: {error}"
        return Check(name, passed=False, detail=detail)


def check_spec(model: EmbeddingModel, seed: int) -> Check:
    """Try whether the spec comes back from JSON and from pickle as it was."""
    spec = model.spec
    again = ModelSpec.from_config(json.loads(json.dumps(spec.to_config())))
    if again != spec:
        changed = [k for k, v in spec.to_config().items() if again.to_config()[k] != v]
        detail = f"changed by a round trip through JSON: {', '.join(changed)}; use plain values"
        return Check("spec", passed=False, detail=detail)
    if pickle.loads(pickle.dumps(spec)) != spec:
        return Check("spec", passed=False, detail="changed by a round trip through pickle")
    return Check("spec", passed=True, detail="the same after JSON and after pickle")


def check_shapes(model: EmbeddingModel, seed: int) -> Check:
    """Try whether every layer of the spec comes, (cell, width), for any number of crops."""
    spec = model.spec
    crops, masks = made_up(spec, spec.micro_batch, seed=seed)
    inside = torch.from_numpy(masks == CENTRE_CELL).to(model.device)
    batch = model.forward(torch.from_numpy(crops).to(model.device), inside, "unmasked")
    found: list[tuple[int, Mapping[str, Any]]] = [(spec.micro_batch, batch)]
    found += [(n, model.embed(*made_up(spec, n, seed=seed))) for n in (0, 1, spec.micro_batch + 1)]
    for n, features in found:
        wrong = [
            f"{layer} has {tuple(features[layer].shape)}, expected {(n, width)}"
            for layer, width in spec.layers.items()
            if tuple(features[layer].shape) != (n, width)
        ]
        if wrong:
            detail = f"{'; '.join(wrong)}: correct the layers and widths in the spec"
            return Check("shapes", passed=False, detail=detail)
    widths = ", ".join(f"{layer} {width}" for layer, width in spec.layers.items())
    return Check("shapes", passed=True, detail=widths)


def check_reads(model: EmbeddingModel, seed: int) -> Check:
    """Try whether different crops have different features."""
    features = model.embed(*made_up(model.spec, 4, seed=seed))
    same = [layer for layer, values in features.items() if np.ptp(values, axis=0).max() == 0]
    if same:
        detail = (
            f"{', '.join(same)}: the same for four different crops; look at the preprocessing "
            "(does the network expect another range?), the layout and the weights"
        )
        return Check("reads", passed=False, detail=detail)
    return Check("reads", passed=True, detail="different crops have different features")


def check_repeats(model: EmbeddingModel, seed: int) -> Check:
    """Try whether the same crops give the same bytes twice."""
    crops, masks = made_up(model.spec, 5, seed=seed)
    found = _compare(model.embed(crops, masks), model.embed(crops, masks))
    if not found.same_bytes:
        detail = (
            f"the same crops twice differ by {found.text}: there is chance in it (dropout, a "
            "sampled layer); export it for inference (model.eval())"
        )
        return Check("repeats", passed=False, detail=detail)
    return Check("repeats", passed=True, detail="the same crops twice: the same bytes")


def check_companions(model: EmbeddingModel, seed: int) -> Check:
    """Try whether features depend on the others in the batch, or on the place among them."""
    n = min(model.spec.micro_batch, 16)
    crops, masks = made_up(model.spec, n, seed=seed)
    others, other_masks = made_up(model.spec, n, seed=seed + 1)
    others[:, :, : model.spec.input_size_px // 2] = SATURATED
    together = model.embed(crops, masks)
    last = n - 1
    reversed_ = model.embed(crops[::-1], masks[::-1])
    alone = model.embed(crops[last:], masks[last:])
    others[last], other_masks[last] = crops[last], masks[last]
    among = model.embed(others, other_masks)
    found = [
        _compare(together, {k: v[::-1] for k, v in reversed_.items()}),
        _compare({k: v[last:] for k, v in together.items()}, alone),
        _compare(
            {k: v[last:] for k, v in together.items()}, {k: v[last:] for k, v in among.items()}
        ),
    ]
    worst = max(found, key=lambda one: one.relative)
    if worst.relative > TOLERANCE:
        detail = (
            f"features change with the other crops or the place in the batch, by {worst.text}: "
            "batch norm or another step uses the batch; export it for inference (model.eval())"
        )
        return Check("companions", passed=False, detail=detail)
    if all(one.same_bytes for one in found):
        detail = "the same bytes alone, among others, and in another place"
    else:
        detail = (
            f"equal alone, among others and in another place, up to {worst.text}; not to the byte: "
            "results depend in the last bits on how the work was divided"
        )
    return Check("companions", passed=True, detail=detail)


def check_finite(model: EmbeddingModel, seed: int) -> Check:
    """Try whether features are finite for crops that break scaling, as constant ones."""
    crops, masks = made_up(model.spec, 6, seed=seed)
    middle = model.spec.input_size_px // 2
    crops[0], crops[1], crops[2] = 0, 437, SATURATED
    crops[3, :, middle:] = SATURATED
    kinds = [
        "zero",
        "constant",
        "saturated",
        "half saturated",
        "of a cell of one pixel",
        "unmasked",
    ]
    masks[4] = 0
    masks[4, middle, middle] = CENTRE_CELL
    masks[5] = CENTRE_CELL
    bad = []
    for mode in MODES:
        for layer, values in model.embed(crops, masks, mode).items():
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
            bad += [f"{layer}, mode {mode}: a crop that is {kinds[row]}" for row in rows.tolist()]
    if bad:
        detail = (
            f"NaN or infinite features ({bad[0]}{' ...' if len(bad) > 1 else ''}): the network "
        )
        return Check("finite", passed=False, detail=detail + "divides by zero or overflows there")
    detail = "zero, constant and saturated crops, a cell of one pixel, in every mode"
    return Check("finite", passed=True, detail=detail)


def check_modes(model: EmbeddingModel, seed: int) -> Check:
    """Try each mode, and whether masking changes what the network sees."""
    crops, masks = made_up(model.spec, 4, seed=seed)
    features = {mode: model.embed(crops, masks, mode) for mode in MODES}
    if "mask" in steps_of(model.spec, "unmasked"):
        return Check("modes", passed=True, detail="all; crops are masked in every one of them")
    if _compare(features["unmasked"], features["masked"]).same_bytes:
        detail = "unmasked and masked crops have the same features: does the network see its input?"
        return Check("modes", passed=False, detail=detail)
    return Check("modes", passed=True, detail=f"{', '.join(MODES)}")


def check_masked(model: EmbeddingModel, seed: int) -> Check:
    """Try whether what is outside the centre cell reaches the features of a masked crop.

    Where the scaling reads the whole crop, its outside may still set the scale: pixels outside are
    then only put in another order, which leaves the scale as it is.
    """
    spec = model.spec
    crops, masks = made_up(spec, 4, seed=seed)
    rng = np.random.default_rng(seed)
    by_crop = [
        step
        for step in spec.masked_preprocess[: spec.masked_preprocess.index("mask")]
        if step != "minmax_inside"
    ]
    changed = crops.copy()
    for crop, mask in zip(changed, masks, strict=True):
        outside = mask != CENTRE_CELL
        for channel in crop:
            values = channel[outside]
            channel[outside] = (
                rng.permutation(values) if by_crop else rng.uniform(0, SATURATED, len(values))
            )
    found = _compare(model.embed(crops, masks, "masked"), model.embed(changed, masks, "masked"))
    if found.relative > TOLERANCE:
        detail = (
            f"pixels outside the cell change masked features by {found.text}; masked_preprocess "
            "has to end with mask, and no step before it may mix pixels"
        )
        return Check("masked", passed=False, detail=detail)
    if by_crop:
        detail = (
            f"pixels outside do not reach the network; {', '.join(by_crop)} takes the scale from "
            "the whole crop, so a bright neighbour still dims the cell (minmax_inside does not)"
        )
    else:
        detail = "whatever is outside the cell, the features are the same"
    return Check("masked", passed=True, detail=detail)


CHECKS: dict[str, Callable[[EmbeddingModel, int], Check]] = {
    "spec": check_spec,
    "shapes": check_shapes,
    "reads": check_reads,
    "repeats": check_repeats,
    "companions": check_companions,
    "finite": check_finite,
    "modes": check_modes,
    "masked": check_masked,
}
"""The checks by name, in the order in which they are made."""


@dataclass(frozen=True)
class _Difference:
    same_bytes: bool
    relative: float
    text: str


def _compare(a: Features, b: Features) -> _Difference:
    """Return the largest difference of two sets of features, over the layer's largest feature."""
    worst, text = 0.0, "nothing"
    for layer, values in a.items():
        scale = float(np.abs(values).max(initial=0)) or 1.0
        difference = float(np.abs(values - b[layer]).max(initial=0))
        # NaN is a difference too
        if not difference / scale <= worst:
            worst = difference / scale if np.isfinite(difference) else float("inf")
            text = f"{worst:.1e} of the largest feature of {layer}"
    same = all(values.tobytes() == b[layer].tobytes() for layer, values in a.items())
    return _Difference(same, worst, text)
