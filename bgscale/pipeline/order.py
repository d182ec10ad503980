"""The stages so far: each is named by what it depends on, then added in its place.

A stage's *token* is a hash of everything upstream that can change what it writes: a changed
classifier redoes the classifiers and what follows, not the embeddings. Two hashes more say why a
token is another one. The *recipe* is the config's part: the parameters of the stage and of all
before it. *Inputs* are what the stage takes from outside the run: pixels, the plate map. Where both
are as before, more or other cells have come from the stages before, and the stage is made anew
without asking.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bgscale.pipeline.stage import VERSIONS, Stage
from bgscale.stages import cells
from bgscale.stages.job import Job


@dataclass(frozen=True)
class Growth:
    """What earlier runs of a store leave to later ones.

    Parameters
    ----------
    drawn : dict of str to str
        Token of each plate that the donor bank was drawn from; empty: it is drawn from all.
    proteins : int
        How many proteins there were then.
    attempts : dict of str to int
        How often what failed on a plate, or the lost units of a stage, was retried.
    samples : dict of str to dict
        Checksums of some fields of each plate; see `PlateScreen.samples`.
    """

    drawn: Mapping[str, str] = field(default_factory=dict)
    proteins: int = 0
    attempts: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _nothing(job: Job) -> None:
    """Prepare nothing: the stage's unit creates what it writes."""


def _one(job: Job) -> int:
    return 1


class Order:
    """Stages, in the order they are done.

    Attributes
    ----------
    stages : list of Stage
    """

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._hashes: dict[str, tuple[str, str, str, str]] = {}

    def named(
        self,
        kind: str,
        suffix: str,
        depends: Sequence[str],
        *,
        inputs: Any = None,
        follows: Any = None,
        bound: bool = True,
        **payload: Any,
    ) -> str:
        """Return the name of a stage of this kind, and remember its hashes.

        Asked about, before it is redone: its config (`payload`) and `inputs`. Not asked about:
        `follows`, and what the stages before it have made, as far as `bound` to it.
        """
        name = f"{kind}/{suffix}" if suffix else kind
        before = [self._hashes[d] for d in depends]
        recipe = _hash(kind, VERSIONS[kind], payload, sorted({b[1] for b in before}))
        given = _hash(inputs)
        tokens = [b[0] for b in before] if bound else []
        core = _hash(recipe, given, tokens)
        self._hashes[name] = _hash(core, follows), recipe, given, core
        return name

    def token(self, name: str) -> str:
        """Return the token of a stage that was named."""
        return self._hashes[name][0]

    def add(
        self,
        name: str,
        nodes: tuple[str, ...],
        purpose: str,
        prepare: Callable[[Job], None] = _nothing,
        length: Callable[[Job], int] = _one,
        write_size: Callable[[Job], int] = _one,
    ) -> None:
        """Add a stage that was named; see `Stage`."""
        self.stages.append(
            Stage(name, *self._hashes[name], nodes, length, write_size, prepare, purpose)
        )


def cell_count(job: Job, plate: str) -> int:
    """Return how many cells a plate has; of a screen of plates once it is segmented."""
    if job.screen.kind == "crops":
        return len(job.screen.items)
    return int(job.store.array(f"plates/{plate}/cells/id").shape[0])


def shard_size(job: Job, plate: str) -> int:
    """Return how many cells a shard of a plate has."""
    return cells.shard_cells(job, cell_count(job, plate))


def _hash(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
