"""The run store: a Zarr v3 hierarchy that xarray opens as a tree. OUTPUT; only this writes it."""

from bgscale.results.foreign import new_group
from bgscale.results.opening import location_of, open_results
from bgscale.results.store import INNER_CELLS, Store, rows_of

__all__ = ["INNER_CELLS", "Store", "location_of", "new_group", "open_results", "rows_of"]
