"""Proportions: in what share of a protein's cells is it where, under every setting.

Owns the classifier of single cells (folds, fit, training-protein replicates, softmax), the sums
over cells that every proportion, shift and test is derived from, and the distances between two
distributions. It does not own which cells are trained on, when a shift is more than chance, or
where anything is stored.

The one idea: sum first, divide last. A cell's softmax, scored by a classifier that did not see its
protein, enters integer sums by protein and field; blocks of cells are added in any order with the
same bits, and no later question needs a feature or an image again.
"""

from bgscale.proportions.backgrounds import (
    confusion_by_background,
    correct_among_own,
    sum_by_background,
)
from bgscale.proportions.classifier import (
    MAX_ITERATIONS,
    PENALTY,
    REPLICATE_TOLERANCE,
    TOLERANCE,
    Classifier,
    fit_classifier,
    fit_out_of_fold,
    fit_published,
)
from bgscale.proportions.discovery import TESTED, ShiftReason, false_discovery
from bgscale.proportions.distances import (
    KL_FLOOR,
    jensen_shannon,
    kl_divergence,
    summary,
    total_variation,
)
from bgscale.proportions.folds import N_FOLDS, N_REPLICATES, Folds, assign_folds, replicate_weights
from bgscale.proportions.intervals import (
    INTERVAL,
    Confusions,
    corrected_interval,
    gather_confusions,
    logit_interval,
)
from bgscale.proportions.mixture import mixture
from bgscale.proportions.reliability import (
    CONFIDENCE_SCALE,
    DESCRIPTIONS,
    DRAWS,
    N_BINS,
    TOP,
    ReliabilityCounts,
    count_reliability,
    reliability,
    reliability_of,
)
from bgscale.proportions.scoring import (
    Panel,
    panel_of,
    predict,
    predict_out_of_fold,
    score_settings,
    stack,
)
from bgscale.proportions.shifts import Shifts, estimate_shifts, level_variance
from bgscale.proportions.significance import Draws, Tested, assess
from bgscale.proportions.sums import (
    SUM_SCALE,
    Proportions,
    ProportionState,
    accumulate,
    confusion,
    correct_proportions,
    in_units,
)
from bgscale.proportions.variance import (
    Moments,
    Pooled,
    classifier_covariance,
    fit_prior,
    level_moments,
    pool,
    shift_moments,
    variance_factor,
)

__all__ = [
    "CONFIDENCE_SCALE",
    "DESCRIPTIONS",
    "DRAWS",
    "INTERVAL",
    "KL_FLOOR",
    "MAX_ITERATIONS",
    "N_BINS",
    "N_FOLDS",
    "N_REPLICATES",
    "PENALTY",
    "REPLICATE_TOLERANCE",
    "SUM_SCALE",
    "TESTED",
    "TOLERANCE",
    "TOP",
    "Classifier",
    "Confusions",
    "Draws",
    "Folds",
    "Moments",
    "Panel",
    "Pooled",
    "ProportionState",
    "Proportions",
    "ReliabilityCounts",
    "ShiftReason",
    "Shifts",
    "Tested",
    "accumulate",
    "assess",
    "assign_folds",
    "classifier_covariance",
    "confusion",
    "confusion_by_background",
    "correct_among_own",
    "correct_proportions",
    "corrected_interval",
    "count_reliability",
    "estimate_shifts",
    "false_discovery",
    "fit_classifier",
    "fit_out_of_fold",
    "fit_prior",
    "fit_published",
    "gather_confusions",
    "in_units",
    "jensen_shannon",
    "kl_divergence",
    "level_moments",
    "level_variance",
    "logit_interval",
    "mixture",
    "panel_of",
    "pool",
    "predict",
    "predict_out_of_fold",
    "reliability",
    "reliability_of",
    "replicate_weights",
    "score_settings",
    "shift_moments",
    "stack",
    "sum_by_background",
    "summary",
    "total_variation",
    "variance_factor",
]
