"""Of the run config: the two experiments, and on which cells."""

from typing import Literal

from pydantic import Field

from bgscale.sections import Section


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
        description="crops of each class; falls to the smallest class, which is said, and to a "
        "multiple of folds",
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
