"""Figures of `bgscale.plot` as inline SVG: small, the same bytes each time, without inline styles.

Owns what it takes until matplotlib's SVG can stand in a page whose content policy allows no inline
style: properties become attributes, ids become unique, text stays text.
"""

import base64
import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context

from bgscale.errors import InputError
from bgscale.report.markup import Markup, tag

ON_SCREEN = 1.75
"""Pixels a point: letters of 7 points are read on paper at half the distance of a screen."""
BROAD = 500
"""Figures wider than this are not made smaller on a phone: they are moved sideways."""
PICTURE_DPI = 200
POINTS_PER_INCH = 72
_NO_SOFTWARE = {"Software": None}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_ID = re.compile(r"#([A-Za-z_][\w.-]*)")
_REFERENCE = re.compile(r'(?:href="|url\()#([^")]+)')
_FONT = re.compile(r"(?P<before>.*?)(?P<size>[\d.]+)px\s")
_WORDS = ("text", "tspan")
_DROPPED = {"metadata", "style"}
_HELD = ("stroke-linejoin", "stroke-linecap")


def inline(axes: Any, key: str) -> Markup:
    """Return the figure of some axes as an svg element.

    Parameters
    ----------
    axes : Axes or array of Axes
        As the functions of `bgscale.plot` return them.
    key : str
        Goes before the ids, so that they are those of this figure alone.
    """
    figure = np.ravel(axes)[0].get_figure(root=True)
    # a compressed drawing of numbers, not of letters: names stay text
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
    root = ElementTree.fromstring(text)
    _tidy(root, key, set(_REFERENCE.findall(text)))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    width, height = (ON_SCREEN * float(v) for v in root.attrib["viewBox"].split()[2:])
    kind = "plot" if width < BROAD else "plot broad"
    root.attrib |= {"class": kind, "role": "img", "width": f"{width:g}", "height": f"{height:g}"}
    root.attrib |= dict.fromkeys(_HELD[:1], "round") | dict.fromkeys(_HELD[1:], "butt")
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _tidy(element: ElementTree.Element, key: str, used: set[str]) -> None:
    """Take an element and all in it out of its namespace, and its styles into attributes.

    Of the ids only those are kept that something refers to: the others may stand there twice.
    """
    element.tag = element.tag.removeprefix(_SVG)
    attributes: dict[str, str] = {}
    for name, value in element.attrib.items():
        if name == "style":
            attributes |= _attributes(value)
        elif name == _LINK:
            attributes["href"] = value.replace("#", f"#{key}-", 1) if value[:1] == "#" else value
        elif name == "id":
            attributes |= {"id": f"{key}-{value}"} if value in used else {}
        elif not name.startswith("{"):
            attributes[name] = _ID.sub(rf"#{key}-\1", value) if "url(#" in value else value
    element.attrib.clear()
    element.attrib.update(attributes)
    if element.tag not in _WORDS and not (element.text or "").strip():
        element.text = None
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag.removeprefix(_SVG) in _DROPPED:
            element.remove(child)
        else:
            _tidy(child, key, used)
            if not (child.tail or "").strip():
                child.tail = None


def _attributes(style: str) -> dict[str, str]:
    """Return the declarations of a style as attributes; of a font its size and weight alone."""
    found = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            fits = _FONT.match(f"{value} ")
            if fits:
                found["font-size"] = fits["size"]
                found |= {"font-weight": "bold"} if re.search("bold|700", fits["before"]) else {}
                found |= {"font-style": "italic"} if "italic" in fits["before"] else {}
        elif name and name != "font-family":
            found[name] = value
    return found


def picture(axes: Any, title: str) -> Markup:
    """Return the figure of some axes as an img element, where its drawing would be too large."""
    figure = np.ravel(axes)[0].get_figure(root=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True, dpi=PICTURE_DPI, metadata=_NO_SOFTWARE)
    width, height = (round(ON_SCREEN * POINTS_PER_INCH * v) for v in figure.get_size_inches())
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    kind = "plot" if width < BROAD else "plot broad"
    return tag("img", src=source, alt=title, width=width, height=height, class_=kind,
               decoding="async")  # fmt: skip


def figure(
    key: str, title: str, caption: str, draw: Callable[[], Any], *, pixels: bool = False
) -> Markup:
    """Return a figure with its caption and a link to save it; where there is none, why.

    Parameters
    ----------
    key : str
        Of ids and of the file that is saved.
    title : str
        What is read to somebody who cannot see it.
    caption : str
    draw : callable
        Returns axes; an InputError says what is lacking.
    pixels : bool
        A picture instead of a drawing.
    """
    try:
        shown = picture(draw(), title) if pixels else inline(draw(), key)
    except InputError as error:
        return tag("p", f"{title}: not shown. {error}.", class_="absent")
    save = tag("button", "Save as SVG", type="button", class_="save", data_save=key, hidden=True)
    holder = tag("div", shown, class_="canvas drawing", tabindex="0", aria_label=title,
                 role="group")  # fmt: skip
    text = tag("figcaption", caption, None if pixels else [" ", save])
    return tag("figure", holder, text, id=f"fig-{key}")
