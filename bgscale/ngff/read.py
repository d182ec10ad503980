"""A plate: which fields it has, what each holds, and its pixels. It is never written to.

Opening reads the plate's file and one file and one listing a well; what a field holds is read when
it is asked for. What is wrong with the plate as a whole is an `InputError`, with a well or field
that the metadata name a `Problem`, with the contents of a field a `FieldError` when it is read.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.errors import FieldError, InputError, nearest
from bgscale.ngff.arrays import ArrayInfo, array_v2, array_v3, check_array
from bgscale.ngff.checked import wrong
from bgscale.ngff.documents import ARRAY_FILE, GROUP_FILE, json_of, ome_of, read_root, within
from bgscale.ngff.files import files_at
from bgscale.ngff.metadata import (
    FieldRef,
    ImageInfo,
    Multiscale,
    Problem,
    channel_names,
    label_names,
    multiscale,
    ome_attributes,
    plate_wells,
)
from bgscale.ngff.pixels import Planes
from bgscale.ngff.wells import list_fields
from bgscale.schema import Reason

KEPT_FIELDS = 256
"""Fields, of all plates that a process reads, whose metadata are kept: some 8 kB each."""
LARGEST_LABEL = 2**31 - 1


@dataclass(frozen=True)
class _Image:
    """The metadata of an image or label image, and of its array at full resolution."""

    scales: Multiscale
    array: ArrayInfo
    path: str
    channels: tuple[str, ...]


class Plate:
    """An OME-Zarr plate, for reading.

    It can be pickled: another process has the same fields without reading the metadata again.

    Parameters
    ----------
    location : str
        A folder, or s3://bucket/prefix.
    version : str
        "0.4" for Zarr v2 (and all versions before), "0.5" for Zarr v3.
    fields : tuple of FieldRef
        Those that are there, by row, column and field.
    problems : tuple of Problem
        Wells and fields that the metadata name and that are not among `fields`.
    """

    def __init__(
        self,
        location: str,
        version: str,
        fields: tuple[FieldRef, ...],
        problems: tuple[Problem, ...],
    ) -> None:
        self.location = location
        self.version = version
        self.fields = fields
        self.problems = problems
        self._files = files_at(location)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Plate, (self.location, self.version, self.fields, self.problems))

    def __repr__(self) -> str:
        return f"<Plate {self.name!r}: {len(self.fields)} fields, OME-Zarr {self.version}>"

    @property
    def name(self) -> str:
        """Name of its folder, without ".zarr" or ".ome.zarr"."""
        return plate_name(self.location)

    def image(self, ref: FieldRef) -> ImageInfo:
        """Return what a field holds, from its metadata alone.

        Raises
        ------
        FieldError
            METADATA, LABELS, TOO_LARGE or UNREADABLE.
        """
        image, labels = _image_of(self, ref.path), _labels_of(self, ref.path)
        return ImageInfo(
            image.scales.axes,
            image.array.shape,
            image.array.dtype.newbyteorder("="),
            image.channels,
            image.scales.pixel_size_um,
            labels,
            len(image.scales.datasets),
            image.path,
        )

    def channel_indices(self, ref: FieldRef, names: Sequence[str | int]) -> list[int]:
        """Return the places of channels along their axis.

        Parameters
        ----------
        ref : FieldRef
        names : sequence of str or int
            A name as written, or else whatever its case; or an index, from 0.

        Raises
        ------
        FieldError
            MISSING_CHANNEL: no such channel, or more than one of the name.
        """
        image = _image_of(self, ref.path)
        count = dict(zip(image.scales.axes, image.array.shape, strict=True)).get("c", 1)
        return [_channel(str(ref), image.channels, count, name) for name in names]

    def read(
        self,
        ref: FieldRef,
        *,
        channels: Sequence[str | int],
        time: int = 0,
        z: str | int = "max",
    ) -> npt.NDArray[Any]:
        """Read channels of a field at full resolution.

        Parameters
        ----------
        ref : FieldRef
        channels : sequence of str or int
            Names or indices; the result has them in this order.
        time : int
        z : {"max", "mean", "middle"} or int
            How a stack becomes a plane; a mean of integers is rounded.

        Returns
        -------
        array (channel, y, x)
            Of the stored dtype.

        Raises
        ------
        FieldError
            What `image` and `channel_indices` raise; MISSING_CHUNKS, UNREADABLE; WRONG_SHAPE where
            there is no such time or z.
        """
        indices = self.channel_indices(ref, channels)
        image = _image_of(self, ref.path)
        planes = Planes(self._files, image.path, image.array, image.scales.axes, strict=True)
        return within(str(ref), lambda: planes.read(indices, time=time, z=z))

    def read_labels(
        self,
        ref: FieldRef,
        name: str,
        *,
        shape: tuple[int, int],
        time: int = 0,
        z: str | int = "max",
    ) -> npt.NDArray[np.int32]:
        """Read a label image at full resolution; chunks that are not there are without labels.

        Parameters
        ----------
        ref : FieldRef
        name : str
        shape : (int, int)
            y and x of the image.
        time : int
            Of a label image without times it is the only one.
        z : {"max", "mean", "middle"} or int
            As for the image; labels have no mean: of a stack the largest is taken instead.

        Returns
        -------
        array (y, x), int32

        Raises
        ------
        FieldError
            LABELS: there is no such label image, or it is not of integers, not of this shape, has
            several channels, or labels below 0 or beyond int32; UNREADABLE where it is damaged.
        """
        where = f"{ref}, labels {name!r}"
        known = _labels_of(self, ref.path)
        if name not in known:
            listed = ", ".join(known) or "none"
            msg = f"{where}: no such label image{nearest(name, known)}; there are: {listed}"
            raise FieldError(Reason.LABELS, msg)
        try:
            label = _image_of(self, f"{ref.path}/labels/{name}", labels=True)
        except FieldError as error:
            raise _as_labels(error) from None
        planes = Planes(self._files, label.path, label.array, label.scales.axes, strict=False)
        found = planes.length("y"), planes.length("x")
        if label.array.dtype.kind not in "ui" or found != tuple(shape) or planes.length("c") > 1:
            msg = (
                f"{where}: got {found[0]}x{found[1]} {label.array.dtype.name}, "
                f"{planes.length('c')} channels; expected {shape[0]}x{shape[1]} of integers"
            )
            raise FieldError(Reason.LABELS, msg)
        time = time if "t" in label.scales.axes else 0
        z = 0 if planes.length("z") == 1 else ("max" if z == "mean" else z)
        plane = within(where, lambda: planes.read([0], time=time, z=z))[0]
        low, high = int(plane.min()), int(plane.max())
        if low < 0 or high > LARGEST_LABEL:
            msg = f"{where}: labels from {low} to {high}; expected 0 to {LARGEST_LABEL}"
            raise FieldError(Reason.LABELS, msg)
        return np.asarray(plane, np.int32)

    def _image(self, path: str, *, labels: bool = False) -> _Image:
        """Read the metadata of an image or label image."""
        where = f"{self.name}/{path}"
        ome = ome_of(self._files, path, self.version, where)
        scales = within(where, lambda: multiscale(ome))
        place = f"{path}/{scales.datasets[0]}"
        document = json_of(self._files, f"{place}/{ARRAY_FILE[self.version]}", where)
        if document is None:
            msg = f"{where}: there is no array {scales.datasets[0]!r}, which its metadata name"
            raise wrong(msg)
        parse = array_v2 if self.version == "0.4" else array_v3
        array = within(f"{self.name}/{place}", lambda: parse(document))
        within(f"{self.name}/{place}", lambda: check_array(array, scales.axes, scales.named))
        count = dict(zip(scales.axes, array.shape, strict=True)).get("c")
        channels = () if labels else within(where, lambda: channel_names(ome, count))
        return _Image(scales, array, place, channels)

    def _label_names(self, path: str) -> tuple[str, ...]:
        where = f"{self.name}/{path}/labels"
        try:
            key = f"{path}/labels/{GROUP_FILE[self.version]}"
            document = json_of(self._files, key, where)
            if document is None:
                return ()
            return within(where, lambda: label_names(ome_attributes(document, self.version)))
        except FieldError as error:
            raise _as_labels(error) from None


@lru_cache(maxsize=KEPT_FIELDS)
def _image_of(plate: Plate, path: str, *, labels: bool = False) -> _Image:
    return plate._image(path, labels=labels)


@lru_cache(maxsize=KEPT_FIELDS)
def _labels_of(plate: Plate, path: str) -> tuple[str, ...]:
    return plate._label_names(path)


def plate_name(location: str) -> str:
    """Return the name of a plate.

    Examples
    --------
    >>> plate_name("data/P1.ome.zarr/"), plate_name("s3://bucket/run/P2.zarr")
    ('P1', 'P2')
    """
    last = location.rstrip("/").rsplit("/", 1)[-1]
    return last.removesuffix(".zarr").removesuffix(".ome") or last


def open_plate(location: str | Path) -> Plate:
    """Open an OME-Zarr plate, version 0.4 or 0.5.

    Parameters
    ----------
    location : str or path
        Its folder, or s3://bucket/prefix; then endpoint and credentials are those of the AWS_*
        variables of the environment.

    Returns
    -------
    Plate

    Raises
    ------
    InputError
        There is no plate, or its metadata are wrong as a whole.
    """
    place = _absolute(location)
    files = files_at(place)
    found = read_root(files, place)
    if found is None:
        msg = f"{place} is no OME-Zarr: it has neither zarr.json nor .zattrs"
        raise InputError(msg)
    version, document = found
    try:
        entries = plate_wells(ome_attributes(document, version))
    except FieldError as error:
        msg = f"{place} is no OME-Zarr plate that can be read: {error}"
        raise InputError(msg) from None
    fields, problems = list_fields(files, version, plate_name(place), entries)
    return Plate(place, version, fields, problems)


def _absolute(location: str | Path) -> str:
    """Return a location that another process with another working folder finds too."""
    text = str(location)
    return text if "://" in text else os.path.abspath(text)  # noqa: PTH100  ".." goes, links stay


def _as_labels(error: FieldError) -> FieldError:
    return FieldError(Reason.LABELS, str(error)) if error.reason == Reason.METADATA else error


def _channel(where: str, channels: Sequence[str], count: int, name: str | int) -> int:
    if isinstance(name, int):
        if 0 <= name < count:
            return name
        msg = f"{where} has no channel {name}: there are {count}, from 0"
        raise FieldError(Reason.MISSING_CHANNEL, msg)
    found = [i for i, channel in enumerate(channels) if channel == name and name]
    if not found:
        folded = name.casefold()
        found = [i for i, c in enumerate(channels) if c.casefold() == folded and name]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(c or f"(unnamed {i})" for i, c in enumerate(channels[:16])) or "none named"
    fault = f"{len(found)} channels called" if found else "no channel"
    msg = f"{where} has {fault} {name!r}{nearest(name, channels)}; it has: {listed}; name an index"
    raise FieldError(Reason.MISSING_CHANNEL, msg)
