"""How well a linear SVM tells two localizations apart, pair by pair.

Owns the procedure of experiment 1: the folds, the two solvers (`libsvm`, the published one, and
`exact`, which always converges), and which problems there are. Refuses to own where features come
from and what is made of the accuracies (`bgscale.accuracy`). The one idea: a problem is a matrix of
inner products. It is put together from blocks of classes that pairs share, and serves all folds, so
that the time goes to the solver.
"""

from bgscale.accuracy import accuracy_dataset, neighbour_share, table
from bgscale.evaluate.folds import grouped_folds, published_folds
from bgscale.evaluate.groups import Grouping, Groups, codes_of, grouping
from bgscale.evaluate.pair import SvmScores, svm_accuracy, svm_accuracy_from_gram
from bgscale.evaluate.solvers import FOLDS, MAX_ITERATIONS, PENALTY, TOLERANCE, Solver
from bgscale.evaluate.sweep import PairScores, classify
from bgscale.evaluate.transfer import Conflict, Transferred, conflict, transferred

__all__ = [
    "FOLDS",
    "MAX_ITERATIONS",
    "PENALTY",
    "TOLERANCE",
    "Conflict",
    "Grouping",
    "Groups",
    "PairScores",
    "Solver",
    "SvmScores",
    "Transferred",
    "accuracy_dataset",
    "classify",
    "codes_of",
    "conflict",
    "grouped_folds",
    "grouping",
    "neighbour_share",
    "published_folds",
    "svm_accuracy",
    "svm_accuracy_from_gram",
    "table",
    "transferred",
]
