"""The run config: everything that can change a result, and nothing that cannot.

One set of classes is the check, the defaults and the documentation: `bgscale init` writes the
commented TOML from the field descriptions below. Where and on how many workers a run happens
belongs to the cluster profile, not here.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from bgscale.sections import Section, as_toml, read_toml

PAPER_SETTINGS = ("original", "same", "different", "cell_free", "masked")
CONTROL_SETTINGS = (
    "self_swap",
    "background_only",
    "medium_only",
    "masked_mean",
    "masked_dilated_2",
    "masked_dilated_4",
    "same_dilated_2",
    "different_dilated_2",
    "same_plate_matched",
    "different_plate_matched",
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ScreenSection(Section):
    """The input, plates or already cut crops, and its plate map. It is never written to."""

    path: str = Field(
        default="crops",
        min_length=1,
        description="OME-Zarr plates (one, a glob such as 'plates/*.zarr', or s3://...), or a "
        "folder or .zip with crops",
    )
    pattern: str = Field(
        default="",
        description="crops: how files are named: pci, pifia, bgscale, or a template such as "
        "'{protein}/{protein}_{field}_{cell}_{channel}.tif'; empty: found out",
    )
    plate_map: str = Field(
        default="platemap.csv",
        description="CSV: a row per plate and well, of crops per protein; empty where the class is "
        "the protein",
    )
    class_column: str = Field(
        default="localization",
        description="column of the plate map that is the class (several: 'cytoplasm;nucleus')",
    )
    protein: str = Field(
        default="gfp",
        description="channel of the tagged protein, as the files name it; of plates also its "
        "number, as '0'",
    )
    cytosol: str = Field(default="rfp", description="channel that shows whole cells; empty: none")
    nucleus: str = Field(default="", description="channel of the nuclei; empty: none")
    mask: str = Field(
        default="", description="crops: channel name of mask files; empty: cells are segmented"
    )
    time: int = Field(default=0, ge=0, description="plates: which time point")
    z: str = Field(
        default="max", description="plates: 'max' or 'mean' over z, 'middle', or a number as '0'"
    )
    pixel_size_um: float = Field(
        default=0.0, ge=0, description="micrometres a pixel; 0: as the plates say, or not known"
    )
    intensity_scaling: Literal["plate", "field", "none"] = Field(
        default="plate",
        description="'plate': images are camera counts; 'field': each field was scaled by itself, "
        "so intensity ranges are taken by field; 'none': donors keep their counts, as they must "
        "where strains are mixed in one well and a protein's range is not that of its neighbours",
    )
    proteins: tuple[str, ...] = Field(default=(), description="only these proteins; empty: all")
    limit: int = Field(
        default=0,
        ge=0,
        description="at most so many crops, or fields of plates, for a first look; 0: all",
    )


class CellSection(Section):
    """Plates: how cells are found in fields, and cut."""

    segmenter: str = Field(default="yeast", description="yeast, or a plug-in's name")
    options: dict[str, float | int | str | bool] = Field(
        default={}, description="the segmenter's own options, as { diameter_um = 5.0 }"
    )
    labels: str = Field(
        default="",
        description="label images of the plates to use instead, such as 'cells'; empty: segment",
    )
    write_labels: bool = Field(
        default=False, description="also write label images as OME-Zarr plates beside the store"
    )
    crop_size_px: int = Field(
        default=64, ge=16, le=512, multiple_of=2, description="side of a crop"
    )
    border_px: int = Field(
        default=1,
        ge=0,
        description="cells nearer than this to the border of their field are set aside: 1, those "
        "that it cuts; 0, none",
    )
    windows_per_field: int = Field(
        default=8, ge=0, le=64, description="cell-free windows of a field, at most"
    )
    margin_px: int = Field(
        default=8, ge=0, description="a cell-free window is at least so far from any cell"
    )


class DonorSection(Section):
    """The donor bank: the cells that lend their background."""

    per_class: int = Field(
        default=2000, ge=1, description="most donors of one class, at most equally many a protein"
    )
    windows_per_class: int = Field(
        default=2000, ge=1, description="cell-free windows of each class"
    )
    min_pool: int = Field(
        default=20, ge=1, description="fewer donors than this in a class is an error"
    )
    candidates: int = Field(
        default=32,
        ge=1,
        description="donors looked at for a cell, of which the one is taken whose own centre cell "
        "is covered best: what stays visible of it tells its class (experiment 1 looks at all); "
        "1: the first, as published",
    )
    per_field: int = Field(
        default=0,
        ge=0,
        description="most donors of one field; 0: twice an even share of its protein",
    )


class EvaluationSection(Section):
    """Which cells take part in both experiments."""

    fields: tuple[str, ...] = Field(
        default=(), description="evaluate on these fields only, donors included; empty: all"
    )


class ClassificationSection(Section):
    """Experiment 1: linear SVMs between all pairs of classes."""

    crops_per_class: int = Field(
        default=1000,
        ge=5,
        description="crops of each class; falls to the smallest class, which is said",
    )
    folds: int = Field(default=5, ge=2, description="folds of the cross-validation, unshuffled")
    penalty: float = Field(default=1.0, gt=0, description="C of the SVM")
    solver: Literal["exact", "libsvm"] = Field(
        default="exact",
        description="exact: fits that converge; libsvm: as published, stopped at its cap",
    )
    max_iterations: int = Field(default=100_000, ge=1, description="libsvm's cap, as published")
    groups: Literal["auto", "protein", "field", "well", "plate", "none"] = Field(
        default="auto",
        description="beside the published folds, folds in which no such group is in training and "
        "test; auto: the first of protein, well and field that every class has two of",
    )
    aggregate: Literal["symmetric", "published"] = Field(
        default="symmetric",
        description="how pairs are averaged in the table; published: with its quirks",
    )


class ProportionSection(Section):
    """Experiment 2: predicted localization proportions of each protein."""

    cells_per_class: int = Field(
        default=5000,
        ge=10,
        description="most cells of one class in a fit, at most equally many a protein",
    )
    penalty: float = Field(
        default=1e-3,
        ge=0,
        description="ridge penalty on standardised features, of the mean cross entropy",
    )
    folds: int = Field(
        default=5, ge=2, description="folds over proteins; all are scored out of fold"
    )
    replicates: int = Field(
        default=20, ge=0, description="classifiers fitted on Poisson-reweighted training proteins"
    )
    hyperparameters: Literal["converged", "published"] = Field(
        default="converged",
        description="'published': Adam, learning rate 1e-3, batches of 128, 5 epochs, no penalty, "
        "raw features, as in the paper; 'converged': the optimum under the penalty, classes "
        "balanced, so that a softmax is a posterior under equal priors",
    )


class ShiftSection(Section):
    """Which shifts of proportions are more than chance, and which are substantial."""

    draws: int = Field(
        default=10_000,
        ge=10_000,
        multiple_of=10_000,
        description="draws of the null of each shift; ten times as many where p is below 0.001",
    )
    tau: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="a shift is substantial if more than this share of the protein moved (total "
        "variation)",
    )
    min_cells: int = Field(
        default=20, ge=2, description="proteins with fewer cells are not tested, which is said"
    )
    false_discovery_rate: float = Field(
        default=0.05, gt=0, lt=1, description="of the proteins that are called shifted"
    )
    corrected_draws: int = Field(
        default=200, ge=40, description="draws of the interval of a corrected proportion"
    )


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


class RunConfig(Section):
    """A run: screen, store, seed, settings, models, and the two experiments."""

    store: str = Field(
        default="results.zarr", min_length=1, description="the run store: results are written there"
    )
    seed: int = Field(default=0, ge=0, description="of donors, draws and folds")
    settings: tuple[str, ...] = Field(
        default=PAPER_SETTINGS,
        description="background settings; controls: " + ", ".join(CONTROL_SETTINGS),
    )
    shard_cells: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="cells a shard, a multiple of 64; 0: by the screen's size",
    )
    screen: ScreenSection = ScreenSection()
    cells: CellSection = CellSection()
    models: dict[Name, ModelSection] = Field(
        default={"tiny": ModelSection()}, min_length=1, description="embedding models by name"
    )
    donors: DonorSection = DonorSection()
    evaluation: EvaluationSection = EvaluationSection()
    classification: ClassificationSection = ClassificationSection()
    proportions: ProportionSection = ProportionSection()
    shifts: ShiftSection = ShiftSection()
    training: TrainingSection = TrainingSection()

    @field_validator("shard_cells")
    @classmethod
    def _whole_chunks(cls, cells: int) -> int:
        if cells % 64:
            msg = f"shard_cells = {cells}: expected a multiple of 64"
            raise ValueError(msg)
        return cells

    @field_validator("settings")
    @classmethod
    def _original_first(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "original" not in names:
            msg = (
                f"settings = {list(names)}: 'original' is missing; add it, every shift is "
                "measured against it"
            )
            raise ValueError(msg)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            msg = f"settings = {list(names)}: named twice: {', '.join(twice)}"
            raise ValueError(msg)
        return ("original", *(name for name in names if name != "original"))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a run.toml; relative paths in it are taken from its folder.

        Raises
        ------
        ConfigError
            No such file, not TOML, an unknown key (the nearest is named) or a value out of bounds.
        """
        path = Path(path)
        values = read_toml(path, "`bgscale init` writes a run.toml")
        return cls.from_dict(values, origin=str(path)).anchored(path.parent)

    def anchored(self, folder: Path) -> Self:
        """Return the config with its relative paths taken from `folder`."""

        def at(path: str) -> str:
            return str(folder / path) if path and "://" not in path else path

        screen = self.screen.model_copy(
            update={"path": at(self.screen.path), "plate_map": at(self.screen.plate_map)}
        )
        models = {
            name: model.model_copy(update={"weights": at(model.weights), "spec": at(model.spec)})
            for name, model in self.models.items()
        }
        training = self.training.model_copy(update={"start": at(self.training.start)})
        return self.model_copy(
            update={
                "store": at(self.store), "screen": screen, "models": models, "training": training
            }
        )  # fmt: skip

    def to_config(self) -> dict[str, Any]:
        """Return the config as plain JSON types."""
        return json.loads(self.model_dump_json())  # type: ignore[no-any-return]


def template(config: RunConfig | None = None) -> str:
    """Return a commented run.toml: every key with its meaning, unit and default."""
    config = config or RunConfig()
    lines = [
        "# A bgscale run: everything that can change a result.",
        "# Paths are relative to this file. Every key is optional; unknown keys are errors.",
        "",
    ]
    tables = []
    for key, field in RunConfig.model_fields.items():
        value = getattr(config, key)
        if isinstance(value, Section):
            tables += ["", *_table(key, value)]
        elif key == "models":
            for name, model in value.items():
                # a bare dot would make a table in a table
                key = as_toml(name) if "." in name else name
                tables += ["", *_table(f"models.{key}", model)]
        else:
            lines += _entry(key, field, value)
    return "\n".join(lines + tables) + "\n"


def _table(name: str, section: Section) -> list[str]:
    lines = [f"# {line}" for line in (type(section).__doc__ or "").splitlines()[:1]]
    lines.append(f"[{name}]")
    for key, field in type(section).model_fields.items():
        lines += _entry(key, field, getattr(section, key))
    return lines


def _entry(key: str, field: FieldInfo, value: object) -> list[str]:
    comment = f"# {field.description}"
    if value != field.default:
        comment += f" (default: {as_toml(field.default)})"
    return [comment, f"{key} = {as_toml(value)}"]
