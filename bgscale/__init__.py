"""Does a single-cell embedding read the neighbours? Background-swap tests for whole screens.

The names below are the public surface; they are loaded when they are first used, so that
``import bgscale`` and ``bgscale --help`` do not wait for torch, scikit-learn or matplotlib.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Run": "bgscale.run",
    "RunConfig": "bgscale.config",
    "Screen": "bgscale.screen",
    "connect": "bgscale.distribute.cluster",
    "load_model": "bgscale.models",
    "open_results": "bgscale.results",
    "open_screen": "bgscale.screen",
}
_MODULES = ("export", "plot", "report", "simulate", "table")

__all__ = [*_PUBLIC, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"bgscale.{name}")
    msg = f"module 'bgscale' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
