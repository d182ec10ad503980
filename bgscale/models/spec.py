"""What a model expects, as data: size, channels, scaling, layers, weights, licence.

Owns `ModelSpec` and its JSON form, which goes into weights files, run stores and tokens. Refuses to
own any computation: it knows the names of the preprocessing steps, `preprocess.py` what they do.
The one idea: a caller never needs to know which architecture it holds; all that could change a
feature is said here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from bgscale.errors import ConfigError, nearest
from bgscale.schema import CHANNEL_ROLES

STEPS = ("minmax", "minmax_inside", "percentile_range", "standardise", "mask")
"""Names of the preprocessing steps; `preprocess.py` says what each does."""

STEPS_OF_THE_MASK = frozenset({"minmax_inside", "mask"})
"""Those that need to know where the centre cell is."""

TAPS = ("conv", "norm", "relu")
"""Where a convolution layer is read: after its convolution, its batch norm, or its ReLU."""

POOLINGS = ("max", "mean")
"""How a layer of shape (channel, y, x) becomes a vector: over space."""

MASK_USES = ("channel", "gate")
"""How a network uses the centre cell's mask: read as one more channel; layers read in it alone."""

VIEWS = ("centre", "corners")
"""Which network crops are embedded: the centre one, or the mean over it and the four corners."""


def show_cell_alone(steps: Sequence[str]) -> bool:
    """Whether these steps leave nothing of the pixels outside the centre cell's mask.

    Until they are zero, nothing may have been taken of a crop but the range of the cell.
    """
    return "mask" in steps and set(steps[: steps.index("mask")]) <= {"minmax_inside"}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that a model expects of its input, and what its output is.

    Parameters
    ----------
    architecture : str
        Name in the registry of models; of a program from a file, its format.
    input_size_px : int
        Edge of the crops that are handed in.
    network_crop_px : int
        Edge of what the network sees of them, cut after preprocessing.
    views : {"centre", "corners"}
        Where it is cut; with "corners" the outputs are the mean over the centre and four corners.
    channels : tuple of str
        Channel roles, in the order the network reads them.
    preprocess : tuple of str
        Steps, from `STEPS`, for a crop as imaged or with a swapped background.
    masked_preprocess : tuple of str
        Steps for the setting `masked`; "mask" comes last, so that the outside is exactly zero.
    layers : mapping of str to int
        The layers that are read, and their widths.
    classification_layer, profile_layer : str
        The layers of experiment 1 (localization pairs) and of experiment 2 (proportions).
    pooling : {"max", "mean"}
        How a convolution layer becomes a vector.
    tap : {"conv", "norm", "relu"}
        The last operation before a convolution layer is read.
    mask_input : tuple of {"channel", "gate"}
        What the network does with the mask of the centre cell, which then is the last channel of
        its input: "channel", its first convolution reads it; "gate", layers are pooled over the
        cell alone, and what the last convolution finds outside it is set to zero. Empty: it sees
        no mask.
    micro_batch : int
        Crops a forward pass, always; float32 features depend on it in the last bits.
    n_outputs : int
        Number of classes of the pretext task.
    class_names : tuple of str
        Their names; may be empty.
    pixel_size_um : float or None
        Pixel size the model was trained at; None is unknown, and nothing is rescaled.
    licence, origin : str
        Of the architecture and, with weights from a file, of those.
    weights : str
        "random", or the name of the file they came from.
    weights_sha256 : str
        Of that file; empty for random weights.
    seed : int
        Of random weights.
    program : mapping
        Of a program from a file: the layouts, and the output that each layer is.

    Examples
    --------
    >>> spec = ModelSpec(
    ...     architecture="tiny", channels=("protein",), preprocess=("minmax",),
    ...     masked_preprocess=("minmax", "mask"), layers={"profile": 64},
    ...     classification_layer="profile", profile_layer="profile",
    ... )
    >>> ModelSpec.from_config(spec.to_config()) == spec
    True
    """

    architecture: str
    channels: tuple[str, ...]
    preprocess: tuple[str, ...]
    masked_preprocess: tuple[str, ...]
    layers: Mapping[str, int]
    classification_layer: str
    profile_layer: str
    input_size_px: int = 64
    network_crop_px: int = 64
    views: str = "centre"
    pooling: str = "max"
    tap: str = "relu"
    mask_input: tuple[str, ...] = ()
    micro_batch: int = 64
    n_outputs: int = 1
    class_names: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    licence: str = ""
    origin: str = ""
    weights: str = "random"
    weights_sha256: str = ""
    seed: int = 0
    program: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "channels", "preprocess", "masked_preprocess", "class_names", "mask_input"
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, str):
                self._refuse(f"{name} = {value!r}; expected a sequence of names")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "layers", dict(self.layers))
        object.__setattr__(self, "program", dict(self.program))
        self._check_names("channels", self.channels, CHANNEL_ROLES)
        if not self.channels or len(set(self.channels)) != len(self.channels):
            self._refuse(f"channels = {list(self.channels)}; expected one or more, each once")
        for steps in (self.preprocess, self.masked_preprocess):
            self._check_names("preprocessing step", steps, STEPS)
        if self.masked_preprocess[-1:] != ("mask",):
            self._refuse(
                f"masked_preprocess = {list(self.masked_preprocess)}; expected 'mask' as the last "
                f"step, so that a masked crop is exactly zero outside the cell"
            )
        for name, known in (("pooling", POOLINGS), ("tap", TAPS), ("views", VIEWS)):
            self._check_names(name, (getattr(self, name),), known)
        self._check_names("mask_input", self.mask_input, MASK_USES)
        if self.mask_input and self.program:
            self._refuse("mask_input is for bgscale's own networks, not for programs from files")
        for name in ("classification_layer", "profile_layer"):
            self._check_names(name, (getattr(self, name),), self.layers)
        for name in ("input_size_px", "network_crop_px", "micro_batch", "n_outputs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                self._refuse(f"{name} = {value!r}; expected a whole number, 1 or more")
        if self.pixel_size_um is not None and not self.pixel_size_um > 0:
            self._refuse(f"pixel_size_um = {self.pixel_size_um}; expected more than 0, or None")
        if self.network_crop_px > self.input_size_px:
            self._refuse(
                f"network_crop_px = {self.network_crop_px}; expected at most input_size_px = "
                f"{self.input_size_px}"
            )
        if self.class_names and len(self.class_names) != self.n_outputs:
            self._refuse(f"{len(self.class_names)} class_names for n_outputs = {self.n_outputs}")

    @property
    def needs_mask(self) -> bool:
        """Whether an unmasked crop, too, is preprocessed with its mask."""
        return bool(self.mask_input or STEPS_OF_THE_MASK & set(self.preprocess))

    @property
    def n_inputs(self) -> int:
        """Channels of a network's input: those of the crops, and the mask where it is one."""
        return len(self.channels) + bool(self.mask_input)

    def to_config(self) -> dict[str, Any]:
        """Return the spec as plain JSON types; `program`, `mask_input` only where there is one."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        for name in ("program", "mask_input"):
            if not values[name]:
                del values[name]
        return values

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the spec that `to_config` wrote; unknown and missing keys are errors."""
        known = [each.name for each in fields(cls)]
        for key in config:
            if key not in known:
                msg = f"model spec: unknown key {key!r}{nearest(key, known)}; known: {known}"
                raise ConfigError(msg)
        try:
            return cls(**config)
        except TypeError as error:
            msg = f"model spec: {error}; keys: {sorted(config)}"
            raise ConfigError(msg) from error

    def _check_names(self, what: str, names: Iterable[str], known: Iterable[str]) -> None:
        known = list(known)
        for name in names:
            if name not in known:
                self._refuse(f"unknown {what} {name!r}{nearest(name, known)}; known: {known}")

    def _refuse(self, reason: str) -> None:
        msg = f"model spec of {self.architecture!r}: {reason}"
        raise ConfigError(msg)
