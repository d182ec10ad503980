"""Queries: one protein of a store of a million cells, cold and warm, with every file read counted.

    python benchmarks/query.py [--cells 1000000] [--json query.json]

Builds a run store in a temporary folder: plates of 384 wells, each protein in one well of two
plates, cells in the order of the wells, as a run leaves them. Tables of cells, donors, softmax
(random) and shifts have the shapes, chunks and shards of a run; pixels and features are absent,
for no query of proteins or cells reads them. Then, of one protein: `query.cells` of those whose
class has changed, `query.proteins` under all settings, and the command as one types it.

*Cold*: the first answer after the store's files were dropped from the page cache; *warm*: the
median of the answers that follow, in one process that has imported everything. The command's
seconds hold Python's start and all imports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions
from zarr.storage import LocalStore

from bgscale import query
from bgscale.config import RunConfig
from bgscale.draw import cell_ids
from bgscale.results import Store
from bgscale.run import versions

WELLS, CELLS_A_WELL, SHARD, PLATES_OF_PROTEIN, CLASSES = 384, 326, 4096, 2, 15
FITS, SETTINGS = ["fixed", "matched"], ["original", "same", "different", "cell_free", "masked"]
REPETITIONS = 9


def build(folder: Path, cells: int) -> Store:
    """Write a store of about so many cells; return it."""
    store = Store(folder / "results.zarr")
    n_plates = max(PLATES_OF_PROTEIN, round(cells / WELLS / CELLS_A_WELL))
    wells = max(1, round(cells / n_plates / CELLS_A_WELL))
    plates = [f"P{i + 1}" for i in range(n_plates)]
    n_proteins = -(-n_plates * wells // PLATES_OF_PROTEIN)
    names = [f"ORF{i + 1:04d}" for i in range(n_proteins)]
    classes = [f"class {i + 1}" for i in range(CLASSES)]
    config = RunConfig.from_dict(
        {"store": str(store.path), "settings": SETTINGS, "models": {"tiny": {}}}
    )
    store.create({"plates": plates, "stages": {}, "planned": [], "config": config.to_config()})
    k = len(classes)
    store.create_group("proteins", coords={"protein": names, "localization": classes})
    store.create_array(
        "proteins/label", {"protein": n_proteins, "localization": k}, "uint8", chunk={}
    )
    store.write(
        "proteins/label", [(0, n_proteins)], np.eye(k, dtype=np.uint8)[np.arange(n_proteins) % k]
    )
    for i, plate in enumerate(plates):
        # half a turn on: a protein's two wells lie on two plates
        first = (i * wells) % n_proteins
        _plate(store, plate, (first + np.arange(wells)) % n_proteins, names, classes, seed=i)
    _shifts(store, names, classes)
    return store


def _plate(
    store: Store, plate: str, owner: np.ndarray, names: list[str], classes: list[str], *, seed: int
) -> None:
    """Write the tables of a plate whose wells hold these proteins."""
    rng, k = np.random.default_rng(seed), len(classes)
    wells = [f"{'ABCDEFGHIJKLMNOP'[i // 24]}{i % 24 + 1:02d}" for i in range(len(owner))]
    field = np.repeat(np.arange(len(owner)), CELLS_A_WELL)
    n = len(field)
    number = np.tile(np.arange(1, CELLS_A_WELL + 1), len(owner))
    ids = cell_ids(plate, [wells[f] for f in field], ["1"] * n, number)
    node = f"plates/{plate}/cells"
    store.create_group(node, coords={})
    columns = {
        "id": ids,
        "protein": owner[field].astype(np.int32),
        "field": field.astype(np.int32),
        "number": number.astype(np.int64),
        "reason": np.zeros(n, np.uint8),
        "neighbours": rng.integers(0, 6, n).astype(np.int32),
    }
    known = {"protein": names, "field": [f"{plate}/{well}/1" for well in wells]}
    for name, values in columns.items():
        more = {"names": known[name]} if name in known else {}
        store.create_array(
            f"{node}/{name}", {"cell": n}, values.dtype, chunk={"cell": SHARD}, **more
        )
        store.write(f"{node}/{name}", [(0, n)], values)
    node = f"plates/{plate}/embeddings/tiny"
    store.create_group(node, coords={"setting": SETTINGS})
    donors: dict[str, Any] = {
        "donor": rng.integers(1, 2**63, (n, len(SETTINGS))).astype(np.uint64),
        "donor_class": rng.integers(0, k, (n, len(SETTINGS))).astype(np.int16),
        "missing": np.zeros((n, len(SETTINGS)), np.uint8),
    }
    for name, values in donors.items():
        dims = {"cell": n, "setting": len(SETTINGS)}
        store.create_array(
            f"{node}/{name}", dims, values.dtype, chunk={"cell": SHARD}, names=classes
        )
        store.write(f"{node}/{name}", [(0, n)], values)
    node = f"plates/{plate}/predictions/tiny"
    coords = {"fit": FITS, "setting": SETTINGS, "localization": classes}
    store.create_group(node, coords=coords)
    store.create_array(
        f"{node}/probability",
        {"cell": n, "fit": len(FITS), "setting": len(SETTINGS), "localization": k},
        "float32",
        chunk={"cell": 1024, "fit": 1, "setting": 1},
        shard={"cell": SHARD},
        fill=float("nan"),
    )
    for start in range(0, n, SHARD):
        stop = min(start + SHARD, n)
        softmax = rng.random((stop - start, len(FITS), len(SETTINGS), k), np.float32) ** 8
        softmax /= softmax.sum(axis=-1, keepdims=True)
        store.write(f"{node}/probability", [(start, stop)], softmax)


def _shifts(store: Store, names: list[str], classes: list[str]) -> None:
    """Write the shifts of all proteins."""
    rng, node = np.random.default_rng(0), "shifts/tiny"
    coords = {"fit": FITS, "setting": SETTINGS, "protein": names, "localization": classes}
    store.create_group(node, coords=coords)
    dims = {"fit": len(FITS), "setting": len(SETTINGS), "protein": len(names)}
    split = {**dims, "localization": len(classes)}
    values = ("kl", "kl_low", "kl_high", "kl_corrected", "total_variation", "jensen_shannon", "p",
              "q", "q_substantial")  # fmt: skip
    arrays: dict[str, tuple[dict[str, int], Any]] = dict.fromkeys(values, (dims, "float64"))
    arrays |= dict.fromkeys(("n_cells", "n_fields"), (dims, "int64"))
    arrays |= dict.fromkeys(("significant", "substantial", "reason"), (dims, "uint8"))
    arrays["proportion"] = (split, "float64")
    for name, (shape, dtype) in arrays.items():
        more = {"names": ["tested"]} if name == "reason" else {}
        store.create_array(f"{node}/{name}", shape, dtype, chunk={"protein": 64}, **more)
        made = rng.random(tuple(shape.values())).astype(dtype)
        store.write(f"{node}/{name}", [(0, n) for n in tuple(shape.values())[:3]], made)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the reads of each array's files, and of metadata, while it is entered."""
    found: Counter[str] = Counter()
    plain = LocalStore.get

    async def get(self: LocalStore, key: str, *arguments: Any, **named: Any) -> Any:
        found[key] += 1
        return await plain(self, key, *arguments, **named)

    LocalStore.get = get  # type: ignore[method-assign]
    try:
        yield found
    finally:
        LocalStore.get = plain  # type: ignore[method-assign]


def read_of(found: Counter[str]) -> dict[str, int]:
    """Return how many files of each kind of array were read, however often."""
    kinds: Counter[str] = Counter()
    for key in found:
        if "/c/" in key:
            kinds[key.split("/c/")[0].split("/", 2)[2 if key.startswith("plates") else 0]] += 1
        else:
            kinds["metadata"] += 1
    return dict(sorted(kinds.items()))


def forget(store: Store) -> None:
    """Drop the files of a store from the page cache, as far as the system does so."""
    for path in store.path.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure(store: Store, ask: Callable[[], Any], repetitions: int) -> dict[str, Any]:
    """Return the rows of an answer, what it reads, and its seconds."""
    ask()
    with counted() as found:
        rows = len(ask())
    forget(store)
    took = []
    for _ in range(1 + repetitions):
        start = time.perf_counter()
        ask()
        took.append(time.perf_counter() - start)
    return {
        "rows": rows,
        "files_read": read_of(found),
        "cold_s": round(took[0], 3),
        "warm_s": round(statistics.median(took[1:]), 3),
    }


def run(folder: Path, cells: int, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """Build a store of so many cells and ask it for one protein."""
    store = build(folder, cells)
    plates = store.attrs()["plates"]
    name = store.attrs("proteins")["coords"]["protein"][-1]
    softmax = [store.array(f"plates/{p}/predictions/tiny/probability") for p in plates]
    code = store.attrs("proteins")["coords"]["protein"].index(name)
    rows = [np.flatnonzero(store.read(f"plates/{p}/cells/protein") == code) for p in plates]
    command = [sys.executable, "-m", "bgscale.cli", "query", str(store.path), "--protein", name,
               "--changed", "--csv"]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    command_s = time.perf_counter() - start
    return {
        "cells": sum(array.shape[0] for array in softmax),
        "plates": len(plates),
        "proteins": len(store.attrs("proteins")["coords"]["protein"]),
        "softmax_shards": sum(-(-array.shape[0] // array.shards[0]) for array in softmax),
        "softmax_shards_of_the_protein": sum(len(np.unique(own // SHARD)) for own in rows),
        "cells_changed": measure(
            store, lambda: query.cells(store, protein=name, changed=True), repetitions
        ),
        "proteins_all_settings": measure(
            store, lambda: query.proteins(store, protein=name, setting=()), repetitions
        ),
        "command_s": round(command_s, 2),
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            **conditions(threads=1, seeds=[0]),
            "versions": versions(),
            **run(Path(folder), chosen.cells),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
