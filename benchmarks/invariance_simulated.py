"""A screen with known truth, for `invariance.py`: what wrong masks and invariance do to answers.

Crops with their true masks, and models trained on the screen's own cells, plain and otherwise.
With the true masks both experiments; with masks that are too large, too small or merged with a
neighbour, in evaluation alone, the accuracies.
"""

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import tifffile
import torch
from scipy import ndimage

from bgscale import open_results
from bgscale.config import PAPER_SETTINGS, RunConfig
from bgscale.run import Run, train_model
from bgscale.shifted import shift_shares
from bgscale.simulate import ScreenSpec, write_crops
from bgscale.summary import tables

LOCALIZATIONS = (
    "cell periphery", "cytoplasm", "mitochondrion", "nucleus", "vacuolar membrane", "vacuole",
)  # fmt: skip
CENTRE, OTHER = 1, 2
MODEL = "tiny"
ANSWERS = (
    "shifted under different", "proportions off, original", "proportions off, different",
    "proportions off, masked",
)  # fmt: skip
Rows: TypeAlias = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
SETTINGS = (*PAPER_SETTINGS, "background_only")


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return a mask whose centre cell is so many pixels larger, or smaller where negative."""
    inside = mask == CENTRE
    if pixels > 0:
        return np.where(ndimage.binary_dilation(inside, iterations=pixels), CENTRE, mask)
    less = ndimage.binary_erosion(inside, iterations=-pixels)
    return mask if not less.any() else np.where(inside & ~less, 0, mask)


def merged(mask: np.ndarray) -> np.ndarray:
    """Return a mask whose centre cell has taken in the other cell nearest to it."""
    parts, count = ndimage.label(mask == OTHER)
    if not count:
        return mask
    away = ndimage.distance_transform_edt(mask != CENTRE)
    nearest = 1 + int(np.argmin(ndimage.minimum(away, parts, range(1, count + 1))))
    return np.where(parts == nearest, CENTRE, mask)


WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "3 px too large": lambda mask: grown(mask, 3),
    "3 px too small": lambda mask: grown(mask, -3),
    "merged with a neighbour": merged,
}


def simulated(rows: Rows, seed: int) -> dict[str, Any]:
    """Return, by masks and model, what was found.

    Parameters
    ----------
    rows : mapping of str to (mapping, mapping)
        By name of the model: keys of ``[training]``, and of its section in ``[models]``.
    seed : int
        Of the screen and of what is trained.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return _simulated(Path(folder), rows, seed)


def _simulated(folder: Path, rows: Rows, seed: int) -> dict[str, Any]:
    spec = ScreenSpec(
        seed=seed, localizations=LOCALIZATIONS, proteins_per_localization=3, mixed_proteins=6,
        fields_per_protein=3, cells_per_field=30, field_size_px=350, diffuse=0.2,
    )  # fmt: skip
    write_crops(spec, folder / "screen", zipped=True)

    def config_of(store: str, name: str, screen: str = "screen") -> RunConfig:
        training, model = rows[name]
        weights = str(folder / f"{name}.safetensors")
        return RunConfig.from_dict(
            {
                "store": str(folder / store),
                "seed": seed,
                "settings": list(SETTINGS),
                "screen": {
                    "path": str(folder / screen / "crops.zip"), "mask": "mask",
                    "plate_map": str(folder / "screen" / "platemap.csv"),
                },
                "models": {MODEL: {"weights": weights, **model}},
                "donors": {"windows_per_class": 120},
                "classification": {"crops_per_class": 100},
                "proportions": {"replicates": 5},
                "training": {"threads": 1, "epochs": 20, "seed": seed, **training},
            }
        )  # fmt: skip

    found: dict[str, Any] = {}
    for name in rows:
        config = config_of(f"{name}.zarr", name)
        train_model(config)
        Run.from_config(config).execute()
        found[f"true masks, {name}"] = _accuracies(config) | _answers(config, folder)
        _say(seed, f"true masks, {name}", found)
    return found | wrong_masks(folder, list(rows), config_of)


def wrong_masks(
    folder: Path, names: Sequence[str], config_of: Callable[[str, str, str], RunConfig]
) -> dict[str, Any]:
    """Return accuracies of the models where masks are wrong, by masks and model."""
    found = {}
    masks = open_results(folder / f"{names[0]}.zarr")["plates/crops/crops"]["mask"].to_numpy()
    known = {(mask == CENTRE).tobytes(): mask for mask in masks}
    for number, (what, change) in enumerate(WRONG.items()):
        wrong = folder / f"wrong{number}"
        wrong.mkdir()
        rewrite(folder / "screen" / "crops.zip", wrong / "crops.zip", known, change)
        for name in names:
            config = config_of(f"wrong{number}-{name}.zarr", name, wrong.name)
            Run.from_config(config).execute(until="evaluate")
            found[f"{what}, {name}"] = _accuracies(config)
            _say(config.seed, f"{what}, {name}", found)
    return found


def rewrite(
    source: Path,
    target: Path,
    known: dict[bytes, np.ndarray],
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Copy an archive of crops with other masks; `known` has all cells of a crop by its own."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("_mask.tif"):
                inside = tifffile.imread(io.BytesIO(data)) > 0
                mask = known.get(inside.tobytes(), inside.astype(np.uint8))
                buffer = io.BytesIO()
                tifffile.imwrite(buffer, np.where(change(mask) == CENTRE, 255, 0).astype(np.uint8))
                data = buffer.getvalue()
            new.writestr(name, data)


def _say(seed: int, name: str, found: dict[str, Any]) -> None:
    values = (f"{key} {value:.3f}" for key, value in found[name].items())
    print(seed, f"{name}:", ", ".join(values), flush=True)


def _accuracies(config: RunConfig) -> dict[str, float]:
    table = tables(config.store)[MODEL]
    made = {str(s): float(table["mean"].sel(setting=s)) for s in SETTINGS}
    return made | {"gap": made["same"] - made["different"]}


def _answers(config: RunConfig, folder: Path) -> dict[str, float]:
    """Return how many proteins shift, and how far proportions are from those planted."""
    tree = open_results(config.store)
    shares = shift_shares(tree, MODEL, setting="different")
    made = {"shifted under different": float(shares["share_significant_and_substantial"])}
    truth = pd.read_csv(folder / "screen" / "truth" / "proportions.csv").pivot(
        index="protein", columns="localization", values="proportion"
    )
    truth = truth.reindex(columns=list(LOCALIZATIONS)).fillna(0.0)
    two = truth.index[(truth > 0).sum(axis=1) == 2]
    for setting in ("original", "different", "masked"):
        mixture = tree[f"proportions/{MODEL}"].sel(fit="matched", setting=setting)["mixture"]
        mixture = mixture.sel(protein=list(two), localization=list(LOCALIZATIONS)).to_numpy()
        off = np.abs(mixture - truth.loc[two].to_numpy()).sum(1) / 2
        made[f"proportions off, {setting}"] = float(off.mean())
    return made
