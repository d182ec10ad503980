"""A model from a file, in words: the spec file beside it, and what the file says of itself.

Owns the TOML file that tells what an ONNX file or a torch.export program cannot tell: channels,
scaling, which output is which layer, licence. Refuses to open the program: `program.py` does. The
one idea: the hash of the program stands in its spec file, so a file is known before it is opened.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from bgscale.errors import InputError, nearest_file
from bgscale.models.spec import ModelSpec
from bgscale.schema import CHANNEL_ROLES
from bgscale.sections import Section, as_toml, read_toml

FORMATS = {".onnx": "onnx", ".pt2": "pt2"}
"""Formats by the ending of the file's name."""

MICRO_BATCH = 64
"""Crops a forward pass where neither the file nor its spec fixes them."""

_LAYER = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ProgramSection(Section):
    """An embedding model from a file. Paths are relative to this file."""

    file: str = Field(
        min_length=1,
        description="the program: an ONNX file (.onnx) or a torch.export program (.pt2)",
    )
    sha256: str = Field(
        description="of that file, as sha256sum prints it; another file is never opened"
    )
    channels: tuple[str, ...] = Field(
        min_length=1,
        description="channel roles in the order the network reads them: "
        + ", ".join(CHANNEL_ROLES),
    )
    preprocess: tuple[str, ...] = Field(
        default=("minmax",),
        description="steps from camera counts to what the network was trained on, of minmax, "
        "minmax_inside, percentile_range, standardise, mask",
    )
    masked_preprocess: tuple[str, ...] = Field(
        default=(), description="the same for masked crops; empty: those of preprocess, then mask"
    )
    input_size_px: int = Field(default=64, ge=1, description="edge of the crops")
    network_crop_px: int = Field(
        default=0, ge=0, description="edge of what the network sees of them; 0: all"
    )
    views: Literal["centre", "corners"] = Field(
        default="centre",
        description="where that is cut: the centre, or the mean over it and the four corners",
    )
    input_layout: Literal["NCHW", "NHWC"] = Field(
        default="NCHW", description="order of the input's axes: NCHW (torch) or NHWC (TensorFlow)"
    )
    output_layout: Literal["NCHW", "NHWC"] = Field(
        default="NCHW", description="the same for outputs that are maps"
    )
    layers: dict[_LAYER, int | str] = Field(
        min_length=1,
        description="layers that are read: name of its results = name of the program's output, or "
        "its position, the first is 0",
    )
    classification_layer: str = Field(
        description="layer of experiment 1, the classification of localizations"
    )
    profile_layer: str = Field(description="layer of experiment 2, proportions and shifts")
    pooling: Literal["max", "mean"] = Field(
        default="max", description="how a map becomes a vector: over space"
    )
    micro_batch: int = Field(
        default=0, ge=0, description=f"crops a forward pass; 0: the file's, or {MICRO_BATCH}"
    )
    pixel_size_um: float = Field(
        default=0.0, ge=0, description="micrometres a pixel it was trained at; 0: not known"
    )
    licence: str = Field(default="", description="of the weights; SPDX where there is one")
    origin: str = Field(default="", description="where they come from: paper, address, who")

    @field_validator("file")
    @classmethod
    def _known_format(cls, file: str) -> str:
        format_of(file)
        return file

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, sha256: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            msg = f"sha256 = {sha256!r}: expected 64 digits 0-9, a-f, as sha256sum prints them"
            raise ValueError(msg)
        return sha256

    def to_spec(self, *, micro_batch: int) -> ModelSpec:
        """Return what the model expects; widths are 1 until the program has run."""
        masked = (*(step for step in self.preprocess if step != "mask"), "mask")
        return ModelSpec(
            architecture=format_of(self.file),
            channels=self.channels,
            preprocess=self.preprocess,
            masked_preprocess=self.masked_preprocess or masked,
            layers=dict.fromkeys(self.layers, 1),
            classification_layer=self.classification_layer,
            profile_layer=self.profile_layer,
            input_size_px=self.input_size_px,
            network_crop_px=self.network_crop_px or self.input_size_px,
            views=self.views,
            pooling=self.pooling,
            micro_batch=micro_batch,
            pixel_size_um=self.pixel_size_um or None,
            licence=self.licence,
            origin=self.origin,
            weights=Path(self.file).name,
            weights_sha256=self.sha256,
            program={
                "input_layout": self.input_layout,
                "output_layout": self.output_layout,
                "outputs": dict(self.layers),
            },
        )


class SpecFile(Section):
    """A spec file has one table."""

    model: ProgramSection


@dataclass(frozen=True)
class Port:
    """An input or output of a program; None in the shape is a size that is free.

    Examples
    --------
    >>> str(Port("crops", (None, 2, 64, 64), "float32"))
    'crops: float32 (free, 2, 64, 64)'
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("free" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} ({sizes})"


@dataclass(frozen=True)
class Facts:
    """What a program says of itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def format_of(file: str | Path) -> str:
    """Return the format that a file's name says: onnx or pt2."""
    ending = Path(file).suffix.lower()
    if ending not in FORMATS:
        msg = f"program {str(file)!r}: expected a name that ends in {' or '.join(FORMATS)}"
        raise InputError(msg)
    return FORMATS[ending]


def read_spec_file(path: str | Path) -> ProgramSection:
    """Read a spec file; its `file` is then a path from here.

    Raises
    ------
    ConfigError
        No such file, not TOML, an unknown key (the nearest is named), a value out of bounds.
    """
    path = Path(path)
    values = read_toml(path, "`bgscale models init FILE.onnx` writes a spec file")
    section = SpecFile.from_dict(values, origin=str(path)).model
    return section.model_copy(update={"file": str(path.parent / section.file)})


def read_program_file(file: str | Path) -> bytes:
    """Return a program's bytes; raises `InputError` where there are none."""
    path = Path(file)
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"program {path}: {error.strerror or error}{nearest_file(path)}"
        raise InputError(msg) from error


def read_known_file(section: ProgramSection) -> bytes:
    """Return the program's bytes if their hash is the spec's; nothing else is ever opened."""
    data = read_program_file(section.file)
    found = hashlib.sha256(data).hexdigest()
    if found != section.sha256:
        msg = (
            f"program {section.file} has the SHA-256 {found}; its spec file says {section.sha256}: "
            "it is another file, or was altered; if it is the one you mean, put its hash there"
        )
        raise InputError(msg)
    return data


def commented_spec(file: str, sha256: str, facts: Facts) -> str:
    """Return a spec file to complete, from what a program says of itself.

    Parameters
    ----------
    file : str
        As the spec file will name it.
    sha256 : str
        Of that file.
    facts : Facts

    Raises
    ------
    InputError
        There is not one input of four axes, or no output that could be a layer.
    """
    section = _guess(file, sha256, facts)
    lines = [
        "# A model from a file, for `[models.NAME] spec = ...` in run.toml. Unknown keys fail.",
        "# Look at every line: what is here was guessed from the file's shapes. Then try it:",
        "#   bgscale models check THIS.toml",
        "#",
        f"# The program says: input  {facts.inputs[0]}",
    ]
    lines += [f"#                   output {i}  {port}" for i, port in enumerate(facts.outputs)]
    lines += ["", f"# {ProgramSection.__doc__}", "[model]"]
    for key, field in ProgramSection.model_fields.items():
        lines += [f"# {field.description}", f"{key} = {as_toml(_plain(getattr(section, key)))}"]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _guess(file: str, sha256: str, facts: Facts) -> ProgramSection:
    shapes = "; ".join(str(port) for port in facts.inputs) or "none"
    if len(facts.inputs) != 1 or len(facts.inputs[0].shape) != 4:
        msg = f"program {file}: inputs are {shapes}; expected one, of crops (n, channel, y, x)"
        raise InputError(msg)
    batch, *sizes = facts.inputs[0].shape
    known = range(1, len(CHANNEL_ROLES) + 1)
    nhwc = sizes[2] in known and sizes[0] not in known
    n_channels, edge = (sizes[2], sizes[0]) if nhwc else (sizes[0], sizes[1])
    layers: dict[str, int | str] = {
        _layer_name(port.name, i): i
        for i, port in enumerate(facts.outputs)
        if len(port.shape) in (2, 4) and port.dtype.startswith("float")
    }
    if not layers:
        found = "; ".join(str(port) for port in facts.outputs) or "none"
        msg = f"program {file}: outputs are {found}; expected one of (n, width) or (n, width, y, x)"
        raise InputError(msg)
    return ProgramSection(
        file=file,
        sha256=sha256,
        channels=CHANNEL_ROLES[: n_channels or 1],
        input_size_px=edge or 64,
        input_layout="NHWC" if nhwc else "NCHW",
        output_layout="NHWC" if nhwc else "NCHW",
        layers=layers,
        classification_layer=next(iter(layers)),
        profile_layer=list(layers)[-1],
        micro_batch=batch or 0,
    )


def _layer_name(name: str, position: int) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")
    return plain or f"output{position}"
