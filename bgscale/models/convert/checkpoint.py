"""TensorFlow checkpoints: found as users have them, and read by TensorFlow's own reader.

Owns the search for the files of one checkpoint and its `Source`. The one idea: TensorFlow is asked
for shapes and arrays by name and for nothing else; no graph is loaded, no code of a file runs.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

from bgscale.errors import InputError, nearest
from bgscale.models.convert.source import Source, by_number, variable

_SHARD = re.compile(r"(?P<stem>.+)\.data-(?P<i>\d{5})-of-(?P<n>\d{5})")
_SHOWN = 5


def find_prefix(path: Path) -> Path:
    """Return the prefix of the one checkpoint that a path means.

    Parameters
    ----------
    path : path
        The prefix, one of its files (.index, .meta, .data-00000-of-00001), or the folder of one
        checkpoint.

    Raises
    ------
    InputError
        There is none, or the folder holds several.
    """
    if path.is_dir():
        names = _prefixes(path)
        if len(names) == 1:
            return path / names.pop()
        found = sorted(names, key=by_number)
        shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        what = f"{len(found)} checkpoints ({shown}); name one" if found else "no checkpoint"
        msg = f"folder {path} holds {what}; expected the files of one (.index, .data-...)"
        raise InputError(msg)
    match = _SHARD.fullmatch(path.name)
    stem = match["stem"] if match else path.name.removesuffix(".index").removesuffix(".meta")
    prefix = path.with_name(stem)
    if not prefix.is_file() and not _index(prefix).is_file():
        msg = (
            f"no checkpoint {prefix}: expected {_index(prefix).name} and its data files"
            f"{nearest(stem, _prefixes(prefix.parent))}"
        )
        raise InputError(msg)
    return prefix


def open_checkpoint(prefix: Path, *, only_names: bool = False) -> Source:
    """Return what a checkpoint holds, of TensorFlow 1 or 2.

    Parameters
    ----------
    prefix : path
        From `find_prefix`.
    only_names : bool
        Do without the data files: names and shapes are in the index.

    Raises
    ------
    InputError
        A data file is missing, the checkpoint cannot be read, or TensorFlow is not installed.
    """
    # the older format has no index
    files = [_index(prefix)] if _index(prefix).is_file() else [prefix]
    if _index(prefix).is_file() and not only_names:
        files += _data_files(prefix)
    tf = _tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes: dict[str, list[int]] = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        msg = f"{prefix} cannot be read as a TensorFlow checkpoint ({_first_line(error)})"
        raise InputError(msg) from error

    def read(name: str) -> Any:
        try:
            return reader.get_tensor(name)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            msg = (
                f"checkpoint {prefix}: {name!r} cannot be read ({_first_line(error)}); the data "
                f"files are damaged, or of another checkpoint: get them again"
            )
            raise InputError(msg) from error

    # an index is sorted by name: it does not tell the order of the layers, but numbers may
    names = sorted(shapes, key=by_number)
    return Source(
        path=prefix,
        format="TensorFlow checkpoint",
        files=tuple(files),
        variables=tuple(variable(name, tuple(shapes[name])) for name in names),
        read=read,
    )


def _prefixes(folder: Path) -> set[str]:
    names = {p.name.removesuffix(".index") for p in folder.glob("*.index")}
    # the older format has no index: one file that is named as the prefix
    metas = {p.name.removesuffix(".meta") for p in folder.glob("*.meta")}
    return names | {name for name in metas if (folder / name).is_file()}


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _data_files(prefix: Path) -> list[Path]:
    found = {
        (int(match["i"]), int(match["n"])): path
        for path in prefix.parent.iterdir()
        if (match := _SHARD.fullmatch(path.name)) and match["stem"] == prefix.name
    }
    counts = {n for _, n in found}
    expected = f"{prefix.name}.data-00000-of-00001 (or more of them)"
    if len(counts) != 1:
        listed = ", ".join(sorted(one.name for one in found.values()))
        what = f"{listed} are of several" if found else "the data file is missing"
        msg = (
            f"checkpoint {prefix}: {what}; the index holds names and shapes only: expected "
            f"{expected} beside {_index(prefix).name}"
        )
        raise InputError(msg)
    count = counts.pop()
    missing = [
        f"{prefix.name}.data-{i:05}-of-{count:05}" for i in range(count) if (i, count) not in found
    ]
    if missing:
        msg = f"checkpoint {prefix}: a data file is missing: {', '.join(missing[:_SHOWN])}"
        raise InputError(msg)
    return [found[i, count] for i in range(count)]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _tensorflow() -> Any:
    # its start-up notes on oneDNN and missing GPUs tell nothing about a file that is read
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
    except ImportError as error:
        msg = (
            f"reading a TensorFlow checkpoint needs TensorFlow ({error}): pip install "
            f"'bgscale[weights]'"
        )
        raise InputError(msg) from error
    return tf
