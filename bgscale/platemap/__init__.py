"""The plate map: which protein is where, and which classes it has.

One CSV (or Parquet) row per protein, or per plate and well. Checked as a whole against the screen:
a wrong map is one clear error before anything is computed. A screen of crops knows its proteins by
their file names (`read_plate_map`); a plate knows its wells only, and the map says what is in each
(`read_well_map`). Both end as one `PlateMap`, by protein.
"""

from bgscale.platemap.proteins import PlateMap, protein_as_class, read_plate_map
from bgscale.platemap.table import SEPARATOR, SHOWN, read_table
from bgscale.platemap.wells import (
    WellMap,
    canonical_well,
    every_well,
    read_well_map,
    well_map_template,
)

__all__ = [
    "SEPARATOR",
    "SHOWN",
    "PlateMap",
    "WellMap",
    "canonical_well",
    "every_well",
    "protein_as_class",
    "read_plate_map",
    "read_table",
    "read_well_map",
    "well_map_template",
]
