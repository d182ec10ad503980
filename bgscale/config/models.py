"""Of the run config: embedding models, and how one is trained."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bgscale.sections import Section


class TrainingSection(Section):
    """`bgscale train`: the pretext task is to tell which protein a crop shows."""

    model: str = Field(default="", description="name of the model to train; empty: the only one")
    fields: tuple[str, ...] = Field(
        default=(), description="train on these fields only; empty: all"
    )
    epochs: int = Field(default=30, ge=1, description="passes over the training cells, at most")
    patience: int = Field(
        default=8, ge=1, description="stop after so many epochs without a better loss"
    )
    batch_size: int = Field(default=64, ge=2, description="crops a step")
    parts: int = Field(
        default=1,
        ge=1,
        description="a step is the mean of so many parts of its batch, which the workers of a "
        "cluster share; weights depend on it, on the number of workers they do not",
    )
    learning_rate: float = Field(default=3e-3, gt=0, description="peak of the schedule")
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled, AdamW's")
    validation_fraction: float = Field(
        default=0.2, ge=0, lt=1, description="share of the fields held out for early stop"
    )
    cells_per_protein: int = Field(default=2000, ge=1, description="most cells of one protein")
    seed: int = Field(default=0, ge=0, description="of first weights, batches and augmentation")
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="where it trains; the same bits twice are promised for cpu"
    )
    start: str = Field(
        default="", description="first weights, a safetensors file to go on from; empty: random"
    )
    invariant: bool = Field(
        default=False,
        description="train a model that does not see the neighbours: cells are shown on swapped "
        "backgrounds, as the next keys say, and, unless the model's preprocess is set, scaled by "
        "their own range, zero outside",
    )
    swap_share: float = Field(
        default=1.0, ge=0, le=1, description="invariant: share of cells on a donor's background"
    )
    consistency: float = Field(
        default=1.0,
        ge=0,
        description="invariant: each cell is shown on two backgrounds, and the difference between "
        "its two profiles has this weight; 0: on one",
    )
    mask_input: tuple[Literal["channel", "gate"], ...] = Field(
        default=("channel", "gate"),
        description="invariant: the network reads the mask as a channel, and its layers in the "
        "centre cell alone (gate); empty: it sees no mask",
    )
    mask_jitter_px: int = Field(
        default=2,
        ge=0,
        description="invariant: masks that the model reads are so many pixels off, at most, and "
        "now and then merged with a neighbour",
    )
    threads: int = Field(default=2, ge=1, description="torch threads: trained weights depend on it")


class ModelSection(Section):
    """One embedding model; the table's name is the name of its results."""

    architecture: str = Field(
        default="tiny", description="tiny, pifia, pci, deeploc, or a plug-in's name"
    )
    weights: str = Field(default="", description="safetensors file; empty: seeded random weights")
    spec: str = Field(
        default="",
        description="instead of both: spec file (.toml) of an ONNX file or torch.export program, "
        "as `bgscale models init` writes it",
    )
    seed: int = Field(default=0, ge=0, description="of random weights")
    channels: tuple[str, ...] = Field(
        default=(),
        description="channel roles to read (protein, cytosol, nucleus); empty: the model's own",
    )
    preprocess: tuple[str, ...] = Field(
        default=(),
        description="steps instead of the model's own, of minmax, standardise, percentile_range, "
        "minmax_inside, mask; `masked` ends with mask in any case",
    )
    mask_input: tuple[Literal["channel", "gate"], ...] = Field(
        default=(),
        description="'gate' reads the layers of any network in the centre cell alone; 'channel' is "
        "for those trained so; empty: the model's own",
    )
    backgrounds: int = Field(
        default=0,
        ge=0,
        le=64,
        description="for models that cannot be trained again: features are the mean over each cell "
        "on so many random backgrounds, under every setting that does not mask; 8 are many; it "
        "costs so many times as much; 0: the crop as the setting has it",
    )
    micro_batch: int = Field(
        default=0, ge=0, description="crops a forward pass; 0: the model's own"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="where it runs; auto: on a GPU where there is one; cpu: never on a GPU, as an "
        "ONNX file where onnxruntime has no CUDA",
    )
    backend: Literal["auto", "torch", "openvino", "compiled"] = Field(
        default="auto",
        description="what runs the network: torch, openvino, compiled (torch.compile); auto: the "
        "fastest of torch and OpenVINO where it will run, by a probe, and kept in the store",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="of the network; float32 with torch is the reference; auto: bfloat16 where the "
        "processor has units for it and the model's accuracies were shown to stay the same",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.spec and (self.weights or self.architecture != "tiny"):
            msg = f"spec = {self.spec!r} says which model; take out architecture and weights"
            raise ValueError(msg)
        if self.spec and not self.spec.endswith(".toml"):
            msg = f"spec = {self.spec!r}: expected a .toml file, as `bgscale models init` writes it"
            raise ValueError(msg)
        return self

    def overrides(self) -> dict[str, Any]:
        """Return what replaces fields of the model's spec."""
        changed: dict[str, Any] = {}
        if self.channels:
            changed["channels"] = self.channels
        if self.preprocess:
            steps = tuple(step for step in self.preprocess if step != "mask")
            changed |= {"preprocess": self.preprocess, "masked_preprocess": (*steps, "mask")}
        if self.mask_input:
            changed["mask_input"] = self.mask_input
        if self.micro_batch:
            changed["micro_batch"] = self.micro_batch
        return changed
