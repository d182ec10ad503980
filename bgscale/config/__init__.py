"""The run config: everything that can change a result, and nothing that cannot.

One set of classes is the check, the defaults and the documentation: `bgscale init` writes the
commented TOML from the field descriptions. Where and on how many workers a run happens
belongs to the cluster profile, not here.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator
from pydantic.fields import FieldInfo

from bgscale.config.cells import CellSection, DonorSection, ScreenSection
from bgscale.config.experiments import (
    ClassificationSection,
    EvaluationSection,
    ProportionSection,
    ShiftSection,
)
from bgscale.config.models import ModelSection, TrainingSection
from bgscale.sections import Section, as_toml, read_toml

__all__ = [
    "CONTROL_SETTINGS",
    "PAPER_SETTINGS",
    "CellSection",
    "ClassificationSection",
    "DonorSection",
    "EvaluationSection",
    "ModelSection",
    "ProportionSection",
    "RunConfig",
    "ScreenSection",
    "ShiftSection",
    "TrainingSection",
    "template",
]

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
