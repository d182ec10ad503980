"""A run: a screen, a store and a config; planned, executed, looked at."""

from bgscale.run.outcome import Outcome, outcome, status, versions
from bgscale.run.run import Run, StagePlan
from bgscale.run.training import train_model

__all__ = ["Outcome", "Run", "StagePlan", "outcome", "status", "train_model", "versions"]
