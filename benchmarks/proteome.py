"""A whole proteome, simulated and run: the store that the other benchmarks look at.

    python benchmarks/proteome.py FOLDER [--proteins 4000] [--cluster local]

Real wells of 15 localizations, one protein in ten with two or three, two fields of some 14 cells
each: found, cut, embedded by a `tiny` that was trained on them for three epochs, classified,
tested. With 4,000 proteins it needs about an hour of two cores and 20 GB; run again, it does what
is missing. Prints the seconds of each stage's units.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from bgscale import connect
from bgscale.config import RunConfig, template
from bgscale.demo import demo_screen, simulate
from bgscale.distribute.ledger import Ledger
from bgscale.progress import Narrator
from bgscale.run import Run, train_model
from bgscale.simulate.spec import SAME_STRAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--proteins", type=int, default=4000)
    parser.add_argument("--cluster", default="local")
    options = parser.parse_args()
    folder, mixed = options.folder, options.proteins // 10
    spec = replace(
        demo_screen(0, SAME_STRAIN),
        plates=max(options.proteins // 300, 1),
        proteins_per_localization=(options.proteins - mixed) // 15,
        mixed_proteins=mixed,
        fields_per_protein=2,
        cells_per_field=14,
        field_size_px=256,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config = RunConfig.from_dict(
        {
            "screen": {
                "path": "screen/plates", "plate_map": "screen/platemap.csv", "nucleus": "nuc"
            },
            "models": {"tiny": {"weights": "tiny.safetensors"}},
            "donors": {"per_class": 400, "windows_per_class": 200},
            "classification": {"crops_per_class": 200},
            "training": {"epochs": 3},
        },
        origin="benchmark",
    )  # fmt: skip
    (folder / "run.toml").write_text(template(config), encoding="utf-8")
    config = RunConfig.from_toml(folder / "run.toml")
    with Narrator.of_store(config.store) as narrator:
        simulate(spec, folder / "screen", narrator)
        with connect(options.cluster) as client:
            if not Path(config.models["tiny"].weights).exists():
                print(train_model(config, client, listener=narrator))
            print(Run.from_config(config).execute(client, listener=narrator))
    seconds: Counter[str] = Counter()
    ledger = Ledger(config.store)
    for unit in ledger.recorded():
        done = (ledger.record(unit) or {}).get("summary", {})
        seconds[unit.stage.partition("/")[0]] += done.get("seconds", 0.0)
    for stage, total in seconds.most_common():
        print(f"{stage:<16}{total:>10.1f} s")


if __name__ == "__main__":
    main()
