"""The plan of a run: what is left to do, what it will write, whether that fits, what to know."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.units import Unit
from bgscale.errors import InputError, StoreMismatchError
from bgscale.pipeline import Stage
from bgscale.places.space import human
from bgscale.run.amounts import Amount, amounts
from bgscale.run.estimate import CELLS_PER_MEGAPIXEL, PROCESS_BYTES, Need, Sizes, needs
from bgscale.stages.embedding import model_attrs, model_of
from bgscale.stages.job import Job

CERTAIN = 0.7
"""Of what is estimated to be written so much is sure; a disk with less room is refused."""


@dataclass(frozen=True)
class StagePlan:
    """What is left to do of one stage.

    Parameters
    ----------
    stage, purpose : str
    units : int or None
        None where it is known only when an earlier stage is complete.
    done : int
    need : Need
        What the whole stage needs, estimated.
    amount : Amount
        How much there is to do in the whole stage.
    length : int
        What its units cut into pieces; 0 where that is not known yet.
    finished : tuple of Unit
        The units that are done.
    """

    stage: str
    purpose: str
    units: int | None
    done: int
    need: Need
    amount: Amount
    length: int = 0
    finished: tuple[Unit, ...] = ()

    @property
    def left(self) -> float:
        """Share of the stage that is left to do."""
        return 1 - self.done / max(self.need.units if self.units is None else self.units, 1)


def plan_stages(
    job: Job, stages: Sequence[Stage], made: Mapping[str, Mapping[str, Any]], ledger: Ledger
) -> list[StagePlan]:
    """Return what is left to do; computes nothing.

    Parameters
    ----------
    job : Job
    stages : sequence of Stage
    made : mapping
        Token and more of each stage that the store holds, by name.
    ledger : Ledger
    """
    needed, work, plans = needs(job, stages), amounts(job, stages), []
    for stage in stages:
        found: list[Unit] | None = None
        done: set[Unit] = set()
        with suppress(OSError, StoreMismatchError):
            found = stage.units(job)
            if made.get(stage.name, {}).get("token") == stage.token:
                done = ledger.done(found)
        plans.append(
            StagePlan(
                stage.name,
                stage.purpose,
                None if found is None else len(found),
                len(done),
                needed[stage.name],
                work[stage.name],
                found[-1].stop if found else 0,
                tuple(unit for unit in found or () if unit in done),
            )
        )
    return plans


def left_to_write(plan: Sequence[StagePlan]) -> int:
    """Return how many bytes will be written at least."""
    return int(CERTAIN * sum(item.need.disk_bytes * item.left for item in plan))


def notices(job: Job, later: Sequence[str]) -> list[str]:
    """Return what a reader of the results must know before they are made.

    `later` are plates that came after the donors were drawn.
    """
    found = []
    if later:
        found.append(
            f"donors were drawn before plates {', '.join(later)} came, and stay; --redraw "
            "draws them from all plates"
        )
    if job.screen.kind == "plates" and not job.pixel_size_um:
        found.append(
            "the plates do not say how large a pixel is: cells are looked for as if it were "
            "0.2 um; set screen.pixel_size_um"
        )
    for name in job.config.models:
        attrs = model_attrs(job, model_of(job.text, name))
        if attrs["random_weights"]:
            found.append(
                f"model {name!r} has random weights: its figures say nothing of a trained one"
            )
        if attrs["crops_enlarged_by"] != 1:
            factor = attrs["crops_enlarged_by"]
            found.append(f"model {name!r}: crops are enlarged {factor:.3g} times for it")
    return found


def check_memory(plan: Sequence[StagePlan], limit: float | None) -> None:
    """Raise where a unit needs more memory than a thread of the workers has.

    Parameters
    ----------
    plan : sequence of StagePlan
    limit : float, optional
        Bytes a thread of the smallest worker; None is not limited.

    Raises
    ------
    InputError
        Names the unit that needs most.
    """
    todo = [item for item in plan if item.left > 0]
    if limit is None or not todo:
        return
    largest = max(todo, key=lambda item: item.need.unit_bytes)
    needed = PROCESS_BYTES + largest.need.unit_bytes
    if needed > limit:
        msg = (
            f"a unit of {largest.stage} needs about {human(needed)} of memory, the workers have "
            f"{human(limit)} a thread: give them more (or fewer threads), or make the units "
            "smaller (shard_cells, donors.per_class, donors.windows_per_class)"
        )
        raise InputError(msg)


def describe(plan: Sequence[StagePlan], sizes: Sizes, hours: Mapping[str, str]) -> str:
    """Return the plan as a table.

    Parameters
    ----------
    plan : sequence of StagePlan
    sizes : Sizes
    hours : mapping of str to str
        What each stage still takes here, as text.
    """
    lines = [
        f"{'stage':<28}{'units done':>16}{'writes':>9}{'files':>8}{'memory':>9}{'hours':>8}  what"
    ]
    for item in plan:
        count = f"~{item.need.units}" if item.units is None else str(item.units)
        need = item.need
        lines.append(
            f"{item.stage:<28}{item.done:>7} of {count:>5}{human(need.disk_bytes):>9}"
            f"{need.files:>8}{human(need.unit_bytes):>9}"
            f"{hours[item.stage]:>8}  {item.purpose}"
        )
    files, disk = (sum(getattr(i.need, key) for i in plan) for key in ("files", "disk_bytes"))
    cells = f"{sum(sizes.cells.values()):,} cells"
    said = f"assuming {CELLS_PER_MEGAPIXEL} a megapixel: {cells}" if sizes.assumed else cells
    lines.append("")
    lines.append(f"in all about {human(disk)} in {files:,} files ({said}); memory is of one unit,")
    lines.append(f"beside {human(PROCESS_BYTES)} of the process")
    return "\n".join(lines)
