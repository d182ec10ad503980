"""Where an export goes: written beside its place and renamed, so that it is there whole or not.

A folder that is replaced must be an export itself: it has a `bgscale_export.json`, which also says
where it comes from, or as AnnData its `uns["bgscale"]`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from bgscale.errors import InputError
from bgscale.places import is_remote, spelled

ABOUT = "bgscale_export.json"


def needed(package: str) -> ModuleType:
    """Return a package that not every installation has.

    Raises
    ------
    InputError
        It is not installed; how to install it is said.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError:
        msg = f"this export needs {package.partition('.')[0]}: pip install 'bgscale[export]'"
        raise InputError(msg) from None


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it."""
    return path == folder or folder in path.parents


def check_apart(out: str | Path, *inputs: str | Path) -> None:
    """Raise where an export would lie in what it is made from, or the other way round.

    Raises
    ------
    InputError
    """
    place = Path(spelled(out)).resolve()
    for name in inputs:
        if not is_remote(name):
            other = Path(spelled(name)).resolve()
            if is_below(place, other) or is_below(other, place):
                msg = f"{out} and {name} overlap: an input is never written to; choose another OUT"
                raise InputError(msg)


@contextmanager
def beside(out: str | Path, *, overwrite: bool, made: str = ABOUT) -> Iterator[Path]:
    """Yield a path beside `out` to write to; it gets the name `out` if nothing is raised.

    Parameters
    ----------
    out : path
    overwrite : bool
        Whether a file that is there, or a folder that an export made, is replaced.
    made : str
        What is in a folder that an export made.

    Raises
    ------
    InputError
        It is there and is not to be replaced, or there is no folder for it.
    """
    if is_remote(out):
        msg = (
            f"{spelled(out)}: exports are written to a folder of this machine; copy it there "
            "afterwards"
        )
        raise InputError(msg)
    place = Path(spelled(out))
    if not place.parent.is_dir():
        msg = f"{place}: there is no folder {place.parent}: make it first"
        raise InputError(msg)
    if place.exists() and not overwrite:
        msg = f"{place} is there: choose another OUT, or --overwrite it"
        raise InputError(msg)
    if place.is_dir() and not (place / made).exists() and any(place.iterdir()):
        msg = f"{place} is a folder that no export has made: choose another OUT, or remove it"
        raise InputError(msg)
    part = place.with_name(f".{place.name}.partial")
    _remove(part)
    try:
        yield part
        if place.is_dir():
            old = place.with_name(f".{place.name}.old")
            _remove(old)
            place.rename(old)
            part.rename(place)
            _remove(old)
        else:
            part.replace(place)
    finally:
        _remove(part)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Say in a folder where it comes from."""
    text = json.dumps(about, indent=1, allow_nan=False)
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
