"""HTML out of words: an element is made by `tag`, and every text in it is escaped.

Owns the escaping, so that no name of a screen can ever become markup. The one idea: what is markup
already is of a type of its own, and only `tag` makes it.
"""

import json
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = ("br", "hr", "img", "meta", "input")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | Iterable[Child] | None"


def tag(name: str, *children: Child, **attributes: Any) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
    *children : str, Markup or iterables of them
        Text is escaped; None is left out.
    **attributes
        ``class_`` is ``class``, ``aria_label`` is ``aria-label``; True: the name alone; None and
        False: left out.

    Examples
    --------
    >>> tag("p", "a < b", tag("b", "c"), class_="note")
    '<p class="note">a &lt; b<b>c</b></p>'
    >>> tag("td", "<script>alert(1)</script>", title='"')
    '<td title="&quot;">&lt;script&gt;alert(1)&lt;/script&gt;</td>'
    """
    text = "".join(
        f" {_spelled(key)}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{text}>")
    return Markup(f"<{name}{text}>{join(children)}</{name}>")


def join(children: Child, between: str = "") -> Markup:
    """Return children one after the other, escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(escape(children, quote=False))
    return Markup(between.join(join(child) for child in children))


def data_block(values: Any, **attributes: Any) -> Markup:
    r"""Return JSON as a script element that nobody executes, and that no text in it can end.

    Examples
    --------
    >>> data_block({"name": "</script>"}, id="data")
    '<script type="application/json" id="data">{"name":"\\u003c/script\\u003e"}</script>'
    """
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character, spelled in _UNSAFE.items():
        text = text.replace(character, spelled)
    return tag("script", Markup(text), type="application/json", **attributes)


def _spelled(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
