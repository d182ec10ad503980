"""Which benchmarks there are, what each needs and takes, and how they are run one after another.

Each is a script of its own that goes without the suite, with ``--json``; its purpose is the first
line of its docstring. The suite starts it as a process, keeps what it printed and measured, and
goes on after one that fails. What is measured, and against whom, belongs to the scripts.
"""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
DATA, FOLDER, ENVIRONMENTS = "{data}", "{folder}", "{environments}"
"""Stand in arguments for the folder of data sets, a folder to work in, and one of environments."""
NOT_BENCHMARKS = {
    "__init__": "names the package",
    "__main__": "the command of the suite",
    "extraction_peer": "the peer's side of `extraction`, in the peer's environment",
    "invariance_simulated": "a part of `invariance`",
    "machine": "what the scripts say of the machine",
    "overview": "draws two figures of the README",
    "proteome": "makes a store of many proteins, for `report`",
    "slow_disk": "a part of `soak`",
    "soak_cluster": "a part of `soak`",
    "suite": "this list",
    "table": "the README's table",
}
"""The other modules of the folder, and why they are not run."""


@dataclass(frozen=True)
class Benchmark:
    """A script, and what the suite has to know of it.

    Parameters
    ----------
    name : str
        Of the script, without its suffix.
    takes : str
        About how long, in words, on two cores.
    arguments : tuple of str
        What it is always given.
    quick : tuple of str, optional
        What it is given to be done in seconds; None where it cannot be.
    with_data : tuple of str
        What it is given besides where there is a folder of data sets.
    needs : str
        In words, what it needs besides bgscale and its optional packages.
    environment : dict of str to str
        Variables that it wants set.
    committed : str
        Where its JSON is kept, from the repository's root; else beside the script.
    """

    name: str
    takes: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ("--quick",)
    with_data: tuple[str, ...] = ()
    needs: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    committed: str = ""

    @property
    def script(self) -> Path:
        """The script."""
        return HERE / f"{self.name}.py"

    @property
    def json(self) -> Path:
        """The JSON that is committed, whether or not it is there."""
        return REPOSITORY / (self.committed or f"benchmarks/{self.name}.json")

    @property
    def purpose(self) -> str:
        """The first line of the script's docstring."""
        text = ast.get_docstring(ast.parse(self.script.read_text(encoding="utf-8")))
        return (text or "").splitlines()[0]

    def wants_data(self) -> bool:
        """Whether it cannot be run without a folder of data sets."""
        return DATA in self.arguments


BENCHMARKS = (
    Benchmark("segmentation", "2 min", with_data=("--data", DATA)),
    Benchmark(
        "extraction", "5 min, and some to install", ("--environments", ENVIRONMENTS),
        quick=("--quick", "--without-peer"), needs="PyPI, to install scPortrait the first time",
    ),
    Benchmark("plate", "6 min"),
    Benchmark(
        "embedding", "10 min", quick=("--quick", "--models", "tiny"), needs="bgscale[openvino]"
    ),
    Benchmark("feeding", "2 min", quick=("--quick", "--models", "pifia")),
    Benchmark("precision", "20 min", with_data=("--data", DATA)),
    Benchmark("classification", "15 min"),
    Benchmark("proportions", "5 min"),
    Benchmark("cluster", "15 min"),
    Benchmark("calibration", "3 min"),
    Benchmark("query", "3 min", quick=("--cells", "15000")),
    Benchmark(
        "report", "10 min", quick=None,
        needs="a browser for a part of it; it makes its store, or takes one if run by itself",
    ),
    Benchmark("yeast_crops", "5 min", (DATA,), quick=None, needs="DATA/yeast_crops"),
    Benchmark("invariance", "1 h", (DATA, "--simulated"), quick=None, needs="DATA/yeast_crops"),
    Benchmark(
        "growth", "1 h, 35 GB", (FOLDER,), quick=None, environment={"OMP_NUM_THREADS": "1"},
    ),
    Benchmark(
        "rates", "10 min", (FOLDER,), quick=None, committed="bgscale/run/rates.json",
        environment={"OMP_NUM_THREADS": "1"},
    ),
    Benchmark(
        "limits", "10 min", (FOLDER,), quick=None, environment={"OMP_NUM_THREADS": "1"},
    ),
    Benchmark(
        "soak", "1 h", (FOLDER,), quick=("--hours", "0.02"), environment={"OMP_NUM_THREADS": "1"},
    ),
    Benchmark("second_bank", "20 min", (FOLDER,), environment={"OMP_NUM_THREADS": "1"}),
    Benchmark("whole_proteome", "30 min"),
)  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where a run of the suite finds and leaves things."""

    results: Path
    data: Path | None = None
    environments: Path | None = None


@dataclass(frozen=True)
class Ended:
    """How a benchmark ended; `skipped` says why it was not begun."""

    name: str
    code: int = 0
    seconds: float = 0.0
    skipped: str = ""


def command(benchmark: Benchmark, places: Places, *, quick: bool) -> list[str]:
    """Return the command of one benchmark."""
    arguments = [*benchmark.arguments] if not quick else [*(benchmark.quick or ())]
    if quick and FOLDER in benchmark.arguments:
        arguments = [FOLDER, *arguments]
    if places.data and not quick:
        arguments += benchmark.with_data
    work = places.results / benchmark.name
    environments = places.environments or places.results / "environments"
    stand = {DATA: str(places.data), FOLDER: str(work), ENVIRONMENTS: str(environments)}
    filled = [stand.get(argument, argument) for argument in arguments]
    output = places.results / f"{benchmark.name}.json"
    return [sys.executable, str(benchmark.script), *filled, "--json", str(output)]


def why_not(benchmark: Benchmark, places: Places, *, quick: bool) -> str:
    """Return why a benchmark cannot be run; empty where it can."""
    if quick and benchmark.quick is None:
        return "it has no quick run"
    if benchmark.wants_data() and places.data is None:
        return f"it needs {benchmark.needs}: --data DATA"
    return ""


def run(benchmarks: Sequence[Benchmark], places: Places, *, quick: bool) -> Iterator[Ended]:
    """Run benchmarks one after another, each in a process of its own; yield how each ended.

    Of each there are ``NAME.json`` and ``NAME.log``, with all that it printed, in
    `places.results`.
    """
    places.results.mkdir(parents=True, exist_ok=True)
    for benchmark in benchmarks:
        reason = why_not(benchmark, places, quick=quick)
        if reason:
            yield Ended(benchmark.name, skipped=reason)
            continue
        if FOLDER in benchmark.arguments:
            (places.results / benchmark.name).mkdir(exist_ok=True)
        started = time.perf_counter()
        with (places.results / f"{benchmark.name}.log").open("wb") as log:
            done = subprocess.run(
                command(benchmark, places, quick=quick),
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False,
                env=os.environ | benchmark.environment,
            )  # fmt: skip
        yield Ended(benchmark.name, done.returncode, time.perf_counter() - started)
