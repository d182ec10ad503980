"""scPortrait's own extraction, as `extraction.py` starts it in an environment without bgscale.

    python extraction_peer.py FOLDER

FOLDER holds ``field-N.npz`` with ``image`` (channel, y, x) and ``labels`` (y, x). For each line
that it reads, all fields are done: each is a project of its own, with the labels as the cytosol's;
it is loaded, which is not timed, and then its cells are extracted by one process, without
normalisation and else as by default. The answer is a line of JSON: over all fields the seconds of
the whole call, those of loading images and masks and of the loop over cells, as scPortrait logs
them, and the cells.
``cells-N.npz`` gets which cells of a field those were, and the masks of their crops.

Seconds are of the processor, in scPortrait's log, too.
"""

import json
import shutil
import sys
import time
import timeit
from importlib.metadata import version
from pathlib import Path
from typing import Any

CROP_PX = 64
PACKAGES = ("scportrait", "spatialdata", "h5py", "numpy", "torch")
LOOP_S = "Time taken to extract single cell images"
LOAD_S = "Time taken to transfer data to memory mapped arrays"


def imported() -> None:
    """Import scPortrait, whose torchvision may be built for another torch than is there."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        # extraction calls neither, but torchvision does not load where they are not declared
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_operators"] = operators
    import scportrait  # noqa: F401


def extract(path: Path, folder: Path) -> dict[str, Any]:
    """Extract the cells of one field."""
    import h5py
    import numpy as np
    import pandas as pd
    from scportrait.pipeline.extraction import HDF5CellExtraction
    from scportrait.pipeline.project import Project
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel

    field = np.load(path)
    names = [f"channel_{number}" for number in range(len(field["image"]))]
    image = Image2DModel.parse(
        field["image"], dims=("c", "y", "x"), c_coords=names, scale_factors=[2, 4, 8]
    )
    labels = Labels2DModel.parse(field["labels"], dims=("y", "x"))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "project").mkdir(parents=True)
    SpatialData(images={"image": image}, labels={"cells": labels}).write(folder / "input.zarr")
    section = {
        "threads": 1, "image_size": CROP_PX, "cache": str(folder), "normalize_output": False,
    }  # fmt: skip
    project = Project(
        str(folder / "project"),
        config_path={"HDF5CellExtraction": section},
        extraction_f=HDF5CellExtraction,
        overwrite=True,
    )
    project.load_input_from_sdata(
        folder / "input.zarr", input_image_name="image", cytosol_segmentation_name="cells"
    )
    started = time.process_time()
    project.extract()
    whole = time.process_time() - started
    (made,) = (folder / "project").rglob("*.h5sc")
    with h5py.File(made) as file:
        cells = file["obs/scportrait_cell_id"][:]
        masks = file["obsm/single_cell_images"][:, 0] > 0.5
    (log,) = (path for path in (folder / "project").rglob("*.csv") if "benchm" in path.name)
    np.savez(path.with_name(path.name.replace("field", "cells")), cell=cells, mask=masks)
    logged = pd.read_csv(log).iloc[-1]
    return {
        "whole_s": whole,
        "loop_s": float(logged[LOOP_S]),
        "load_s": float(logged[LOAD_S]),
        "cells": len(cells),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr
    timeit.default_timer = time.process_time
    imported()
    print(json.dumps({name: version(name) for name in PACKAGES}), file=answers, flush=True)
    for _ in sys.stdin:
        fields = sorted(folder.glob("field-*.npz"))
        found = [extract(path, folder / "scportrait") for path in fields]
        total = {key: sum(one[key] for one in found) for key in found[0]}
        print(json.dumps(total), file=answers, flush=True)


if __name__ == "__main__":
    main()
