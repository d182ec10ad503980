"""A run: a screen, a store and a config; planned, executed, looked at."""

from bgscale.run.outcome import Outcome, outcome, versions
from bgscale.run.plan import StagePlan
from bgscale.run.run import Run
from bgscale.run.status import status
from bgscale.run.training import train_model

__all__ = ["Outcome", "Run", "StagePlan", "outcome", "status", "train_model", "versions"]
