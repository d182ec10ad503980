"""Questions to a run store: which proteins, which of their cells, and what these look like.

Owns what a person asks after a run. The one idea: an answer is found in tables, and only the shards
that hold it are read; crops are composed again, as they never were stored.
"""

from bgscale.query.composed import crops
from bgscale.query.of_cells import cells
from bgscale.query.of_proteins import proteins
from bgscale.query.written import write_crops

__all__ = ["cells", "crops", "proteins", "write_crops"]
