"""Which array of a file is which tensor of ours: by name, by the graph, or by order and shape.

Owns the matching. Refuses to guess: where two answers are possible, both are said and the user
chooses with a table of names. The one idea: a whole kind of layer (convolutions, dense layers,
batch norms) is matched in one way, so that a missing layer is never filled by a stray one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from bgscale.errors import InputError, nearest
from bgscale.models.convert.expectation import FILLED, KINDS, OUR_NAMES, Expectation, Layer
from bgscale.models.convert.source import Source, Variable

_SHOWN = 4
_NORM_PARTS = set(OUR_NAMES["norm"])
_KIND_NAMES = {"conv": "convolutions", "dense": "dense layers", "norm": "batch norms"}


@dataclass(frozen=True)
class Match:
    """What is taken from a source.

    Parameters
    ----------
    taken : mapping of str to str
        Our tensor -> name in the source.
    filled : mapping of str to float
        Our tensor -> the constant it is, as the published layer was built without it.
    n_outputs : int
        Classes; 1 where the published network has none.
    notes : tuple of str
        What was matched otherwise than by name, filled, or left out.
    """

    taken: Mapping[str, str]
    filled: Mapping[str, float]
    n_outputs: int
    notes: tuple[str, ...]


def match(expected: Expectation, source: Source, names: Mapping[str, str] | None = None) -> Match:
    """Return which variable of the source is which of our tensors.

    Parameters
    ----------
    expected : Expectation
    source : Source
    names : mapping of str to str, optional
        The user's own: name in the source -> our tensor, or layer -> our layer. These are taken as
        they are.

    Raises
    ------
    InputError
        Variables are missing, unexpected or of another shape, or two answers are possible.
    """
    given = _given(expected, source, names or {})
    rest = [v for v in source.variables if not v.surplus and v.name not in given.values()]
    claims = _by_name(expected, rest, set(given))
    notes = []
    for kind in KINDS:
        wanted = [layer for layer in expected.layers if layer.kind == kind]
        if not wanted or any(layer.tensor(p) in given for layer in wanted for p in OUR_NAMES[kind]):
            continue
        if any(claims.get(layer.tensor(p)) for layer in wanted for p in OUR_NAMES[kind]):
            continue
        found, how = _without_names(kind, wanted, rest, source, claims)
        claims.update(found)
        if found:
            notes.append(f"{_KIND_NAMES[kind]} matched by {how}, not by name")
    for tensor, variables in claims.items():
        if len(variables) > 1:
            msg = (
                f"{source.path}: {len(variables)} variables may be {tensor}: "
                f"{_some(v.name for v in variables)}; say which with --names"
            )
            raise InputError(msg)
    taken = given | {tensor: variables[0].name for tensor, variables in claims.items() if variables}
    return _checked(expected, source, taken, notes)


def _given(expected: Expectation, source: Source, names: Mapping[str, str]) -> dict[str, str]:
    """Return our tensor -> name in the source, with names of layers spelled out."""
    known = {v.name for v in source.variables}
    layers = {v.layer for v in source.variables if not v.surplus}
    tensors, modules = list(expected.tensors()), [layer.ours for layer in expected.layers]
    given: dict[str, str] = {}
    for theirs, ours in names.items():
        if theirs not in known | layers:
            msg = f"names: {source.path} has no {theirs!r}{nearest(theirs, known | layers)}"
            raise InputError(msg)
        if ours not in (tensors if theirs in known else modules):
            what, listed = ("tensor", tensors) if theirs in known else ("layer", modules)
            msg = (
                f"names: model {expected.model!r} has no {what} {ours!r}{nearest(ours, listed)}; "
                f"known: {', '.join(listed)}"
            )
            raise InputError(msg)
        pairs = [(ours, theirs)]
        if theirs not in known:
            layer = expected.layer(ours)
            pairs = [
                (layer.tensor(v.part), v.name)
                for v in source.variables
                if v.layer == theirs and not v.surplus and v.part in OUR_NAMES[layer.kind]
            ]
        for tensor, name in pairs:
            if tensor in given:
                msg = f"names: {tensor} is given twice: {given[tensor]} and {name}"
                raise InputError(msg)
            given[tensor] = name
    return given


def _by_name(
    expected: Expectation, variables: Iterable[Variable], given: set[str]
) -> dict[str, list[Variable]]:
    claims: dict[str, list[Variable]] = {}
    for one in variables:
        named = [
            layer
            for layer in expected.layers
            if one.part in OUR_NAMES[layer.kind] and _is_named(expected, layer, one)
        ]
        if len(named) == 1 and named[0].tensor(one.part) not in given:
            claims.setdefault(named[0].tensor(one.part), []).append(one)
    return claims


def _is_named(expected: Expectation, layer: Layer, one: Variable) -> bool:
    spellings = [layer.spelling]
    if layer.after:
        spellings.append(expected.layer(layer.after).spelling)
    return any(re.fullmatch(s, word, re.IGNORECASE) for s in spellings for word in one.words)


# ---- layers whose names tell nothing


@dataclass(frozen=True)
class _Group:
    """The variables of one layer of the file."""

    layer: str
    variables: tuple[Variable, ...]

    def kind(self) -> str:
        parts = {v.part: v for v in self.variables}
        if "kernel" in parts:
            return {4: "conv", 2: "dense"}.get(len(parts["kernel"].shape), "")
        return "norm" if _NORM_PARTS & set(parts) else ""

    def shape(self) -> tuple[int, ...]:
        parts = {v.part: v.shape for v in self.variables}
        return parts["kernel"] if "kernel" in parts else self.variables[0].shape


def _groups(variables: Iterable[Variable]) -> list[_Group]:
    by_layer: dict[str, list[Variable]] = {}
    for one in variables:
        by_layer.setdefault(one.layer, []).append(one)
    return [_Group(layer, tuple(members)) for layer, members in by_layer.items()]


def _without_names(
    kind: str,
    wanted: Sequence[Layer],
    rest: Sequence[Variable],
    source: Source,
    claims: Mapping[str, list[Variable]],
) -> tuple[dict[str, list[Variable]], str]:
    """Return the variables of the wanted layers, {} if there is no answer, and how it was found."""
    groups = _groups(rest)
    candidates = [group for group in groups if group.kind() == kind]
    chosen: Sequence[_Group] = ()
    how = ""
    if kind == "norm":
        before = {
            layer.after: claims[kernel][0].layer
            for layer in wanted
            if claims.get(kernel := f"{layer.after}.weight")
        }
        for way, found in (
            ("the graph of the model", _by_graph(wanted, groups, before, source)),
            ("their place behind the convolutions", _by_place(wanted, groups, before, source)),
        ):
            if not chosen and found:
                chosen, how = found, way
    if not chosen:
        chosen, how = _by_order(kind, wanted, candidates, source), "order and shape"
    found_parts: dict[str, list[Variable]] = {}
    for layer, group in zip(wanted, chosen, strict=False):
        for one in group.variables:
            if one.part in OUR_NAMES[kind]:
                found_parts.setdefault(layer.tensor(one.part), []).append(one)
    return found_parts, how


def _by_graph(
    wanted: Sequence[Layer],
    groups: Sequence[_Group],
    before: Mapping[str, str],
    source: Source,
) -> list[_Group]:
    """Return the one batch norm that reads each layer, or [] if that is not so for all."""
    weighted = {group.layer for group in groups}
    chosen = []
    for layer in wanted:
        own = before.get(layer.after)
        readers = [
            group
            for group in groups
            if group.kind() == "norm"
            and group.layer in source.inputs
            and _weighted_inputs(group.layer, source.inputs, weighted) == {own}
        ]
        if len(readers) != 1:
            return []
        chosen.append(readers[0])
    return chosen


def _weighted_inputs(layer: str, inputs: Mapping[str, list[str]], weighted: set[str]) -> set[str]:
    """Return the nearest layers with weights that a layer reads, through those without."""
    found, seen, todo = set(), {layer}, list(inputs.get(layer, []))
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in weighted:
            found.add(name)
        else:
            todo += inputs.get(name, [])
    return found


def _by_place(
    wanted: Sequence[Layer],
    groups: Sequence[_Group],
    before: Mapping[str, str],
    source: Source,
) -> list[_Group]:
    """Return the batch norms right behind their convolutions, or [] if not all stand so.

    Two branches built in turn stand as conv, conv, norm, norm: there the place tells nothing.
    """
    if not source.in_order:
        return []
    layers, kinds = [g.layer for g in groups], ["", *(g.kind() for g in groups), "", ""]
    chosen = []
    for layer in wanted:
        if before.get(layer.after) not in layers:
            return []
        i = layers.index(before[layer.after])
        if kinds[i] == "conv" or kinds[i + 2] != "norm" or kinds[i + 3] == "norm":
            return []
        if not layer.fits(groups[i + 1].shape()):
            return []
        chosen.append(groups[i + 1])
    return chosen


def _by_order(
    kind: str, wanted: Sequence[Layer], candidates: Sequence[_Group], source: Source
) -> list[_Group]:
    """Return the candidates that fit the wanted layers in order, if there is one way only."""

    @cache
    def ways(i: int, j: int) -> int:
        if i == len(wanted):
            return 1
        if j == len(candidates):
            return 0
        taken = ways(i + 1, j + 1) if wanted[i].fits(candidates[j].shape()) else 0
        return taken + ways(i, j + 1)

    n_ways = ways(0, 0)
    if n_ways > 1:
        msg = (
            f"{source.path}: the {_KIND_NAMES[kind]} {_some(w.ours for w in wanted)} can be "
            f"matched in {n_ways} ways with {_some((g.layer for g in candidates), 12)}, as names, "
            f"order and shapes leave it open; say which with --names"
        )
        raise InputError(msg)
    chosen: list[_Group] = []
    for j, group in enumerate(candidates if n_ways else ()):
        i = len(chosen)
        if i < len(wanted) and wanted[i].fits(group.shape()) and ways(i + 1, j + 1):
            chosen.append(group)
    return chosen


# ---- what does not fit


def _checked(
    expected: Expectation, source: Source, taken: Mapping[str, str], notes: Sequence[str]
) -> Match:
    by_name = {v.name: v for v in source.variables}
    tensors = expected.tensors()
    n_outputs = 1
    if expected.head:
        head = taken.get(expected.layer(expected.head).tensor("kernel"))
        if head and by_name[head].shape:
            n_outputs = max(1, by_name[head].shape[-1])
    missing, filled = [], {}
    for tensor, (layer, part) in tensors.items():
        if tensor in taken:
            continue
        has_others = any(
            layer.tensor(p) in taken for p in OUR_NAMES[layer.kind] if layer.tensor(p) != tensor
        )
        if part in expected.may_lack and has_others:
            filled[tensor] = FILLED[part]
        else:
            missing.append(tensor)
    shapes = []
    for tensor, name in taken.items():
        layer, part = tensors[tensor]
        shape = layer.shape_of(part, n_outputs)
        if by_name[name].shape != shape:
            shapes.append(f"{name} is {by_name[name].shape}, expected {shape}")
    used = set(taken.values())
    left = [v for v in source.variables if v.name not in used and not v.surplus]
    # also in a file that holds more than the network, nothing of its own layers may be left
    own = {by_name[name].layer for name in used}
    unexpected = [v.name for v in left if expected.is_whole or own & {v.layer, *v.words}]
    faults = [
        f"{len(items)} {what}: {_some(items)}"
        for what, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", shapes),
        )
        if items
    ]
    vague = [v.name for v in left if not v.part]
    if faults and vague:
        faults.append(f"{len(vague)} do not tell what they are in their layer: {_some(vague)}")
    if faults:
        msg = (
            f"{source.path} does not fit {expected.model} ({source.format}): {'; '.join(faults)}; "
            f"`bgscale weights show` lists what it holds; where only the names differ, give a "
            f"table of them with --names"
        )
        raise InputError(msg)
    return Match(taken, filled, n_outputs, (*notes, *_notes(source, filled, left)))


def _notes(source: Source, filled: Mapping[str, float], left: Sequence[Variable]) -> list[str]:
    notes = []
    for value, what in ((1.0, "ones"), (0.0, "zeros")):
        names = [tensor for tensor, one in filled.items() if one == value]
        if names:
            notes.append(f"{what}, as the file has none: {_some(names)}")
    for reason in sorted({v.surplus for v in source.variables if v.surplus}):
        names = [v.name for v in source.variables if v.surplus == reason]
        notes.append(f"left out, {reason}: {_some(names)}")
    if left:
        layers = list(dict.fromkeys(v.layer for v in left))
        notes.append(f"left out, no part of this network: {_some(layers)}")
    return notes


def _some(names: Iterable[str], shown: int = _SHOWN) -> str:
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
