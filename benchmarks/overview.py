"""The two pictures at the top of the README, from the store of `bgscale demo`.

    bgscale demo && python benchmarks/overview.py bgscale-demo/results.zarr

Writes ``benchmarks/figures/settings.png``, three cells under every setting, and
``benchmarks/figures/accuracies.png``, what the swaps do to the classification.
"""

import argparse
from pathlib import Path

import xarray as xr

from bgscale import open_results, plot

SHOWN = ("cell periphery", "nuclear periphery", "mitochondrion")
FIGURES = Path(__file__).parent / "figures"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path, help="run store of the demo")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    tree = open_results(options.store)
    few = tree["sample"].to_dataset(inherit=False).sel(localization=list(SHOWN))
    plot.save(plot.settings(xr.DataTree.from_dict({"sample": few})), options.out / "settings.png")
    (model,) = tree["evaluation"].children
    plot.save(plot.table(tree, model=model), options.out / "accuracies.png")


if __name__ == "__main__":
    main()
