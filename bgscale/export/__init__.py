"""What other programs open: AnnData, Parquet, CSV, and OME-Zarr plates with labels and tables.

A run store is only read. Cells are streamed a shard at a time, so that memory does not grow with
the screen. What is exported appears at once and whole: it is written beside its place, and renamed.
`selection` owns which cells, `target` the place, the others a format each.
"""

from bgscale.export.annotated import to_anndata
from bgscale.export.plates import to_omezarr
from bgscale.export.profiles import to_parquet
from bgscale.export.selection import Selection, choose
from bgscale.export.tables import to_csv

__all__ = ["Selection", "choose", "to_anndata", "to_csv", "to_omezarr", "to_parquet"]
