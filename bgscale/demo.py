"""The demo: a simulated screen with known truth, through everything, in minutes on a laptop."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bgscale import plot
from bgscale.config import RunConfig, template
from bgscale.distribute.cluster import connect
from bgscale.errors import InputError
from bgscale.progress import Narrator
from bgscale.quality import summarise
from bgscale.report import write
from bgscale.results import open_results
from bgscale.run import Outcome, Run, train_model
from bgscale.shifted import shift_line, shift_shares
from bgscale.simulate import ScreenSpec, write_crops, write_plates
from bgscale.simulate.spec import SAME_STRAIN
from bgscale.summary import field_table, most_shifted, node, shift_summary, tables
from bgscale.table import format_table

MODEL = "tiny"


def demo_screen(seed: int, neighbours: str) -> ScreenSpec:
    """Return what the demo simulates: 15 localizations, three proteins each, and 15 mixed ones."""
    return ScreenSpec(
        seed=seed,
        neighbours=neighbours,
        plates=2 if neighbours == SAME_STRAIN else 1,
        proteins_per_localization=3,
        mixed_proteins=15,
        fields_per_protein=3,
        cells_per_field=36,
        field_size_px=400,
        diffuse=0.2,
    )


def demo_config(spec: ScreenSpec) -> RunConfig:
    """Return the demo's run config; paths are relative to its folder.

    Real wells are plates. A mixed culture, in which no well has a protein of its own, is crops; a
    protein's range of intensities is not that of its neighbours there, so donors are not scaled.
    """
    screen: dict[str, Any] = {"plate_map": "screen/platemap.csv", "nucleus": "nuc"}
    if spec.neighbours == SAME_STRAIN:
        screen |= {"path": "screen/plates"}
    else:
        screen |= {
            "path": "screen/crops.zip",
            "pattern": "bgscale",
            "mask": "mask",
            "pixel_size_um": spec.pixel_size_um,
            "intensity_scaling": "none",
        }
    return RunConfig.from_dict(
        {
            "seed": spec.seed,
            "screen": screen,
            "models": {MODEL: {"architecture": "tiny", "weights": f"{MODEL}.safetensors"}},
            "donors": {"windows_per_class": 200},
            "classification": {"crops_per_class": 100},
            "proportions": {"replicates": 10},
            "training": {"seed": spec.seed, "epochs": 20},
        },
        origin="demo",
    )


def run_demo(
    folder: Path, *, seed: int, neighbours: str, cluster: str, tell: Callable[[str], None]
) -> Outcome:
    """Simulate, train, run, print, plot; what is done already is not done again.

    Parameters
    ----------
    folder : path
        Gets ``screen/``, ``run.toml``, the weights, ``results.zarr``, figures and the
        report.
    seed : int
    neighbours : {"same_strain", "independent"}
    cluster : str
        As `bgscale.connect` takes it.
    tell : callable
        Takes each line of what is said.
    """
    spec = demo_screen(seed, neighbours)
    folder.mkdir(parents=True, exist_ok=True)
    run_toml = folder / "run.toml"
    if not run_toml.exists():
        run_toml.write_text(template(demo_config(spec)), encoding="utf-8")
    store = folder / "results.zarr"
    with Narrator.of_store(str(store)) as narrator:
        simulate(spec, folder / "screen", narrator)
    config = RunConfig.from_toml(run_toml)
    with connect(cluster, tell=tell) as client:
        if not Path(config.models[MODEL].weights).exists():
            with Narrator.of_store(str(store)) as narrator:
                trained = train_model(config, client, listener=narrator)
            tell(str(trained))
        with Narrator.of_store(str(store)) as narrator:
            outcome = Run.from_config(config).execute(client, listener=narrator)
    _report(folder, store, tell)
    return outcome


def simulate(spec: ScreenSpec, folder: Path, narrator: Narrator) -> None:
    """Write the screen as a whole, unless it is there with the same spec."""
    text = json.dumps(asdict(spec), indent=1)
    if folder.exists():
        if (folder / "spec.json").read_text(encoding="utf-8") == text:
            return
        msg = f"{folder} is the demo of another seed or kind: name another --folder"
        raise InputError(msg)
    part = folder.with_name(folder.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    with narrator.task("simulate a screen with known truth") as progress:
        if spec.neighbours == SAME_STRAIN:
            write_plates(spec, part, progress=progress)
        else:
            write_crops(spec, part, zipped=True, progress=progress)
    (part / "spec.json").write_text(text, encoding="utf-8")
    part.rename(folder)


def _report(folder: Path, store: Path, tell: Callable[[str], None]) -> None:
    tree = open_results(store)
    print(format_table(tables(store), title="Experiment 1: are two localizations told apart?"))
    print("Experiment 2: predicted proportions, KL(original || setting) in nats over proteins")
    rows = {
        (setting, fit): shift_summary(tree, MODEL, setting=setting, fit=fit)
        for setting in RunConfig().settings[1:]
        for fit in ("fixed", "matched")
    }
    summaries = pd.DataFrame(rows).T[["n", "mean", "q25", "median", "q75", "max"]]
    print(summaries.rename_axis(["setting", "classifier"]).round(3).to_string(), "\n")
    for fit, setting in (("fixed", "different"), ("matched", "masked")):
        print(f"most shifted proteins, {setting} against original, {fit} classifier")
        shifted = most_shifted(tree, MODEL, setting=setting, fit=fit)
        with pd.option_context("display.width", 160, "display.max_columns", None):
            print(shifted.round(3).to_string(index=False))
        print(shift_line(shift_shares(tree, MODEL, setting=setting, fit=fit)), "\n")
    for line in planted(tree, folder / "screen" / "truth" / "proportions.csv"):
        print(line)
    figures: dict[str, Any] = {
        "settings.png": plot.settings(tree),
        "accuracy.png": plot.accuracy(tree, model=MODEL),
    }
    if (folder / "screen" / "plates").is_dir():
        figures["quality.png"] = plot.quality(summarise(field_table(store)))
    for name, figure in figures.items():
        plot.save(figure, folder / name)
    page = write(store, folder / "report.html")
    tell("")
    tell(f"screen     {folder / 'screen'} (images, plate map, planted truth)")
    tell(f"results    {store}: bgscale.open_results({str(store)!r})")
    for name in figures:
        tell(f"figure     {folder / name}")
    tell(f"report     {page}: open it in a browser")
    tell(f"config     {folder / 'run.toml'}: edit it, then bgscale run {folder / 'run.toml'}")


def planted_distances(tree: xr.DataTree, truth: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Return how far predicted proportions of two-label proteins are from the planted ones.

    Parameters
    ----------
    tree : DataTree
    truth : DataFrame
        ``proportions.csv`` of the simulator: protein, localization, proportion.
    setting : str

    Returns
    -------
    DataFrame
        By protein, the total variation distance of: the mean softmax, the proportions corrected by
        the confusion matrix, the most likely mixture, the best single localization, and the class
        prior (all equal).
    """
    made = node(tree, "proportions", MODEL).sel(fit="matched", setting=setting)
    corrected = node(tree, "shifts", MODEL).sel(fit="matched", setting=setting)["corrected"]
    classes = [str(c) for c in made["localization"].values]
    planted_shares = truth.pivot(index="protein", columns="localization", values="proportion")
    planted_shares = planted_shares.reindex(columns=classes).fillna(0.0)
    two = planted_shares.index[(planted_shares > 0).sum(axis=1) == 2]
    rows = {}
    for protein in two:
        share = planted_shares.loc[protein].to_numpy()
        mean = made["proportion"].sel(protein=protein).to_numpy()
        guesses = {
            "mean softmax": mean,
            "mixture": made["mixture"].sel(protein=protein).to_numpy(),
            "corrected": corrected.sel(protein=protein).to_numpy(),
            "one-hot": np.eye(len(classes))[mean.argmax()],
            "class prior": np.full(len(classes), 1 / len(classes)),
        }
        rows[protein] = {k: float(np.abs(g - share).sum() / 2) for k, g in guesses.items()}
    return pd.DataFrame(rows).T


def planted(tree: xr.DataTree, truth: Path) -> list[str]:
    """Return, as text, how well the planted proportions of two-label proteins are found again."""
    distances = planted_distances(tree, pd.read_csv(truth), "masked")
    if distances.empty:
        return []
    means = ", ".join(f"{name} {value:.3f}" for name, value in distances.mean().items())
    return [
        f"planted proportions of {len(distances)} two-label proteins, mean total variation to the "
        f"truth (masked): {means}"
    ]
