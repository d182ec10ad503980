"""The archive of a torch.export program (.pt2), read as data.

Owns the archive: which files may be in it, the description of the graph, weights and constants from
raw bytes. Refuses pickle in any form, compiled code and compressed files. The one idea: the parts
of the archive that are data are read here by name, and the parts that are code are never opened.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bgscale.errors import InputError

SCHEMA_MAJOR = 8
"""Version of the description of programs; torch 2.13 writes it."""

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
STRIDED = 7
_CODE = ("data/aotinductor/", "data/executorch/", "data/mtia")
_OLD = ("serialized_exported_program.json", "serialized_state_dict.pt")
_SAVE_AGAIN = (
    "load it where you trust it, and save it again with torch.export.save of a newer torch "
    "(2.13 was tried)"
)


@dataclass(frozen=True)
class Archive:
    """What a .pt2 file holds: the graph and its signature, and tensors by name."""

    module: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read_archive(data: bytes, where: str) -> Archive:
    """Return what a .pt2 file holds.

    Raises
    ------
    InputError
        No such archive, or one that needs pickle or compiled code.
    """
    members = _members(data, where)
    name = _only_model(members, where)
    program = json.loads(members[f"models/{name}.json"])
    major = program["schema_version"]["major"]
    if major != SCHEMA_MAJOR:
        msg = f"program {where}: version {major} of the format; known is {SCHEMA_MAJOR}"
        raise InputError(msg)
    tensors = _tensors(members, "weights", name, where)
    tensors |= _tensors(members, "constants", name, where)
    return Archive(program["graph_module"], tensors)


def _members(data: bytes, where: str) -> dict[str, bytes]:
    """Return the archive's files by their names below its one folder, without the pickles."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        names = ["/".join(info.filename.split("/")[1:]) for info in infos]
        if len(set(names)) != len(names):
            msg = f"program {where}: two files of one name in it"
            raise InputError(msg)
        old = [name for info in infos if (name := info.filename.split("/")[-1]) in _OLD]
        if old or "archive_format" not in names:
            what = "of an early torch, with pickled weights" if old else "no archive_format in it"
            msg = (
                f"program {where}: not a torch.export program that can be read ({what}); "
                f"{_SAVE_AGAIN}"
            )
            raise InputError(msg)
        code = [name for name in names if name.startswith(_CODE)]
        if code:
            msg = f"program {where} holds compiled code ({code[0]}), which bgscale does not run"
            raise InputError(msg)
        packed = [i.filename for i in infos if i.compress_type != zipfile.ZIP_STORED]
        if packed:
            msg = f"program {where}: {packed[0]} is compressed; torch.export.save never does that"
            raise InputError(msg)
        wanted = ("models/", "data/weights/", "data/constants/", "archive_")
        return {
            name: archive.read(info)
            for name, info in zip(names, infos, strict=True)
            if name.startswith(wanted)
        }


def _only_model(members: Mapping[str, bytes], where: str) -> str:
    found = [m.group(1) for n in members if (m := re.fullmatch(r"models/([^/]+)\.json", n))]
    if len(found) != 1:
        msg = f"program {where} holds {len(found)} programs ({', '.join(found)}); expected one"
        raise InputError(msg)
    if f"data/weights/{found[0]}.pt" in members or f"data/constants/{found[0]}.pt" in members:
        msg = f"program {where} has pickled weights; {_SAVE_AGAIN}"
        raise InputError(msg)
    return found[0]


def _tensors(members: Mapping[str, bytes], kind: str, name: str, where: str) -> dict[str, Tensor]:
    """Return the weights or the constants by their names, from raw bytes."""
    listed = json.loads(members[f"data/{kind}/{name}_{kind}_config.json"])["config"]
    tensors = {}
    for key, payload in listed.items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None:
            msg = (
                f"program {where}: {key} is pickled, which bgscale never opens: plain tensors only"
            )
            raise InputError(msg)
        raw, dtype = members[f"data/{kind}/{payload['path_name']}"], DTYPES[meta["dtype"]]
        if meta["layout"] != STRIDED:
            msg = f"program {where}: {key} is not a dense tensor"
            raise InputError(msg)
        size = [int(s["as_int"]) for s in meta["sizes"]]
        # a stride of 0 could make a tensor of any size out of one number
        if math.prod(size) * dtype.itemsize > len(raw):
            msg = f"program {where}: {key} is larger than its bytes"
            raise InputError(msg)
        if raw:
            flat = torch.frombuffer(bytearray(raw), dtype=dtype)
            stride = [int(s["as_int"]) for s in meta["strides"]]
            tensor = flat.as_strided(size, stride, int(meta["storage_offset"]["as_int"]))
        else:
            tensor = torch.zeros(size, dtype=dtype)
        tensors[key] = tensor
    return tensors
