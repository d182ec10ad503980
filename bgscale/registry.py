"""Name -> factory: one class for models, settings and segmenters.

Built-ins are given as dotted paths and imported when they are first asked for; other packages add
theirs through an entry-point group. A broken plug-in stays listed, and fails when it is used.
"""

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bgscale.errors import InputError, UnknownNameError, nearest


class Registry:
    """Names of one kind of thing, and where each comes from.

    Parameters
    ----------
    kind : str
        What the names stand for, as it is said in errors ("model").
    builtin : mapping of str to str
        Name -> "module:attribute".
    group : str, optional
        Entry-point group through which other packages add names.

    Examples
    --------
    >>> registry = Registry("function", {"sqrt": "math:sqrt"})
    >>> registry["sqrt"](9.0)
    3.0
    >>> registry["sqr"]
    Traceback (most recent call last):
    bgscale.errors.UnknownNameError: unknown function 'sqr' (did you mean 'sqrt'?); known: sqrt
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str | None = None) -> None:
        self.kind = kind
        self._paths: dict[str, str] = dict(builtin)
        self._group = group

    def _plugins(self) -> dict[str, EntryPoint]:
        return {e.name: e for e in entry_points(group=self._group)} if self._group else {}

    def __iter__(self) -> Iterator[str]:
        yield from self._paths
        yield from (name for name in sorted(self._plugins()) if name not in self._paths)

    def package(self, name: str) -> str:
        """Return which package a plug-in comes from; empty for what is built in."""
        plugin = None if name in self._paths else self._plugins().get(name)
        if plugin is None:
            return ""
        return plugin.dist.name if plugin.dist else plugin.value

    def __contains__(self, name: object) -> bool:
        return name in self._paths or name in self._plugins()

    def __getitem__(self, name: str) -> Any:
        if name in self._paths:
            module, _, attribute = self._paths[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        plugins = self._plugins()
        if name in plugins:
            try:
                return plugins[name].load()
            except Exception as error:
                msg = (
                    f"{self.kind} {name!r} comes from the plug-in {plugins[name].value!r}, which "
                    f"cannot be imported: {error!r}; repair or uninstall it"
                )
                raise InputError(msg) from error
        known = list(self)
        msg = f"unknown {self.kind} {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        raise UnknownNameError(msg)
