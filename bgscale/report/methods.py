"""What was done, in words that a methods section can be written from, and every parameter.

Owns the sentences. Every number in them is read from the store, so that a sentence cannot say what
was not done.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from bgscale import __version__
from bgscale.config import ModelSection, RunConfig
from bgscale.lent import ALL
from bgscale.places import spelled
from bgscale.report.gather import Model, Run
from bgscale.report.words import count
from bgscale.sections import as_toml
from bgscale.settings import get_setting
from bgscale.shifted import PUBLISHED_LARGE_KL

CITATION = (
    "Gupta, Moses & Lu (2025), Representation Learning Methods for Single-Cell Microscopy are "
    "Confounded by Background Cells. PMLR 311:162-177."
)
_SCALED = (
    "was mapped affinely onto the intensity range (0.1 and 99.9 percentiles by channel and {}) of "
    "the centre cell's protein"
)
REFERENCES = (
    CITATION,
    "Efron & Stein (1981), The jackknife estimate of variance. Annals of Statistics 9:586-596.",
    "Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression "
    "in microarray experiments. Statistical Applications in Genetics and Molecular Biology 3:3.",
    "Benjamini & Hochberg (1995), Controlling the false discovery rate. JRSS B 57:289-300.",
)


class Paragraph(NamedTuple):
    """A paragraph of the methods, with its heading."""

    heading: str
    text: str


class Parameter(NamedTuple):
    """A key of the run's config, its value as TOML, and what it means."""

    key: str
    value: str
    meaning: str


def methods(run: Run, models: Sequence[Model], counts: Mapping[str, int]) -> list[Paragraph]:
    """Return the methods in words.

    Parameters
    ----------
    run : Run
    models : sequence of Model
    counts : dict of str to int
        `cells`, `usable`, `fields`, `proteins`, `plates`, and `centres` (crops a class, 0: none).
    """
    config = run.config
    return [
        Paragraph("Cells", _cells(run, counts)),
        Paragraph("Background settings", _settings(run)),
        *(Paragraph(f"Model {one.name}", _model(one) + _averaged(run, one.name)) for one in models),
        Paragraph("Telling localizations apart", _classification(run, models, counts)),
        Paragraph("Proportions of each protein", _proportions(run, models)),
        Paragraph("Tests of shifts", _shifts(config["shifts"])),
        Paragraph("Software", _software(run)),
    ]


def _cells(run: Run, counts: Mapping[str, int]) -> str:
    screen, cells = run.config["screen"], run.config["cells"]
    size = cells["crop_size_px"]
    if run.is_of_plates:
        found = (
            f"label images {cells['labels']!r} of the plates"
            if cells["labels"]
            else f"the segmenter {cells['segmenter']!r}"
        )
        where = (
            f"{count(counts['plates'], 'plate')}, {count(counts['fields'], 'field')}; stacks were "
            f"reduced by z = {screen['z']!r}. Cells were found by {found}; a crop is the {size} by "
            f"{size} pixel window around a cell. Cells nearer than {cells['border_px']} px to the "
            "border of their field, and debris, were set aside. Windows without cells lie at least "
            f"{cells['margin_px']} px from any cell, at most {cells['windows_per_field']} a field."
        )
    else:
        found = (
            f"centre cells were given by the masks {screen['mask']!r}"
            if screen["mask"]
            else f"centre cells were found by the segmenter {cells['segmenter']!r}"
        )
        where = f"single-cell crops that were cut before; {found}."
    channels = ", ".join(
        f"{role} = {screen[role]!r}" for role in ("protein", "cytosol", "nucleus") if screen[role]
    )
    limited = []
    if screen["limit"]:
        limited.append(f"a first look of at most {screen['limit']:,} fields or crops")
    if screen["proteins"]:
        limited.append(f"{len(screen['proteins'])} chosen proteins alone")
    if run.config["evaluation"]["fields"]:
        limited.append(f"fields {', '.join(run.config['evaluation']['fields'])} alone")
    only = f" Only part of the screen was taken: {'; '.join(limited)}." if limited else ""
    return (
        f"The screen {_last(screen['path'])!r} has {counts['proteins']:,} proteins and "
        f"{counts['cells']:,} cells, of which {counts['usable']:,} were used: {where} "
        f"The class of a protein is the column {screen['class_column']!r} of the plate map "
        f"{_last(screen['plate_map'])!r}; there are {len(run.classes)} classes. Channels: "
        f"{channels}.{only}"
    )


def _settings(run: Run) -> str:
    donors, screen = run.config["donors"], run.config["screen"]
    each = "; ".join(f"{name}: {get_setting(name).description}" for name in run.settings)
    scaling = {
        "plate": _SCALED.format("plate"),
        "field": _SCALED.format("field"),
        "none": "kept its own intensities",
    }[screen["intensity_scaling"]]
    bank = ""
    if run.has("donors"):
        sizes = run.node("donors")["size"].to_numpy()
        bank = f" (here {int(sizes.min()):,} to {int(sizes.max()):,} a class)"
    several = donors["candidates"] > 1
    taken = (
        f"of {donors['candidates']} drawn donors the one was taken whose own centre cell is "
        "covered best"
        if several
        else "the first donor drawn was taken"
    )
    dealt = ", so that least of their own centre cells stays visible" if several else ""
    own = ", but under self_swap," if "self_swap" in run.settings else ""
    return (
        f"Every cell was held fixed and put on other backgrounds: {each}. A swapped crop is the "
        "donor's crop, with the pixels of the centre cell put in; the donor "
        f"{scaling}. Donors are cells of proteins with one localization, equally many a protein, "
        f"at most {donors['per_class']:,} a class{bank}, and{own} never of the centre cell's own "
        "protein (of another field where its class has no other); where the background is of "
        "another class, that class was drawn uniformly from those that the cell does not have; "
        f"{taken}. Cell-free windows: at most {donors['windows_per_class']:,} a class, as imaged. "
        "All draws are functions of the seed "
        f"{run.config['seed']} and the cell's identity. For telling localizations apart donors of "
        f"each class were dealt to the crops, not drawn, none twice as far as they reach{dealt}."
        f"{_lent(run)}"
    )


def _lent(run: Run) -> str:
    """Return how many donors lent backgrounds, and how often."""
    if run.lent is None:
        return ""
    whole = run.lent[(run.lent["localization"] == ALL) & (run.lent["donors"] > 0)]
    told = [
        f"under {one['setting']} {count(one['donors'], 'donor')} "
        f"({count(one['proteins'], 'protein')}, {count(one['fields'], 'field')}) to "
        f"{count(one['cells'], 'cell')}, {one['median_uses']:g} times each in the median, at most "
        f"{one['most_uses']:,}"
        for one in whole.to_dict("records")
    ]
    return f" Backgrounds were lent by donors: {'; '.join(told)}." if told else ""


def _model(model: Model) -> str:
    spec, engine = model.spec, model.engine
    if not spec:
        return "No cell was embedded yet."
    weights = (
        "THE WEIGHTS ARE RANDOM: the figures say nothing of a trained model"
        if model.random_weights
        else f"weights {spec.get('weights') or 'of the program'}, SHA-256 "
        f"{spec.get('weights_sha256') or 'not known'}"
    )
    layers = ", ".join(f"{name} ({width})" for name, width in spec["layers"].items())
    ran = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in engine.items()) or "not said"
    return (
        f"Architecture {spec['architecture']} ({spec.get('origin') or 'origin not said'}; licence "
        f"{spec.get('licence') or 'not said'}); {weights}. Channels {', '.join(spec['channels'])}, "
        f"{spec['input_size_px']} px, preprocessing {' > '.join(spec['preprocess'])}, masked crops "
        f"{' > '.join(spec['masked_preprocess'])}. Layers read: {layers}; pooling over space "
        f"{spec['pooling']}, after {spec['tap']}; {spec['classification_layer']!r} tells "
        f"localizations apart, {spec['profile_layer']!r} gives proportions. Run by: {ran}."
    )


def _averaged(run: Run, name: str) -> str:
    """Return what is said of a model that is shown each cell on several backgrounds."""
    # a model, or a key, may be missing from the config of an older store
    backgrounds = run.config["models"].get(name, {}).get("backgrounds", 0)
    if not backgrounds:
        return ""
    return (
        " Under every setting that does not mask, features are the mean over each cell on "
        f"{count(backgrounds, 'background')} of random donors, of every class equally often, "
        "mapped onto the range of the cell's own pixels: of the setting's own background nothing "
        "is read."
    )


def _classification(run: Run, models: Sequence[Model], counts: Mapping[str, int]) -> str:
    section = run.config["classification"]
    n = len(run.classes)
    solver = (
        f"stopped at {section['max_iterations']:,} iterations as published"
        if section["solver"] == "libsvm"
        else "solved to convergence"
    )
    kinds = {
        str(run.tree[f"evaluation/{one.name}"].attrs["groups"])
        for one in models
        if one.table is not None
    } - {"none"}
    grouped = (
        f" Grouped: the same problems with all cells of a {', '.join(sorted(kinds))} in one fold, "
        "each cell told by a classifier that was trained on cells of neither this fold nor its "
        "fold without groups, so that no donor is on both sides."
        if kinds
        else ""
    )
    crops = f"{counts['centres']:,}" if counts["centres"] else f"{section['crops_per_class']:,}"
    return (
        f"For each of the {n * (n - 1) // 2:,} pairs of classes a linear SVM (hinge loss, C = "
        f"{section['penalty']:g}, {solver}) was trained on {crops} crops of each class and tested "
        f"in {section['folds']}-fold stratified cross-validation without shuffling; under a "
        "background of another class, once for each class of the background outside the pair. A "
        "class's accuracy is the mean over its pairs, the table's the mean over classes "
        f"({section['aggregate']} aggregate). +/- is 3 standard errors over classes as published; "
        "the 95% interval is a jackknife over classes, each left out as member and as background "
        f"(t).{grouped} Trained on original: classifiers of crops as imaged, tested on the other "
        "backgrounds. Conflict: each class on the other's background."
    )


def _proportions(run: Run, models: Sequence[Model]) -> str:
    section = run.config["proportions"]
    fit = (
        "as published (Adam, learning rate 1e-3, batches of 128, 5 epochs, no penalty)"
        if section["hyperparameters"] == "published"
        else "to the optimum of the cross entropy, classes balanced, features standardised, with a "
        f"ridge penalty of {section['penalty']:g}"
    )
    return (
        "Multinomial logistic regression on single-cell features of proteins with one localization "
        f"(at most {section['cells_per_class']:,} cells a class), fitted {fit}. Proteins are dealt "
        f"to {section['folds']} folds by localization, and each is scored by the classifier that "
        f"has not seen it.{_by_field(run, models)} A protein's proportions are the mean softmax of "
        "its cells. Fixed: fitted on original and applied under every setting; matched: fitted and "
        f"applied within a setting. {section['replicates']} replicates with Poisson-reweighted "
        "training proteins give the classifier's share of the error of shifts and of corrected "
        "proportions; the interval of a mean softmax is that of fresh fields under the same "
        "classifiers."
    )


def _by_field(run: Run, models: Sequence[Model]) -> str:
    """Return what is said of localizations with fewer proteins than folds."""
    nodes = [f"classifiers/{one.name}" for one in models]
    attrs = next((run.tree[node].attrs for node in nodes if run.has(node)), {})
    few = list(attrs.get("classes_dealt_by_field", []))
    if not few:
        return ""
    these = "all localizations" if len(few) == len(run.classes) else ", ".join(few)
    return (
        f" Of {these}, which have fewer proteins than there are folds, fields were dealt instead: "
        "a cell is scored by the classifier that has not seen its field, but may have seen other "
        "fields of its protein."
    )


def _shifts(section: Mapping[str, Any]) -> str:
    return (
        "A protein's shift under a setting is KL(original || setting) of its proportions, in nats, "
        f"of the same cells, both normalised and clipped at 1e-10. Its null is {section['draws']:,}"
        " draws (ten times as many where p < 0.001) of a multivariate t in which nothing moved, "
        "with the variance within and between fields, moderated over proteins, and that of the "
        "classifier: it carries the same upward bias as the divergence. Significant: q (Benjamini "
        f"and Hochberg, over the proteins of a setting) of at most "
        f"{section['false_discovery_rate']:g}. Substantial: the same test against a shift of "
        f"{section['tau']:g} in total variation. Proteins with fewer than {section['min_cells']} "
        "cells were not tested. Intervals are of 95%. Beside the tests stands the share of "
        f"proteins with KL above {PUBLISHED_LARGE_KL} nats (mean and one standard deviation of the "
        "1,531 published), which is no test."
    )


def _software(run: Run) -> str:
    made = ", ".join(f"{name} {version}" for name, version in run.attrs["versions"].items())
    # the first stage of each plate reads it; what is of no plate reads the plate map
    read: dict[str, str] = {}
    for name, entry in run.attrs["stages"].items():
        plate = name.rpartition("/")[2]
        read.setdefault(plate if plate in run.plates else "plate map", entry["inputs"])
    plates = ", ".join(f"{name} {value}" for name, value in read.items())
    return (
        f"The run was made with {made}; this page with bgscale {__version__}. Seed "
        f"{run.config['seed']}. Identity of what was read (hashes): {plates}."
    )


def parameters(config: Mapping[str, Any]) -> list[Parameter]:
    """Return every key of the run's config with its value and its meaning."""
    return list(_parameters(RunConfig, config, ""))


def _parameters(
    section: type[BaseModel], values: Mapping[str, Any], prefix: str
) -> Iterator[Parameter]:
    for name, value in values.items():
        if not prefix and name == "models":
            for model, own in value.items():
                yield from _parameters(ModelSection, own, f"models.{model}.")
            continue
        field = section.model_fields.get(name)
        if field is None:
            yield Parameter(prefix + name, as_toml(value), "")
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, Mapping):
            yield from _parameters(inner, value, f"{prefix}{name}.")
        else:
            shown = _last(value) if name in _PATHS else value
            yield Parameter(prefix + name, as_toml(shown), field.description or "")


_PATHS = ("path", "plate_map", "weights", "store", "spec")
"""Keys whose folders say whose machine it was, and nothing else."""


def _last(path: str) -> str:
    """Return the last part of a path."""
    return spelled(path).rpartition("/")[2] if path else path
