"""OME-Zarr plates (NGFF 0.4 and 0.5): found, opened, read, and written; nothing else knows them."""

from bgscale.ngff.find import find_plates, is_plate
from bgscale.ngff.metadata import FieldRef, ImageInfo, Problem, well_name
from bgscale.ngff.read import Plate, open_plate
from bgscale.ngff.tables import write_table
from bgscale.ngff.write import create_plate, has_field, write_field, write_labels

__all__ = [
    "FieldRef",
    "ImageInfo",
    "Plate",
    "Problem",
    "create_plate",
    "find_plates",
    "has_field",
    "is_plate",
    "open_plate",
    "well_name",
    "write_field",
    "write_labels",
    "write_table",
]
