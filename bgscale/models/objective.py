"""What a step of a fit makes small, and what an epoch is judged by.

Owns which crops are shown, on which backgrounds, and the loss. Refuses to own the weights: `fit.py`
changes them. The one idea: whether an epoch is the best is asked of cells of other fields, and of a
network that is to be invariant also on backgrounds that are not their own.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bgscale.models.batches import Crops, IntArray, augmented
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.invariance import Invariance, Lenders, disagreement, shown, swapped
from bgscale.models.preprocess import preprocess
from bgscale.models.spec import ModelSpec


@dataclass(frozen=True)
class Objective:
    """Crops, those to train on and those held out, and what is asked of them.

    Parameters
    ----------
    data : Crops
    train, held : Lenders
        Cells that are trained on; cells that are held out. Each lend to their own.
    spec : ModelSpec
    invariance : Invariance or None
    seed : int
    """

    data: Crops
    train: Lenders
    held: Lenders
    spec: ModelSpec
    invariance: Invariance | None
    seed: int

    def loss(
        self, network: nn.Module, cells: IntArray, epoch: int, rng: np.random.Generator
    ) -> Tensor:
        """Return the loss of one step, each cell on one background or on two."""
        views = 1
        if self.invariance is None:
            crops, inside, target = self.data.take(cells)
        else:
            views += self.invariance.consistency > 0
            crops, inside, target = shown(
                self.data, cells, self.train, self.invariance, self.spec,
                seed=self.seed, epoch=epoch,
            )  # fmt: skip
        x = augmented(preprocess(crops, inside, self.spec), self.spec, rng, views=views)
        read = network(x)
        loss = cross_entropy(read["logits"], target)
        if self.invariance is not None and views > 1:
            loss = loss + self.invariance.consistency * disagreement(read, self.spec)
        return loss

    def validate(self, model: EmbeddingModel) -> tuple[float | None, float | None]:
        """Return loss and accuracy, means over the classes; None where nothing is held out.

        Where the network is to be invariant, each cell is shown as imaged, and on the background
        of another one that is held out, the same in every epoch.
        """
        rows = np.sort(self.held.rows)
        if not len(rows):
            return None, None
        model.network.eval()
        losses, right = [], []
        batches = np.array_split(rows, -(-len(rows) // model.spec.micro_batch))
        shows = [False] if self.invariance is None else [False, True]
        for batch, swap in itertools.product(batches, shows):
            crops, inside, target = self._on_another(batch) if swap else self.data.take(batch)
            logits = model.forward(crops, inside, "unmasked")["logits"]
            losses.append(cross_entropy(logits, target, reduction="none").cpu().numpy())
            right.append((logits.argmax(1) == target).cpu().numpy())
        targets = self.data.targets[np.concatenate([b for b in batches for _ in shows])]
        _, codes, counts = np.unique(targets, return_inverse=True, return_counts=True)
        weights = 1.0 / (counts[codes] * len(counts))
        return (
            float(np.concatenate(losses).astype(np.float64) @ weights),
            float(np.concatenate(right) @ weights),
        )

    def _on_another(self, cells: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        crops, inside, target = self.data.take(cells)
        donors = self.held.draw(cells, self.seed, "swap/validation")
        lent, _, _ = self.data.take(donors)
        assert inside is not None
        return swapped(crops, inside, lent, self.data.scaling(cells, donors)), inside, target
