"""How much there is to do in each stage, in what its time follows: pixels, crops, proteins, fits.

From shapes alone. A rate is a time by such an amount; both the stages of a plan and those that are
done are counted here, so that what is measured on one screen says what another one takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bgscale.pipeline import Stage
from bgscale.run.estimate import Sizes, bank_slots, proteins_on, sizes_of
from bgscale.stages import cells
from bgscale.stages.embedding import model_of
from bgscale.stages.grid import SAMPLED_CELLS, grid_problems
from bgscale.stages.job import Job

CROPS_OF_A_FIT = 1000
"""Fits of experiment 1 are counted by their crops squared, in squares of so many."""
UNITS = {
    "proteins": "screen",
    "segment": "megapixel",
    "labels": "megapixel",
    "measure": "megapixel",
    "gather": "cell",
    "cut": "cell",
    "ranges": "cell looked at",
    "donors": "cell",
    "bank": "donor",
    "sample": "crop",
    "embed": "crop",
    "grid": "crop",
    "evaluate": "pair of classes",
    "controls": "crop scored",
    "classifiers": "cell fitted and feature",
    "predict": "score and feature",
    "proportions": "protein and setting",
    "reliability": "cell",
    "pooled": "protein and setting",
    "shifts": "protein and setting",
    "discoveries": "protein and setting",
}
"""What the amount of a stage counts, by the stage's kind."""


@dataclass(frozen=True)
class Amount:
    """How much there is to do in a stage.

    Parameters
    ----------
    kind : str
        Of the stage; a key of `UNITS`.
    model : str
        Name of its model; empty: it has none.
    work : float
        In the unit of its kind.
    """

    kind: str
    model: str
    work: float

    @property
    def embeds(self) -> bool:
        """Whether a network runs."""
        return self.kind in ("embed", "grid")


def amounts(job: Job, stages: Sequence[Stage]) -> dict[str, Amount]:
    """Return how much there is to do in each stage."""
    sizes = sizes_of(job)
    return {stage.name: _amount(job, sizes, stage.name) for stage in stages}


def _amount(job: Job, sizes: Sizes, name: str) -> Amount:
    kind, *rest = name.split("/")
    if kind in ("segment", "labels", "measure"):
        return Amount(kind, "", sizes.fields[rest[0]] * sizes.field_px / 1e6)
    if kind in ("gather", "cut"):
        return Amount(kind, "", sizes.cells[rest[0]])
    if kind == "ranges":
        return Amount(kind, "", looked_at(job, sizes, rest[0]))
    if kind in ("embed", "predict"):
        return _of_cells(job, sizes, kind, *rest)
    if rest:
        return _of_model(job, sizes, kind, rest[0])
    classes = len(job.screen.classes)
    work: Mapping[str, float] = {
        "proteins": 1,
        "donors": sum(sizes.cells.values()),
        "bank": classes * sum(bank_slots(job, sizes)),
        "sample": classes * SAMPLED_CELLS * len(job.settings),
    }
    return Amount(kind, "", work[kind])


def looked_at(job: Job, sizes: Sizes, plate: str) -> int:
    """Return how many cells of a plate the ranges of its proteins are taken from, at most."""
    return min(proteins_on(job, plate) * cells.RANGE_CELLS, sizes.cells[plate])


def _of_cells(job: Job, sizes: Sizes, kind: str, model: str, plate: str) -> Amount:
    shown = sizes.cells[plate] * len(job.settings)
    if kind == "embed":
        views = sum(_views(job, model, s) for s in range(len(job.settings)))
        return Amount(kind, model, sizes.cells[plate] * views)
    spec, section = model_of(job.text, model).spec, job.config.proportions
    scores = 2 * shown * (1 + section.replicates)
    return Amount(kind, model, scores * spec.layers[spec.profile_layer])


def _views(job: Job, model: str, setting: int) -> int:
    """Return how many crops of a cell are embedded under a setting: several where averaged."""
    averaged = job.settings[setting].mode == "unmasked"
    return max(job.config.models[model].backgrounds, 1) if averaged else 1


def _of_model(job: Job, sizes: Sizes, kind: str, model: str) -> Amount:
    spec = model_of(job.text, model).spec
    settings, classes, draws = len(job.settings), len(job.screen.classes), bank_slots(job, sizes)[2]
    problems, pairs = len(grid_problems(job)), classes * (classes - 1) // 2
    views = sum(_views(job, model, s) for s, _ in grid_problems(job))
    section, everyone = job.config.proportions, sum(sizes.cells.values())
    fitted = min(classes * section.cells_per_class, everyone)
    fits = section.folds * (1 + section.replicates)
    work: Mapping[str, float] = {
        "grid": views * classes * draws,
        "evaluate": problems * pairs * (draws / CROPS_OF_A_FIT) ** 2,
        "controls": settings * pairs * job.config.classification.folds * draws,
        "classifiers": settings * fitted * fits * spec.layers[spec.profile_layer],
        "reliability": everyone,
    }
    return Amount(kind, model, work.get(kind, len(job.screen.proteins) * settings))
