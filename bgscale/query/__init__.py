"""Questions to a run store: which proteins, which of their cells, and what these look like.

Owns what a person asks after a run. The one idea: an answer is found in tables, and only the shards
that hold it are read; crops are composed again, as they never were stored.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgscale.query.composed import crops
    from bgscale.query.of_cells import cells
    from bgscale.query.of_proteins import proteins
    from bgscale.query.written import write_crops

__all__ = ["cells", "crops", "proteins", "write_crops"]

# a question to tables does not wait for torch, which the composition of crops loads
_IN = {
    "cells": "of_cells",
    "crops": "composed",
    "proteins": "of_proteins",
    "write_crops": "written",
}


def __getattr__(name: str) -> Any:
    if name in _IN:
        return getattr(importlib.import_module(f"bgscale.query.{_IN[name]}"), name)
    msg = f"module 'bgscale.query' has no attribute {name!r}"
    raise AttributeError(msg)
