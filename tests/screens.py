"""Small simulated screens and their configs, for tests of the whole flow."""

from pathlib import Path
from typing import Any

from bgscale.config import RunConfig
from bgscale.simulate import ScreenSpec, write_crops, write_plates

LOCALIZATIONS = ("cell periphery", "cytoplasm", "nucleus", "vacuolar membrane")

SMALL = {
    "localizations": LOCALIZATIONS,
    "proteins_per_localization": 2,
    "mixed_proteins": 2,
    "fields_per_protein": 2,
    "cells_per_field": 14,
    "field_size_px": 256,
}


def write_screen(folder: Path, **changes: Any) -> Path:
    """Write a small crops screen with masks as a zip; return its folder."""
    return write_crops(ScreenSpec(**{**SMALL, **changes}), folder, zipped=True)


def screen_section(screen: Path) -> dict[str, Any]:
    """Return what a config says of a screen of `write_screen`."""
    return {
        "path": str(screen / "crops.zip"),
        "plate_map": str(screen / "platemap.csv"),
        "mask": "mask",
    }


def config_of(screen: Path, folder: Path, /, **changes: Any) -> RunConfig:
    """Return a quick config for a screen of `write_screen`; `changes` replace whole sections."""
    values: dict[str, Any] = {
        "store": str(folder / "results.zarr"),
        "settings": ["original", "same", "different", "cell_free", "masked"],
        "shard_cells": 64,
        "screen": screen_section(screen),
        "models": {"tiny": {"seed": 1}},
        "donors": {"per_class": 24, "windows_per_class": 24, "min_pool": 5},
        "classification": {"crops_per_class": 20},
        "proportions": {"folds": 3, "replicates": 2},
    }
    return RunConfig.from_dict({**values, **changes})


PLATES = {
    "localizations": ("cytoplasm", "nucleus", "mitochondrion"),
    "proteins_per_localization": 2,
    "mixed_proteins": 2,
    "fields_per_protein": 2,
    "cells_per_field": 22,
    "field_size_px": 288,
    "plates": 2,
}


def write_plate_screen(folder: Path, **changes: Any) -> Path:
    """Write a small screen of two plates; return its folder."""
    return write_plates(ScreenSpec(**{**PLATES, **changes}), folder)


def plates_config(screen: Path, folder: Path, /, **changes: Any) -> RunConfig:
    """Return a quick config for a screen of `write_plate_screen`."""
    section = {
        "path": str(screen / "plates"),
        "plate_map": str(screen / "platemap.csv"),
        "nucleus": "nuc",
    }
    section |= changes.pop("screen", {})
    return config_of(screen, folder, screen=section, **changes)
