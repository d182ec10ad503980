"""A report: seconds, bytes and peak memory, and how soon a browser shows it.

    python benchmarks/report.py [STORE] [--json report.json] [--proteins 60] [--montages 60]

Of a run store; without one, of a simulated screen of `--proteins` proteins, which is run first
with random weights, in some ten minutes on two cores. The report is written in a process of its
own: `peak_mb` is its peak memory, `imported_mb` that after its imports. The page is opened in
headless Chromium where there is one: `shown_s` is when the first text was there, `ready_s` when the
script was done.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

MB = 1e6
OPENINGS = 3


def simulated(folder: Path, proteins: int) -> Path:
    """Simulate a screen of so many proteins and run it; return its store."""
    from bgscale.config import RunConfig
    from bgscale.run import Run
    from bgscale.simulate import ScreenSpec, write_crops

    several, mixed = divmod(proteins, 15)
    spec = ScreenSpec(
        proteins_per_localization=several, mixed_proteins=mixed, fields_per_protein=2,
        cells_per_field=20, field_size_px=300,
    )  # fmt: skip
    screen = write_crops(spec, folder / "screen", zipped=True)
    section = {
        "path": str(screen / "crops.zip"), "plate_map": str(screen / "platemap.csv"),
        "mask": "mask", "pixel_size_um": spec.pixel_size_um,
    }  # fmt: skip
    values = {
        "store": str(folder / "results.zarr"), "screen": section, "models": {"tiny": {}},
        "classification": {"crops_per_class": 100}, "donors": {"windows_per_class": 100},
    }  # fmt: skip
    config = RunConfig.from_dict(values, origin="benchmark")
    Run.from_config(config).execute()
    return Path(config.store)


def peak_bytes() -> int:
    """Return the peak memory of this process (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def written(store: Path, out: Path, montages: int) -> dict[str, Any]:
    """Write the report in this process, which has done nothing else."""
    from bgscale.report import write

    imported = peak_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    write(store, out, montages=montages)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "imported_mb": round(imported / MB, 1),
        "peak_mb": round(peak_bytes() / MB, 1),
    }


def parts(page: Path) -> dict[str, float]:
    """Return the megabytes of each kind of part of a page."""
    text, sizes = page.read_text(encoding="utf-8"), Counter[str]()
    names = {"block": "numbers", "montage": "montages", "data": "names", "sample": "montages"}
    for found in re.finditer(r'<script[^>]*? id="([a-z]+)[^"]*"[^>]*>([^<]*)</script>', text):
        sizes[names.get(found[1], "script")] += len(found[2].encode())
    for found in re.finditer(r"<svg.*?</svg>", text, re.S):
        sizes["figures"] += len(found[0].encode())
    return {name: round(size / MB, 3) for name, size in sizes.items()}


def opened(page: Path) -> dict[str, float] | None:
    """Return how soon headless Chromium shows a page, the best of some; None: there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        return None
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        for argument in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(argument)
        with webdriver.Chrome(options=options, service=Service(driver)) as browser:
            found = []
            for _ in range(OPENINGS):
                browser.get("about:blank")
                started = time.perf_counter()
                browser.get(page.resolve().as_uri())
                WebDriverWait(browser, 60, poll_frequency=0.02).until(
                    lambda b: b.execute_script("return document.documentElement.dataset.ready")
                )
                ready = time.perf_counter() - started
                paint = "return performance.getEntriesByName('first-contentful-paint')[0]"
                shown = browser.execute_script(f"{paint}?.startTime ?? null")
                sort = (
                    "const t = performance.now(); document.querySelector("
                    "'#proteins th[data-sort=kl] button').click(); return performance.now() - t"
                )
                found.append((shown or 0.0, ready, browser.execute_script(sort)))
    shown, ready, sort_ms = (min(values) for values in zip(*found, strict=True))
    return {
        "shown_s": round(shown / 1000, 3),
        "ready_s": round(ready, 3),
        "sorted_s": round(sort_ms / 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--json", type=Path, default=Path("report.json"))
    parser.add_argument("--proteins", type=int, default=60)
    parser.add_argument("--montages", type=int, default=60)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        print(json.dumps(written(asked.store, asked.write, asked.montages)))
        return
    from machine import conditions

    from bgscale import open_results
    from bgscale.run import outcome, versions

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = asked.store or simulated(folder, asked.proteins)
        page = folder / "report.html"
        command = [sys.executable, __file__, str(store), "--montages", str(asked.montages)]
        done = subprocess.run(
            [*command, "--write", str(page)], check=True, capture_output=True, text=True
        )
        tree = open_results(store)
        config = tree.attrs["config"]
        result = {
            "proteins": tree["proteins"].sizes["protein"],
            "localizations": tree["proteins"].sizes["localization"],
            "cells": outcome(store).cells,
            "settings": len(config["settings"]),
            "models": len(config["models"]),
            "montages": asked.montages,
            "write": json.loads(done.stdout.splitlines()[-1]),
            "page_mb": round(page.stat().st_size / MB, 2),
            "parts_mb": parts(page),
            "browser": opened(page),
            **conditions(threads=1, seeds=[0]),
            "versions": versions(),
        }
    text = json.dumps(result, indent=1)
    asked.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
