"""Of the run config: the screen, its cells, and who lends backgrounds."""

from typing import Literal

from pydantic import Field

from bgscale.sections import Section


class ScreenSection(Section):
    """The input, plates or already cut crops, and its plate map. It is never written to."""

    path: str = Field(
        default="crops",
        min_length=1,
        description="OME-Zarr plates (one, a glob such as 'plates/*.zarr', or s3://...), or a "
        "folder or .zip with crops",
    )
    pattern: str = Field(
        default="",
        description="crops: how files are named: pci, pifia, bgscale, or a template such as "
        "'{protein}/{protein}_{field}_{cell}_{channel}.tif'; empty: found out",
    )
    plate_map: str = Field(
        default="platemap.csv",
        description="CSV: a row per plate and well, of crops per protein; empty where the class is "
        "the protein",
    )
    class_column: str = Field(
        default="localization",
        description="column of the plate map that is the class (several: 'cytoplasm;nucleus')",
    )
    protein: str = Field(
        default="gfp",
        description="channel of the tagged protein, as the files name it; of plates also its "
        "number, as '0'",
    )
    cytosol: str = Field(default="rfp", description="channel that shows whole cells; empty: none")
    nucleus: str = Field(default="", description="channel of the nuclei; empty: none")
    mask: str = Field(
        default="", description="crops: channel name of mask files; empty: cells are segmented"
    )
    time: int = Field(default=0, ge=0, description="plates: which time point")
    z: str = Field(
        default="max", description="plates: 'max' or 'mean' over z, 'middle', or a number as '0'"
    )
    pixel_size_um: float = Field(
        default=0.0, ge=0, description="micrometres a pixel; 0: as the plates say, or not known"
    )
    intensity_scaling: Literal["plate", "field", "none"] = Field(
        default="plate",
        description="'plate': images are camera counts; 'field': each field was scaled by itself, "
        "so intensity ranges are taken by field; 'none': donors keep their counts, as they must "
        "where strains are mixed in one well and a protein's range is not that of its neighbours",
    )
    proteins: tuple[str, ...] = Field(default=(), description="only these proteins; empty: all")
    limit: int = Field(
        default=0,
        ge=0,
        description="at most so many crops, or fields of plates, for a first look; 0: all",
    )


class CellSection(Section):
    """Plates: how cells are found in fields, and cut."""

    segmenter: str = Field(default="yeast", description="yeast, or a plug-in's name")
    options: dict[str, float | int | str | bool] = Field(
        default={}, description="the segmenter's own options, as { diameter_um = 5.0 }"
    )
    labels: str = Field(
        default="",
        description="label images of the plates to use instead, such as 'cells'; empty: segment",
    )
    write_labels: bool = Field(
        default=False, description="also write label images as OME-Zarr plates beside the store"
    )
    crop_size_px: int = Field(
        default=64, ge=16, le=512, multiple_of=2, description="side of a crop"
    )
    border_px: int = Field(
        default=1,
        ge=0,
        description="cells nearer than this to the border of their field are set aside: 1, those "
        "that it cuts; 0, none",
    )
    windows_per_field: int = Field(
        default=8, ge=0, le=64, description="cell-free windows of a field, at most"
    )
    margin_px: int = Field(
        default=8, ge=0, description="a cell-free window is at least so far from any cell"
    )


class DonorSection(Section):
    """The donor bank: the cells that lend their background."""

    per_class: int = Field(
        default=2000, ge=1, description="most donors of one class, at most equally many a protein"
    )
    windows_per_class: int = Field(
        default=2000, ge=1, description="cell-free windows of each class"
    )
    min_pool: int = Field(
        default=20, ge=1, description="fewer donors than this in a class is an error"
    )
    candidates: int = Field(
        default=32,
        ge=1,
        description="donors looked at for a cell, of which the one is taken whose own centre cell "
        "is covered best: what stays visible of it tells its class (experiment 1 looks at all); "
        "1: the first, as published",
    )
    per_field: int = Field(
        default=0,
        ge=0,
        description="most donors of one field; 0: twice an even share of its protein",
    )
    bank: int = Field(
        default=0,
        ge=0,
        description="which of the banks that could be drawn; with another one nothing should move "
        "that hangs on backgrounds in general, and not on those that happen to be in the bank",
    )
