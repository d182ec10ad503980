"""The command line: few verbs around a run.toml. Logic lives in the library; this says it.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 failure; 2 bad usage or bad
input; 3 finished, with fields or cells that could not be used; 74 disk full; 75 stopped, run again.
"""

# in the order in which the commands are listed
from bgscale.cli import screens, runs, checks, answers, comparing, figures  # noqa: F401, I001
from bgscale.cli import exports, queries, reporting, models, weights  # noqa: F401
from bgscale.cli.root import main

__all__ = ["main"]
