"""Segmentation of fields: speed, accuracy and memory beside a plain scikit-image pipeline.

    python benchmarks/segmentation.py [--data DATA] [--fields 12] [--json FILE] [--quick]

Simulated fields of 1024 x 1024 pixels with 150 clustered cells. Both methods see the same field one
after the other, in one process with one thread; reported are medians over fields, and the median of
the ratio of times within a field. F1 counts cells whose intersection over union with a true one is
above 0.5. Memory is the peak of a process of its own less what it took before the call.

The plain pipeline: Gaussian, Otsu's threshold, holes filled, distance transform, its peaks,
watershed, table of regions. Its smoothing and the distance of its peaks are those with the best F1
of a small grid on other fields, tried in the same run.

With DATA, a folder that holds ``yeast_fields`` (from BooneAndrewsLab/CycleNET), also three real
fields, beside that lab's own labels: a reference that merges mothers and buds, not the truth.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from machine import conditions, spread
from scipy import ndimage
from skimage import feature, filters, measure, segmentation
from threadpoolctl import threadpool_limits

from bgscale.fields.yeast import YeastSegmenter
from bgscale.simulate import CHANNELS, Field, ScreenSpec, simulate_field

SIGMAS_PX, PEAK_DISTANCES_PX = (1.5, 3.0), (7, 10, 12, 14)
SEGMENTER = YeastSegmenter()
REAL_PIXEL_UM = 0.2
PACKAGES = ("numpy", "scipy", "scikit-image", "opencv-python-headless")


def field_of(number: int, *, quick: bool) -> Field:
    spec = ScreenSpec(
        seed=number,
        cells_per_field=40 if quick else 150,
        field_size_px=512 if quick else 1024,
    )
    return simulate_field(spec, number % 40, 0)


def ours(image: np.ndarray) -> np.ndarray:
    spec = ScreenSpec()
    return SEGMENTER(image, channels=tuple(CHANNELS.values()), pixel_size_um=spec.pixel_size_um)


def plain(image: np.ndarray, sigma: float = 3.0, distance: int = 12) -> np.ndarray:
    cytosol = image[list(CHANNELS.values()).index("cytosol")]
    smooth = filters.gaussian(cytosol, sigma, preserve_range=True)
    mask = ndimage.binary_fill_holes(smooth > filters.threshold_otsu(smooth))
    depth = ndimage.distance_transform_edt(mask)
    peaks = feature.peak_local_max(depth, min_distance=distance, labels=mask.astype(np.int32))
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = segmentation.watershed(-depth, seeds, mask=mask)
    measure.regionprops_table(labels, properties=("label", "area", "centroid"))
    return labels


def f1(labels: np.ndarray, truth: np.ndarray) -> float:
    columns = int(truth.max()) + 1
    pairs = labels.ravel().astype(np.int64) * columns + truth.ravel()
    shared = np.bincount(pairs, minlength=(int(labels.max()) + 1) * columns).reshape(-1, columns)
    union = shared.sum(1)[1:, None] + shared.sum(0)[None, 1:] - shared[1:, 1:]
    matches = int((shared[1:, 1:] > 0.5 * union).sum())
    # the numbers of a reference may have gaps
    cells = np.count_nonzero(shared[1:].sum(1)) + np.count_nonzero(shared[:, 1:].sum(0))
    return 2 * matches / max(cells, 1)


def on_real_fields(folder: Path) -> dict[str, dict[str, float]]:
    """Return F1 and the overlap of what is cell at all, by field and their mean."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted((folder / "labels").glob("*_labeled.tiff")):
        name = path.name.removesuffix("_labeled.tiff")
        cytosol = tifffile.imread(folder / "images" / f"{name}-ch3sk1fk1fl1.tiff")
        reference = tifffile.imread(path).astype(np.int64)
        labels = SEGMENTER(cytosol[None], channels=("cytosol",), pixel_size_um=REAL_PIXEL_UM)
        both, either = (labels > 0) & (reference > 0), (labels > 0) | (reference > 0)
        overlap = both.sum() / either.sum()
        found[name] = {"f1": f1(labels, reference), "foreground iou": float(overlap)}
    means = {key: float(np.mean([row[key] for row in found.values()])) for key in found[name]}
    return {
        name: {key: round(value, 3) for key, value in row.items()}
        for name, row in {**found, "mean": means}.items()
    }


def peak_mib(method: str, image: np.ndarray) -> float:
    """Return what one call takes at most, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_mib, (method, image))


def _peak_mib(method: str, image: np.ndarray) -> float:
    cv2.setNumThreads(1)
    call: Callable[[np.ndarray], np.ndarray] = ours if method == "bgscale" else plain
    call(image[:, :64, :64])
    # sets the highest resident size back to the present one
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident_mib()
    call(image)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    highest = next(row for row in status.splitlines() if row.startswith("VmHWM"))
    return int(highest.split()[1]) / 1024 - before


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    labels = call()
    return 1e3 * (time.perf_counter() - start), labels


def best_settings(*, quick: bool) -> tuple[float, int]:
    others = [field_of(100 + number, quick=quick) for number in range(1 if quick else 3)]
    grid = [(sigma, distance) for sigma in SIGMAS_PX for distance in PEAK_DISTANCES_PX]
    return max(grid, key=lambda at: np.mean([f1(plain(f.image, *at), f.labels) for f in others]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with yeast_fields")
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="three small fields")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    threadpool_limits(1)
    sigma, distance = best_settings(quick=options.quick)
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "bgscale": ours,
        "scikit-image": lambda image: plain(image, sigma, distance),
    }
    rows: dict[str, dict[str, list[float]]] = {m: {"ms": [], "f1": []} for m in methods}
    for number in range(3 if options.quick else options.fields):
        field = field_of(number, quick=options.quick)
        for name, method in methods.items():
            if number == 0:
                method(field.image)
            ms, labels = timed(lambda image=field.image, method=method: method(image))
            rows[name]["ms"].append(ms)
            rows[name]["f1"].append(f1(labels, field.labels))
    times = [np.array(rows[name]["ms"]) for name in methods]
    report: dict[str, Any] = {
        "times faster": spread((times[1] / times[0]).tolist()),
        "methods": {
            name: {
                "ms": spread(found["ms"], 1),
                "f1": round(float(np.mean(found["f1"])), 4),
                "lowest f1": round(min(found["f1"]), 4),
                "peak MiB": round(peak_mib(name, field_of(0, quick=options.quick).image), 1),
            }
            for name, found in rows.items()
        },
        "plain pipeline": {"sigma_px": sigma, "peak_distance_px": distance},
        "fields": len(times[0]),
        "versions": {name: version(name) for name in PACKAGES},
    } | conditions(threads=1, seeds=[*range(len(times[0])), *range(100, 103)])
    print(f"{'':<14}{'ms':>8}{'F1':>8}{'lowest':>8}{'MiB':>8}")
    for name, found in report["methods"].items():
        print(
            f"{name:<14}{found['ms']['median']:>8.1f}{found['f1']:>8.3f}{found['lowest f1']:>8.3f}"
            f"{found['peak MiB']:>8.1f}"
        )
    print(f"times faster, within a field: {report['times faster']['median']:.1f}")
    if options.data:
        report["real fields"] = on_real_fields(options.data / "yeast_fields")
        for name, row in report["real fields"].items():
            print(f"{name:<14}  F1 {row['f1']:.3f}  foreground IoU {row['foreground iou']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
