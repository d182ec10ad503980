"""What models there are, as rows of a table: built in, or from other packages.

Owns what `bgscale models` prints. Refuses to load weights: all is said by the specs and by
untrained networks. A plug-in that cannot be imported stays in the table, with the reason.
"""

from dataclasses import asdict, dataclass
from typing import Any

from bgscale.errors import BgscaleError
from bgscale.models import MODELS, ModelSpec


@dataclass(frozen=True)
class Listed:
    """One model of the registry.

    Parameters
    ----------
    name : str
    source : str
        Built in, or the package that brings it.
    spec : ModelSpec or None
        None where the plug-in is broken.
    readable : dict of str to int
        Every layer that can be read, with its width.
    parameters : int or None
    problem : str
        Why there is no spec; empty where there is one.
    """

    name: str
    source: str
    spec: ModelSpec | None
    readable: dict[str, int]
    parameters: int | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        spec = None if self.spec is None else self.spec.to_config()
        return {**asdict(self), "spec": spec}


def listed() -> list[Listed]:
    """Return every model of the registry, in its order."""
    return [_listed(name) for name in MODELS]


def _listed(name: str) -> Listed:
    package = MODELS.package(name)
    source = f"plug-in {package}" if package else "built in"
    try:
        kind = MODELS[name]
        spec, readable = kind.default_spec, dict(kind.widths())
        return Listed(name, source, spec, readable, n_parameters(kind, spec))
    except BgscaleError as error:
        return Listed(name, source, None, {}, None, str(error))
    except Exception as error:  # noqa: BLE001  a broken plug-in must not hide the others
        problem = f"{error!r}: a model has default_spec and widths(), and is built from a spec"
        return Listed(name, source, None, {}, None, problem)


def n_parameters(kind: Any, spec: ModelSpec) -> int:
    """Return the number of trained values of a network."""
    import torch

    # torch's own generator is left as it was
    with torch.random.fork_rng(devices=[]):
        network = kind(spec)
    return sum(p.numel() for p in network.parameters())


def format_listed(models: list[Listed]) -> str:
    """Return the table that people read."""
    lines = []
    for model in models:
        lines += _rows(model)
    return "\n".join(lines)


def describe(spec: ModelSpec) -> list[tuple[str, str]]:
    """Return what a spec says, as pairs of words."""
    edge = f"{spec.input_size_px}x{spec.input_size_px}"
    if spec.network_crop_px != spec.input_size_px:
        edge += f", of which {spec.network_crop_px}x{spec.network_crop_px}"
    layers = [f"{layer} ({width}{_role(spec, layer)})" for layer, width in spec.layers.items()]
    seen = [*spec.channels, *(["mask"] if spec.mask_input else [])]
    edge += f" px{', mask as ' + ' and '.join(spec.mask_input) if spec.mask_input else ''}"
    return [
        ("input", f"{' + '.join(seen)}, {edge}"),
        ("steps", f"{', '.join(spec.preprocess) or 'none'}; masked: "
                  f"{', '.join(spec.masked_preprocess)}"),
        ("layers", ", ".join(layers)),
        ("licence", spec.licence or "not said"),
        ("origin", spec.origin or "not said"),
    ]  # fmt: skip


def _role(spec: ModelSpec, layer: str) -> str:
    roles = [
        text
        for name, text in (
            (spec.classification_layer, "classification"),
            (spec.profile_layer, "proportions"),
        )
        if name == layer
    ]
    return f": {' and '.join(roles)}" if roles else ""


def _rows(model: Listed) -> list[str]:
    head = f"{model.name}  ({model.source})"
    if model.spec is None:
        return [head, f"  cannot be used: {model.problem}"]
    pairs = describe(model.spec)
    others = [f"{k} ({w})" for k, w in model.readable.items() if k not in model.spec.layers]
    if others:
        pairs.insert(3, ("also", f"{', '.join(others)}"))
    pairs.insert(-2, ("size", f"{model.parameters:,} parameters"))
    return [head, *(f"  {key:<8} {text}" for key, text in pairs)]
