"""The command line: few verbs around a run.toml. Logic lives in the library; this says it.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 failure; 2 bad usage or bad
input; 3 finished, with fields or cells that could not be used; 74 disk full; 75 stopped, run again.
"""

from bgscale.cli import screens, runs, checks, answers, comparing, figures, exports, queries, reporting, models, weights  # noqa: F401, I001  the order of commands
from bgscale.cli.root import main

__all__ = ["main"]
