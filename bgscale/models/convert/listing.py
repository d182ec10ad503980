"""What a weights file holds, for a person or as JSON: spec, hash, tensors.

Owns the listing of bgscale's files and of published ones. Refuses to judge whether they fit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bgscale.models.convert import open_source
from bgscale.models.convert.source import by_number

_FIRST_KEYS = ("architecture", "n_outputs", "licence", "origin")


def describe(path: str | Path) -> dict[str, Any]:
    """Return a file's name, SHA-256, spec (None without one) and tensors, as JSON types.

    Published weights have `format` and `files` in place of `sha256` and `spec`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from bgscale.models.weights import read_weights

        weights = read_weights(path)
        return {
            "file": str(path),
            "sha256": weights.sha256,
            "spec": None if weights.spec is None else weights.spec.to_config(),
            "tensors": [
                {
                    "name": name,
                    "shape": list(value.shape),
                    "dtype": str(value.dtype).removeprefix("torch."),
                }
                for name, value in sorted(weights.state.items(), key=lambda one: by_number(one[0]))
            ],
        }
    source = open_source(path, only_names=True)
    return {
        "file": str(path),
        "format": source.format,
        "files": source.hashes(),
        "tensors": [{"name": v.name, "shape": list(v.shape)} for v in source.variables],
    }


def format_listing(values: Mapping[str, Any]) -> str:
    """Return what `describe` gives as text."""
    lines = [str(values["file"])]
    spec = values.get("spec")
    if "sha256" in values:
        lines.append(_row("sha256", values["sha256"]))
        if spec is None:
            lines.append(_row("spec", "none: not written by bgscale"))
    else:
        lines.append(_row("format", values["format"]))
        lines += [_row("file", name) for name in values["files"]]
    if spec is not None:
        keys = [*_FIRST_KEYS, *(k for k in spec if k not in _FIRST_KEYS)]
        skipped = {"weights", "weights_sha256", "class_names", "seed"}
        lines += [_row(key, _plain(spec[key])) for key in keys if key not in skipped]
        classes = spec["class_names"]
        lines.append(_row("class_names", _plain(classes) if classes else "unknown"))
    tensors = values["tensors"]
    lines += ["", f"{len(tensors)} tensors"]
    width = max((len(one["name"]) for one in tensors), default=0)
    for one in tensors:
        shape = " x ".join(str(size) for size in one["shape"]) or "scalar"
        lines.append(f"  {one['name']:<{width}}  {shape}".rstrip())
    return "\n".join(lines)


def _row(key: str, value: object) -> str:
    return f"  {key:<20}  {value}"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({width})" for name, width in value.items())
    if isinstance(value, list):
        shown = ", ".join(str(one) for one in value[:20])
        return f"{shown}, ... ({len(value)} in all)" if len(value) > 20 else shown
    return "unknown" if value in (None, "") else str(value)
